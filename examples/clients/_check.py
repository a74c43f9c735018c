"""Put a client under the callback, and see whether what it records and weighs is true.

Three fits of each client:

1. It trains for a few epochs with InfoBatch, whose later epochs leave samples out and weigh others.
2. With the network so trained and frozen, recorded losses are compared with what the client's own
   ``training_step`` returns for a batch that holds that sample alone. In the second epoch samples
   have weights, which must not change what is recorded.
3. With the same network the gradient of one weighted batch is compared with the weighted sum of its
   samples' own gradients.

Legend: ``N`` samples, ``B`` of them in a batch, ``P`` parameters.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_alignprune import (
    DynamicPruningCallback,
    InfoBatch,
    Policy,
    PruningSchedule,
    SelectionContext,
)
from lightning_alignprune.functional import Selection

Verdict = Literal["works", "refused", "wrong", "fails"]

_EPOCHS = 3
_MOST_ALONE = 16  # samples whose step is run alone
_MOST_COORDINATES = 20_000  # of the gradient
_LOSS_TOLERANCE = 1e-3
_GRADIENT_TOLERANCE = 1e-2
# What draws at random or looks at the whole batch is switched to its form for inference.
_OF_THE_BATCH = (
    nn.modules.dropout._DropoutNd,
    nn.modules.batchnorm._BatchNorm,
    nn.MultiheadAttention,  # draws its dropout itself
)


@dataclass(frozen=True)
class Client:
    """A training program as users of a library write it.

    Attributes:
        what: What is run, for the table.
        module: Makes the LightningModule.
        loader: Makes its train loader.
        callbacks: Makes other callbacks of the run.
        signal: What is recorded, where the default cannot be had.
    """

    what: str
    module: Callable[[], pl.LightningModule]
    loader: Callable[[], DataLoader[Any]]
    callbacks: Callable[[], list[pl.Callback]] = list
    signal: str = "SampleLoss"


@dataclass
class Found:
    """What a client showed.

    Attributes:
        what: What was run.
        verdict: Whether it works, is refused by the callback, fails otherwise, or goes on with
            wrong losses or weights.
        passes: Share of full training's sample passes in the first fit.
        loss_error: Largest difference of a recorded loss from the sample's own, relative to the
            largest own loss (or to 1).
        correlation: Of recorded and own losses.
        gradient_error: Relative distance of the weighted batch's gradient from the weighted sum of
            its samples' gradients.
        message: The refusal or error.
        batches_before: How many batches of the first fit were trained before it.
        seconds: Of everything.
    """

    what: str
    verdict: Verdict = "works"
    passes: float | None = None
    loss_error: float | None = None
    correlation: float | None = None
    gradient_error: float | None = None
    message: str = ""
    batches_before: int | None = None
    seconds: float = 0.0


class Uneven(Policy):
    """Keep every sample and weigh them 0.5, 1, 1.5 or 2, by index."""

    finish = "selected"
    weighs_samples = True

    def select(self, scores: Tensor, context: SelectionContext) -> Selection:
        kept = torch.ones_like(scores, dtype=torch.bool)
        return Selection(kept, weights_of(context.indices).to(scores.device))


def weights_of(indices: Tensor) -> Tensor:
    return 0.5 + (indices % 4).float() / 2


class Counted(pl.Callback):
    """How many batches were trained."""

    def __init__(self) -> None:
        self.num_batches = 0

    def on_train_batch_end(self, *_: Any) -> None:
        self.num_batches += 1


class NoLossAloneError(RuntimeError):
    """A step that cannot be run on one sample."""


class Frozen(pl.Callback):
    """Make every sample's loss its own and the same in every epoch; note the last gradient."""

    gradient: Tensor | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.state = state_of(pl_module)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        make_separable(pl_module)

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.gradient = gradient_of(pl_module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
        put_back(pl_module, self.state)


@dataclass
class Fit:
    """One fit of a client."""

    client: Client
    policy: Policy
    callbacks: list[pl.Callback] = field(default_factory=list)
    trained: dict[str, Tensor] | None = None
    counted: Counted = field(default_factory=Counted)

    def run(self, epochs: int, **settings: Any) -> None:
        seed_everything(0)
        self.module, self.loader = self.client.module(), self.client.loader()
        if self.trained is not None:
            put_back(self.module, self.trained)
        self.callback = DynamicPruningCallback(
            "LastLoss",
            self.policy,
            self.client.signal,
            PruningSchedule(stop_fraction=1.0),
            keep_history=True,
        )
        trainer = pl.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            devices=1,
            callbacks=[self.callback, self.counted, *self.callbacks, *self.client.callbacks()],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            **settings,
        )
        trainer.fit(self.module, train_dataloaders=self.loader)
        trainer.training = True  # some modules ask; their steps are run once more
        make_separable(self.module)
        self.module.log = self.module.log_dict = lambda *_, **__: None  # type: ignore[method-assign]
        self.state = state_of(self.module)

    def row(self, epoch: int) -> Tensor:
        return self.callback.trajectories.rows[epoch].float()

    def batch(self, indices: list[int]) -> Any:
        return self.loader.collate_fn([self.loader.dataset[i] for i in indices])

    def step(self, indices: list[int]) -> Tensor:
        """Return the loss of the client's own step on these samples."""
        seed_everything(0)
        put_back(self.module, self.state)
        try:
            returned = self.module.training_step(self.batch(indices), 0)
        except Exception as error:
            raise NoLossAloneError(f"a sample alone has no loss, {error}") from error
        return returned["loss"] if isinstance(returned, dict) else returned

    def gradient(self, indices: list[int]) -> Tensor:
        self.module.zero_grad()
        self.step(indices).backward()
        return gradient_of(self.module)


def seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def make_separable(module: nn.Module) -> None:
    for part in module.modules():
        if isinstance(part, _OF_THE_BATCH):
            part.eval()


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """Return copies of parameters and buffers, also of those that no checkpoint holds."""
    tensors = [*module.named_parameters(), *module.named_buffers()]
    return {name: tensor.detach().clone() for name, tensor in tensors}


@torch.no_grad()
def put_back(module: nn.Module, state: dict[str, Tensor]) -> None:
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        tensor.copy_(state[name])


def gradient_of(module: nn.Module) -> Tensor:
    """Return some coordinates of the gradient, shape (min(P, 20,000),)."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    whole = [torch.zeros(p.numel()) if p.grad is None else p.grad.flatten() for p in parameters]
    flat = torch.cat(whole).detach().clone()
    return flat[:: max(1, len(flat) // _MOST_COORDINATES)]


def check(client: Client) -> Found:
    """Run a client's three fits."""
    found, started = Found(client.what), time.perf_counter()
    counted = Counted()
    try:
        trained = _train(client, found, counted)
        if client.signal == "SampleLoss":
            _compare_losses(client, trained, found)
            _compare_gradients(client, trained, found)
            is_true = found.loss_error <= _LOSS_TOLERANCE
            is_weighted = (
                found.gradient_error is None or found.gradient_error <= _GRADIENT_TOLERANCE
            )
            found.verdict = "works" if is_true and is_weighted else "wrong"
    except MisconfigurationException as error:
        is_ours = str(error).startswith("DynamicPruningCallback")
        found.verdict, found.message = "refused" if is_ours else "fails", str(error)
        found.batches_before = counted.num_batches
    except NoLossAloneError as error:
        found.verdict, found.message = "wrong", str(error)
    except Exception as error:  # a client's own, or ours: the table says which
        found.verdict, found.message = "fails", f"{type(error).__name__}: {error}"
        found.batches_before = counted.num_batches
    found.seconds = round(time.perf_counter() - started, 1)
    return found


def _train(client: Client, found: Found, counted: Counted) -> dict[str, Tensor]:
    fit = Fit(client, InfoBatch(0.5), counted=counted)
    fit.run(_EPOCHS)
    rows = torch.stack(fit.callback.trajectories.rows).float()
    found.passes = round((~rows.isnan()).float().mean().item(), 3)
    return fit.state


def _compare_losses(client: Client, trained: dict[str, Tensor], found: Found) -> None:
    fit = Fit(client, Uneven(), [Frozen()], trained)
    fit.run(2)
    num_samples = len(fit.row(0))
    some = torch.linspace(0, num_samples - 1, min(num_samples, _MOST_ALONE)).long()
    own = torch.stack([fit.step([i]).detach().float() for i in some.tolist()]).flatten()
    for epoch in (0, 1):
        recorded = fit.row(epoch)[some]
        seen = ~(recorded.isnan() | own.isnan())  # drop_last leaves some samples out
        error = (recorded - own)[seen].abs().max() / max(1.0, own[seen].abs().max())
        found.loss_error = max(found.loss_error or 0.0, error.item())
        pair = torch.stack([recorded[seen], own[seen]])
        found.correlation = torch.corrcoef(pair)[0, 1].nan_to_num(0).item()


def _compare_gradients(client: Client, trained: dict[str, Tensor], found: Found) -> None:
    frozen = Frozen()
    fit = Fit(client, Uneven(), [frozen], trained)
    fit.run(2, limit_train_batches=1)
    if not fit.module.automatic_optimization:
        return  # its own steps change the weights
    weighted = frozen.gradient
    assert weighted is not None
    indices = fit.row(1).isfinite().nonzero().flatten()
    alone = torch.stack([fit.gradient([i]) for i in indices.tolist()], 1)
    together = fit.gradient(indices.tolist())
    # Which share a sample has in the batch's loss is the client's affair: a mean over samples, or
    # over tokens.
    shares = torch.linalg.lstsq(alone.double(), together.double()).solution
    expected = alone.double() @ (shares * weights_of(indices))
    scale = torch.maximum(weighted.norm(), expected.norm())
    found.gradient_error = ((weighted - expected).norm() / scale).item()
