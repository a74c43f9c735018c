"""RePB: compare within a batch, weight by how often a sample was trained (ICLR 2026)."""

from typing import Any

from torch import Tensor
from typing_extensions import override

from lightning_alignprune._checks import check_choice, check_float
from lightning_alignprune.functional.selection import (
    RESCALES,
    Rescale,
    Selection,
    repb_selection,
)
from lightning_alignprune.policies.base import Policy, SelectionContext
from lightning_alignprune.signals import CenteredLoss


class RePB(Policy):
    """Drop samples that are easier than the batch they were in; let dropped ones back in.

    A sample whose loss lay below its batch's mean is left out with probability r, and one that was
    left out comes back with probability 1 - r. Each is weighted by ``E / n``: of the E epochs so
    far, n trained it. Goes with ``signal="CenteredLoss"`` and ``score="LastLoss"``.

    Args:
        prune_probability: r, in [0, 1]. With 1 nothing comes back.
        rescale: ``"expectation"`` weights by ``E / n``, so that over the run each sample counts as
            in full training, *wrong labels included*; ``"none"`` weights nothing.

    Raises:
        TypeError: If a value is of the wrong kind.
        ValueError: If one is out of range.

    Note:
        Source: its public description, with a window of one batch. It names no default of r and
        says nothing of the last epochs: 0.5, and ending on all samples, are ours. Epochs that are
        not selected, such as those before ``start_epoch``, count as trained by all.
    """

    finish = "full"
    works_on_shares = True
    needs_signal = CenteredLoss
    signal_remedy = 'Pass signal="CenteredLoss": a sample is compared with its own batch.'

    def __init__(self, prune_probability: float = 0.5, rescale: Rescale = "expectation") -> None:
        remedy = "0 prunes nothing, 1 drops every sample below its batch's mean."
        self.prune_probability = check_float(
            "RePB", "prune_probability", prune_probability, low=0, high=1, remedy=remedy
        )
        self.rescale = check_choice("RePB", "rescale", rescale, RESCALES)
        self.keep_fraction = 1.0 - self.prune_probability
        self.weighs_samples = self.rescale != "none" and self.prune_probability > 0.0
        self._num_trained: Tensor | None = None
        self._num_epochs = 0

    @override
    def select(self, scores: Tensor, context: SelectionContext) -> Selection:
        rows = context.trajectories.rows
        was_trained = ~(rows[-1] if rows else scores).isnan()
        num_trained = self._count(was_trained, context.epoch)
        kept = repb_selection(
            scores,
            was_trained,
            self.prune_probability,
            context.indices,
            context.seed,
            context.epoch,
        )
        weights = context.epoch / num_trained.clamp(min=1).float()
        if self.rescale == "none" or not context.is_any(bool((weights[kept] != 1).any())):
            return Selection(kept)
        return Selection(kept, weights)

    def _count(self, was_trained: Tensor, num_epochs: int) -> Tensor:
        """Take in the last epoch; what was not selected in between trained everything."""
        before = 0 if self._num_trained is None else self._num_trained.to(was_trained.device)
        num_full = num_epochs - self._num_epochs - 1
        self._num_trained = before + num_full + was_trained.int()
        self._num_epochs = num_epochs
        return self._num_trained

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"num_trained": self._num_trained, "num_epochs": self._num_epochs}

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._num_trained, self._num_epochs = state["num_trained"], state["num_epochs"]
