"""Tiny modules, indexed data and a quiet CPU Trainer; tests import them from `tests.conftest`."""

from functools import cache
from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from lightning.fabric.utilities import registry
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor, nn
from torch.utils.data import TensorDataset

# Each Trainer reads the entry points of every installed package: 15 ms, thousands of times.
registry.entry_points = cache(registry.entry_points)


class TinyModule(pl.LightningModule):
    """A stock classifier: functional or module loss, with or without BatchNorm and dropout.

    Logging a step costs as much as half of training it, so only those log that are asked to.
    """

    def __init__(
        self,
        batch_norm: bool = False,
        dropout: float = 0.0,
        loss: str = "functional",
        logs: bool = False,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Linear(6, 16)]
        if batch_norm:
            layers.append(nn.BatchNorm1d(16))
        layers += [nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 3)]
        self.net = nn.Sequential(*layers)
        self.logs = logs
        self.loss = F.cross_entropy if loss == "functional" else nn.CrossEntropyLoss()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        loss = self.loss(self(x), y)
        if self.logs:
            self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        self.log("val_loss", F.cross_entropy(self(x), y))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.2, momentum=0.9)


def make_data(num_samples: int = 100, seed: int = 0, noise: float = 0.2) -> TensorDataset:
    """Three linearly separable classes with some wrong labels."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(num_samples, 6, generator=generator)
    y = x[:, :3].argmax(1)
    wrong = torch.rand(num_samples, generator=generator) < noise
    y = torch.where(wrong, (y + 1) % 3, y)
    return TensorDataset(x, y)


def make_trainer(*callbacks: pl.Callback, **kwargs: Any) -> pl.Trainer:
    settings: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": any(isinstance(c, Checkpoint) for c in callbacks),
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "max_epochs": 4,
    }
    return pl.Trainer(callbacks=list(callbacks), **(settings | kwargs))


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer, copied."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def assert_identical(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    """Bit for bit."""
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert torch.equal(value, b[name]), f"{name} differs"


class EpochLog(pl.Callback):
    """Note what each epoch did: indices are the caller's; here lengths, validations and steps."""

    def __init__(self) -> None:
        self.planned: list[int] = []
        self.batches: list[int] = []
        self.validated: list[int] = []
        self.seen_by_epoch_end: list[int] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.planned.append(int(trainer.num_training_batches))
        self.batches.append(0)

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        if not self.batches:  # resumed in mid-epoch
            self.batches.append(0)
        self.batches[-1] += 1

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if not trainer.sanity_checking:
            self.validated.append(trainer.current_epoch)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.seen_by_epoch_end.append(int(trainer.num_training_batches))
