"""One run: a real Trainer, a real callback, and what is measured on the way."""

import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.seed import isolate_rng
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from typing_extensions import override

from _table.method import Method, Run, described, description
from _table.methods import ALL_METHODS
from _table.quiet import quiet_trainer
from _table.tasks import Batches, Parts, Recipe, Task, unchanged
from lightning_alignprune import DynamicPruningCallback, StaticSubset
from lightning_alignprune.coreset import CoresetRun
from lightning_alignprune.functional import Calibrator, calibrate
from lightning_alignprune.models import Classifier, OptimizerConfig, ScheduleConfig

_EVAL_BATCH = 2048
_AVERAGED_EPOCHS = 5
_WARMUP_SHARE = 0.2  # 10 to 30 of 200 epochs in the papers, which are longer


class Averaged(pl.Callback):
    """Keep an exponential moving average of the network, to be measured in its place."""

    network: AveragedModel

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        horizon = _AVERAGED_EPOCHS * int(trainer.num_training_batches)
        average = get_ema_multi_avg_fn(1 - 1 / horizon)  # type: ignore[no-untyped-call]
        network: Any = pl_module.network
        self.network = AveragedModel(network, multi_avg_fn=average, use_buffers=True)

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any
    ) -> None:
        network: Any = pl_module.network
        self.network.update_parameters(network)


class Measure(pl.Callback):
    """Follow the reference loss, and look at the test set where a number of the table needs it.

    Test accuracy decides nothing. It is computed at the end, of the last weights and of those with
    the lowest reference loss.
    """

    def __init__(
        self,
        parts: Parts,
        pruning: DynamicPruningCallback | None,
        bar: Any,
        averaged: Averaged | None = None,
    ) -> None:
        self.parts, self.pruning, self.bar, self.averaged = parts, pruning, bar, averaged
        self.reference_losses: list[float] = []
        self.best_epoch, self.best_accuracy, self.last_accuracy = -1, 0.0, 0.0
        self.calibrated_accuracy: float | None = None
        self.num_trained = self.batch_size = 0
        self.scores: Tensor | None = None
        self.kept: Tensor | None = None
        self._best: dict[str, Tensor] = {}

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        pl_module.register_forward_hook(self._note_size)

    def _note_size(self, module: nn.Module, inputs: Any, logits: Tensor) -> None:
        """Note how many samples are trained: of a batch that may be a part."""
        if module.training and torch.is_grad_enabled():
            self.batch_size = len(logits)

    @override
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.pruning is None or trainer.current_epoch == 0:
            return
        decision = self.pruning.decision
        if decision.scores is not None:  # an epoch that the policy chose, not the finish
            everyone = torch.ones_like(self.parts.is_wrong)
            self.kept = decision.selection.kept.cpu() if decision.selection else everyone
            self.scores = decision.scores.cpu()

    @override
    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        self.num_trained += self.batch_size

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        loss, _, logits = self._evaluate(trainer, pl_module, self.parts.reference)
        if not self.reference_losses or loss < min(self.reference_losses):
            self.best_epoch = trainer.current_epoch
            state = self._measured(pl_module).state_dict()
            self._best = {name: value.clone() for name, value in state.items()}
        self.reference_losses.append(loss)
        if trainer.current_epoch + 1 == trainer.max_epochs:
            found = calibrate(logits, self.parts.reference.labels)
            self._test(trainer, pl_module, found.calibrator)
        self.bar.update()

    def _test(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, calibrator: Calibrator
    ) -> None:
        _, self.last_accuracy, logits = self._evaluate(trainer, pl_module, self.parts.test)
        correct = calibrator(logits).argmax(1) == self.parts.test.labels
        self.calibrated_accuracy = 100 * correct.float().mean().item()
        module = self._measured(pl_module)
        last = {name: value.clone() for name, value in module.state_dict().items()}
        module.load_state_dict(self._best)
        _, self.best_accuracy, _ = self._evaluate(trainer, pl_module, self.parts.test)
        module.load_state_dict(last)

    def _measured(self, pl_module: pl.LightningModule) -> nn.Module:
        return pl_module if self.averaged is None else self.averaged.network

    def _evaluate(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, data: Batches
    ) -> tuple[float, float, Tensor]:
        """Return mean loss, accuracy in percent, and logits."""
        module = self._measured(pl_module)
        was_training = module.training
        module.eval()
        loss, correct, every = 0.0, 0, []
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            for rows in torch.arange(len(data)).split(_EVAL_BATCH):
                inputs, labels = data.__getitems__(rows)  # type: ignore[arg-type]
                logits = module(inputs).float()
                every.append(logits)
                loss += F.cross_entropy(logits, labels, reduction="sum").item()
                correct += int((logits.argmax(1) == labels).sum())
        module.train(was_training)
        return loss / len(data), 100 * correct / len(data), torch.cat(every)

    def results(self, method: Method, epochs: int) -> dict[str, Any]:
        """Collect the numbers of the table; None where one is not defined."""
        is_wrong, num_wrong = self.parts.is_wrong, int(self.parts.is_wrong.sum())
        values: dict[str, Any] = {
            "accuracy_last": self.last_accuracy,
            "accuracy_best_reference": self.best_accuracy,
            "accuracy_calibrated": self.calibrated_accuracy,
            "best_reference_epoch": self.best_epoch,
            "best_reference_loss": min(self.reference_losses),
            "last_reference_loss": self.reference_losses[-1],
            "passes": self.num_trained / (epochs * len(is_wrong)),
            "noise_rate": num_wrong / len(is_wrong),
            "auroc": None,
            "right_kept": None,
            "wrong_among_kept": None,
        }
        if self.pruning is not None and self.pruning.in_batch is not None:
            return values  # which samples an epoch keeps is decided in its batches
        kept = torch.ones_like(is_wrong) if self.kept is None else self.kept
        values["right_kept"] = (kept & ~is_wrong).sum().item() / (len(is_wrong) - num_wrong)
        if num_wrong:
            values["wrong_among_kept"] = is_wrong[kept].float().mean().item()
        if num_wrong and self.scores is not None and method.is_scored:
            defined = ~self.scores.isnan()
            if len(is_wrong[defined].unique()) == 2:
                values["auroc"] = float(roc_auc_score(~is_wrong[defined], self.scores[defined]))
        return values


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    return {name: version(name) for name in ("torch", "lightning", "lightning-alignprune")}


