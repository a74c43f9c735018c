"""One run: a real Trainer, a real callback, and what is measured on the way."""

import time
from importlib.metadata import version
from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.utils.data import DataLoader
from typing_extensions import override

from _table.methods import ALL_METHODS, ON_REFERENCE, WITHOUT_SCORE, description
from _table.quiet import quiet_trainer
from _table.tasks import Batches, Parts, Recipe, Task, unchanged
from lightning_alignprune import DynamicPruningCallback
from lightning_alignprune.functional import calibrate
from lightning_alignprune.models import Classifier, OptimizerConfig, ScheduleConfig

_EVAL_BATCH = 2048


class Measure(pl.Callback):
    """Follow the reference loss, and look at the test set where a number of the table needs it.

    Test accuracy is computed at the epochs of a new lowest reference loss and at the last epoch,
    and decides nothing.
    """

    def __init__(self, parts: Parts, pruning: DynamicPruningCallback | None, bar: Any) -> None:
        self.parts, self.pruning, self.bar = parts, pruning, bar
        self.reference_losses: list[float] = []
        self.best_epoch, self.best_accuracy, self.last_accuracy = -1, 0.0, 0.0
        self.calibrated_accuracy: float | None = None
        self.num_trained = 0
        self.scores: Tensor | None = None
        self.kept: Tensor | None = None

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
        self.num_trained += len(batch[1])

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        loss, _, logits = self._evaluate(trainer, pl_module, self.parts.reference)
        is_best = not self.reference_losses or loss < min(self.reference_losses)
        is_last = trainer.current_epoch + 1 == trainer.max_epochs
        self.reference_losses.append(loss)
        if is_best or is_last:
            _, accuracy, test_logits = self._evaluate(trainer, pl_module, self.parts.test)
            self.last_accuracy = accuracy
            if is_last:
                found = calibrate(logits, self.parts.reference.labels)
                correct = found.calibrator(test_logits).argmax(1) == self.parts.test.labels
                self.calibrated_accuracy = 100 * correct.float().mean().item()
            if is_best:
                self.best_epoch, self.best_accuracy = trainer.current_epoch, accuracy
        self.bar.update()

    def _evaluate(
        self, trainer: pl.Trainer, module: pl.LightningModule, data: Batches
    ) -> tuple[float, float, Tensor]:
        """Return mean loss, accuracy in percent, and logits."""
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

    def results(self, method: str, epochs: int) -> dict[str, Any]:
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
        kept = torch.ones_like(is_wrong) if self.kept is None else self.kept
        values["right_kept"] = (kept & ~is_wrong).sum().item() / (len(is_wrong) - num_wrong)
        if num_wrong:
            values["wrong_among_kept"] = is_wrong[kept].float().mean().item()
        if num_wrong and self.scores is not None and method not in WITHOUT_SCORE:
            defined = ~self.scores.isnan()
            if len(is_wrong[defined].unique()) == 2:
                values["auroc"] = float(roc_auc_score(~is_wrong[defined], self.scores[defined]))
        return values


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    return {name: version(name) for name in ("torch", "lightning", "lightning-alignprune")}


def new_module(task: Task, recipe: Recipe, seed: int) -> Classifier:
    """Return the network as it is before training; a seed gives all rows the same weights."""
    pl.seed_everything(seed, verbose=False)
    optimizer = OptimizerConfig(
        "sgd",
        lr=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        momentum=recipe.momentum,
    )
    schedule = ScheduleConfig(recipe.schedule)
    return Classifier(task.network(), task.num_classes, optimizer=optimizer, schedule=schedule)


def train(
    task: Task, recipe: Recipe, parts: Parts, method: str, seed: int, bar: Any
) -> dict[str, Any]:
    """Train one row with one seed.

    Returns:
        The method's settings, the wall seconds of the fit, and the numbers of the table.
    """
    module = new_module(task, recipe, seed)
    pruning = ALL_METHODS[method][1](parts)
    measure = Measure(parts, pruning, bar)
    trainer = quiet_trainer(
        recipe.epochs,
        [measure] if pruning is None else [pruning, measure],
        precision=recipe.precision,
        limit_val_batches=0,
    )
    loader: DataLoader[Any] = DataLoader(
        parts.reference if method in ON_REFERENCE else parts.train,
        batch_size=recipe.batch_size,
        shuffle=True,
        collate_fn=unchanged,
    )
    started = time.perf_counter()
    trainer.fit(module, loader)
    seconds = time.perf_counter() - started
    return {
        "settings": description(pruning),
        "versions": versions(),
        "seconds": round(seconds, 2),
        **measure.results(method, recipe.epochs),
    }
