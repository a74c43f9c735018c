"""Optimizers and learning-rate schedules of the papers' recipes, as one object each."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_alignprune._checks import (
    check_bool,
    check_choice,
    check_float,
    check_ints,
    put,
)
from lightning_alignprune._extras import require

OptimizerName = Literal["sgd", "adam", "adamw", "lars"]
OPTIMIZERS: tuple[OptimizerName, ...] = ("sgd", "adam", "adamw", "lars")
ScheduleName = Literal["one_cycle", "cosine", "drops", "constant"]
SCHEDULES: tuple[ScheduleName, ...] = ("one_cycle", "cosine", "drops", "constant")


@dataclass(frozen=True)
class OptimizerConfig:
    """Say which optimizer steps, and how large.

    Args:
        name: ``"sgd"``, ``"adam"``, ``"adamw"``, or ``"lars"`` from the package
            ``pytorch-optimizer``, whose one-dimensional parameters (biases, BatchNorm) take plain
            SGD steps.
        lr: Learning rate, above 0; the peak under ``"one_cycle"``.
        weight_decay: At least 0.
        momentum: In [0, 1). For SGD and LARS; a OneCycle schedule that cycles it overrides it.
        nesterov: For SGD and LARS.

    Raises:
        TypeError: If a value is of the wrong kind.
        ValueError: If a value is out of range.

    Example:
        >>> OptimizerConfig(lr=0.1).make([nn.Parameter(torch.zeros(2))]).defaults["momentum"]
        0.9
    """

    name: OptimizerName = "sgd"
    lr: float = 0.1
    weight_decay: float = 5e-4
    momentum: float = 0.9
    nesterov: bool = False

    def __post_init__(self) -> None:
        owner = "OptimizerConfig"
        off = "0 turns it off."
        put(
            self,
            name=check_choice(owner, "name", self.name, OPTIMIZERS),
            lr=check_float(owner, "lr", self.lr, above=0, remedy="0.1 is usual for SGD."),
            weight_decay=check_float(owner, "weight_decay", self.weight_decay, low=0, remedy=off),
            momentum=check_float(owner, "momentum", self.momentum, low=0, below=1, remedy=off),
            nesterov=check_bool(owner, "nesterov", self.nesterov),
        )

    def make(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """Build the optimizer.

        Raises:
            ModuleNotFoundError: If LARS is asked for and ``pytorch-optimizer`` is not installed.
        """
        if self.name == "adam":
            return torch.optim.Adam(parameters, lr=self.lr, weight_decay=self.weight_decay)
        if self.name == "adamw":
            return torch.optim.AdamW(parameters, lr=self.lr, weight_decay=self.weight_decay)
        kind: Any = torch.optim.SGD
        if self.name == "lars":
            kind = require("pytorch_optimizer", "vision", "OptimizerConfig").LARS
        made: Optimizer = kind(
            parameters,
            lr=self.lr,
            weight_decay=self.weight_decay,
            momentum=self.momentum,
            nesterov=self.nesterov,
        )
        return made


@dataclass(frozen=True)
class ScheduleConfig:
    """Say how the learning rate moves over the run.

    ``"one_cycle"`` and ``"cosine"`` move with every step and are sized by the whole run;
    ``"drops"`` moves with the epochs.

    Args:
        name: ``"one_cycle"`` rises to the optimizer's rate over the first ``warmup_fraction`` and
            falls to almost 0 by cosines; ``"cosine"`` falls from it to 0; ``"drops"`` multiplies
            it by ``drop_factor`` after each of ``drop_epochs``; ``"constant"`` leaves it.
        warmup_fraction: Share of the run in which one-cycle rises, in (0, 1).
        initial_division: One-cycle starts at the rate divided by this, at least 1.
        final_division: One-cycle ends at its start divided by this, at least 1.
        cycle_momentum: Whether one-cycle moves momentum between 0.95 and 0.85, against the rate,
            as the papers' code does; it then overrides the optimizer's momentum.
        drop_epochs: Epochs after which ``"drops"`` drops, each at least 1.
        drop_factor: What ``"drops"`` multiplies by, in (0, 1).

    Raises:
        TypeError: If a value is of the wrong kind.
        ValueError: If a value is out of range, or drops are listed for a schedule without any.

    Example:
        >>> ScheduleConfig("drops", drop_epochs=[50]).drop_factor
        0.1
    """

    name: ScheduleName = "one_cycle"
    warmup_fraction: float = 0.3
    initial_division: float = 25.0
    final_division: float = 1e4
    cycle_momentum: bool = True
    drop_epochs: Sequence[int] = ()
    drop_factor: float = 0.1

    def __post_init__(self) -> None:
        owner = "ScheduleConfig"
        for share in ("warmup_fraction", "drop_factor"):
            remedy, value = 'Use name="constant" for no change.', getattr(self, share)
            put(self, **{share: check_float(owner, share, value, above=0, below=1, remedy=remedy)})
        for division in ("initial_division", "final_division"):
            remedy, value = "1 starts, or ends, undivided.", getattr(self, division)
            put(self, **{division: check_float(owner, division, value, low=1, remedy=remedy)})
        remedy = "List the epochs after which the rate drops."
        put(
            self,
            name=check_choice(owner, "name", self.name, SCHEDULES),
            cycle_momentum=check_bool(owner, "cycle_momentum", self.cycle_momentum),
            drop_epochs=check_ints(owner, "drop_epochs", self.drop_epochs, low=1, remedy=remedy),
        )
        if (self.name == "drops") != bool(self.drop_epochs):
            raise ValueError(
                f"{owner}: expected drop_epochs for 'drops' and only for it, got "
                f"{list(self.drop_epochs)} for {self.name!r}. List the epochs, or leave them out."
            )

    def make(self, optimizer: Optimizer, num_steps: int) -> dict[str, Any] | None:
        """Build the schedule in the form that Lightning takes; None for a constant rate.

        Args:
            optimizer: What it moves.
            num_steps: Optimizer steps of the whole run.
        """
        scheduler: LRScheduler
        if self.name == "constant":
            return None
        if self.name == "drops":
            scheduler = torch.optim.lr_scheduler.MultiStepLR(
                optimizer, list(self.drop_epochs), gamma=self.drop_factor
            )
            return {"scheduler": scheduler, "interval": "epoch"}
        if self.name == "cosine":
            scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
        else:
            scheduler = torch.optim.lr_scheduler.OneCycleLR(
                optimizer,
                [group["lr"] for group in optimizer.param_groups],
                total_steps=num_steps,
                pct_start=self.warmup_fraction,
                div_factor=self.initial_division,
                final_div_factor=self.final_division,
                cycle_momentum=self.cycle_momentum,
            )
        return {"scheduler": scheduler, "interval": "step"}