class _WithLoss(Classifier):
    """A classifier with another loss than cross-entropy."""

    loss: nn.Module

    @override
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        inputs, labels = batch
        loss: Tensor = self.loss(self(inputs), labels)
        return loss


def new_module(task: Task, recipe: Recipe, seed: int, loss: nn.Module | None = None) -> Classifier:
    """Return the network as it is before training; a seed gives all rows the same weights."""
    pl.seed_everything(seed, verbose=False)
    optimizer = OptimizerConfig(
        "sgd",
        lr=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        momentum=recipe.momentum,
    )
    schedule = ScheduleConfig(recipe.schedule)
    kind = Classifier if loss is None else _WithLoss
    module = kind(task.network(), task.num_classes, optimizer=optimizer, schedule=schedule)
    if loss is not None:
        module.loss = loss
    return module


def warmup_epochs(epochs: int) -> int:
    """Return how long a coreset method may look."""
    return max(2, round(_WARMUP_SHARE * epochs))


def _chosen(
    method: Method,
    module: Classifier,
    loader: DataLoader[Any],
    kept: float,
    make_trainer: Callable[..., pl.Trainer],
    epochs: int,
) -> tuple[DynamicPruningCallback, dict[str, Any]]:
    """Warm up a copy of the module and choose a coreset; return its callback and its settings."""
    assert method.coreset is not None
    num_epochs = warmup_epochs(epochs)
    with TemporaryDirectory() as folder, isolate_rng():
        chooser = method.coreset(num_epochs)
        run = CoresetRun(chooser, kept, num_epochs, Path(folder) / "kept.npy")
        indices = run.choose(module, loader, make_trainer)
    callback = DynamicPruningCallback("LastLoss", StaticSubset(indices=indices.tolist()))
    return callback, {"coreset": described(chooser), "warmup_epochs": num_epochs}


def train(task: Task, recipe: Recipe, parts: Parts, run: Run, bar: Any) -> dict[str, Any]:
    """Train one row with one seed.

    Returns:
        The method's settings, the wall seconds of the fit, and the numbers of the table.
    """
    method = ALL_METHODS[run.method]
    loss = method.loss and method.loss(len(parts.train), task.num_classes)
    module = new_module(task, recipe, run.seed, loss)
    loader: DataLoader[Any] = DataLoader(
        parts.reference if method.on_reference else parts.train,
        batch_size=recipe.batch_size,
        shuffle=True,
        collate_fn=unchanged,
    )
    epochs = method.epochs(recipe.epochs, run.pruned)
    averaged = Averaged() if method.averages_weights else None

    def make_trainer(max_epochs: int, *callbacks: pl.Callback | None) -> pl.Trainer:
        given = [each for each in callbacks if each is not None]
        precision = recipe.precision
        return quiet_trainer(max_epochs, given, precision=precision, limit_val_batches=0)

    started = time.perf_counter()
    settings: dict[str, Any] = {} if loss is None else {"loss": described(loss)}
    if averaged is not None:
        settings["averaged_epochs"] = _AVERAGED_EPOCHS
    if method.coreset is None:
        pruning = method.callback(parts, run.pruned)
    else:
        kept = 1 - (run.pruned or 0.5)
        pruning, settings = _chosen(method, module, loader, kept, make_trainer, recipe.epochs)
    measure = Measure(parts, pruning, bar, averaged)
    make_trainer(epochs, pruning, averaged, measure).fit(module, loader)
    seconds = time.perf_counter() - started
    results = measure.results(method, recipe.epochs)
    if method.coreset is not None:
        results["warmup_passes"] = settings["warmup_epochs"] / recipe.epochs
    made = description(pruning)
    return {
        "settings": made if not settings else {**(made or {}), **settings},
        "versions": versions(),
        "seconds": round(seconds, 2),
        "epochs": epochs,
        **results,
    }
