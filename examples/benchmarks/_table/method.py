"""What a row of a table is, and one run of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import nn

from _table.tasks import Parts
from lightning_alignprune import DynamicPruningCallback
from lightning_alignprune.coreset import CoresetMethod


class Run(NamedTuple):
    """A cell of a table with one seed; ``pruned`` is the share of the passes that it is to save."""

    noise: str
    method: str
    seed: int
    pruned: float | None = None


def no_callback(parts: Parts) -> None:
    """No callback at all: plain Lightning."""


@dataclass(frozen=True)
class Method:
    """A row: how it is made, and what it does with a share that is to be pruned.

    Attributes:
        name: What the table calls it.
        make: Makes the callback for the data of a run; None is plain Lightning.
        keeping: Makes it for a share that is kept, where the method can be given one.
        coreset: Makes the method that chooses a coreset, for a warm-up of so many epochs.
        share: Mean share of the samples that an epoch trains, where the method decides it itself:
            it then trains fewer epochs for a share that is to be pruned.
        loss: Makes the loss of the module for N samples and C classes; None is cross-entropy.
        averages_weights: Whether an average of the weights is measured.
        is_scored: Whether it chooses by a score; else its AUROC would say nothing.
        on_reference: Whether it trains on the clean reference alone.
    """

    name: str
    make: Callable[[Parts], DynamicPruningCallback | None] = no_callback
    keeping: Callable[[float], DynamicPruningCallback] | None = None
    coreset: Callable[[int], CoresetMethod] | None = None
    share: float | None = None
    loss: Callable[[int, int], nn.Module] | None = None
    averages_weights: bool = False
    is_scored: bool = True
    on_reference: bool = False

    @property
    def can_prune(self) -> bool:
        """Whether a share can be asked of it."""
        return any(way is not None for way in (self.keeping, self.coreset, self.share))

    def callback(self, parts: Parts, pruned: float | None) -> DynamicPruningCallback | None:
        """Make the callback of a run."""
        if self.keeping is None:
            return self.make(parts)
        return self.keeping(0.5 if pruned is None else 1 - pruned)

    def epochs(self, full: int, pruned: float | None) -> int:
        """Return how many epochs make the passes of ``full`` epochs, less what is pruned."""
        if pruned is None or self.share is None:
            return full
        return max(1, round(full * (1 - pruned) / self.share))


def described(part: Any) -> dict[str, Any]:
    """Say which class with which plain settings an object is, for the JSON of a run."""
    plain = (int, float, str, type(None))
    settings = {
        name: value
        for name, value in vars(part).items()
        if isinstance(value, plain) and not name.startswith("_")
    }
    return {"class": type(part).__name__, **settings}


def description(callback: DynamicPruningCallback | None) -> dict[str, Any] | None:
    """Describe what makes a callback this method and not another."""
    if callback is None:
        return None
    names = ("signal", "score", "policy", "schedule")
    found = {name: described(getattr(callback, name)) for name in names}
    if callback.in_batch is not None:
        found["in_batch"] = described(callback.in_batch)
    if callback.reference_weights != "current":
        found["reference_weights"] = {"of": callback.reference_weights}
    return found
