"""The policy interface: which samples train next epoch, with which weight."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_alignprune.functional.draws import draw_seed
from lightning_alignprune.functional.selection import AllReduce, Selection
from lightning_alignprune.schedule import Finish
from lightning_alignprune.signals import LossRanks, Signal
from lightning_alignprune.state.trajectories import LossTrajectories


@dataclass(frozen=True)
class SelectionContext:
    """What a policy may know beside the scores, the same on every rank.

    Attributes:
        epoch: The epoch the selection is for.
        num_selections: How many selections this run made before this one.
        seed: Seed of the run's draws.
        indices: Shape (N,), int64, data-set indices of the scored samples.
        trajectories: The recorded losses of these samples.
        all_reduce: Sums a tensor over the ranks that each hold a share of the samples; None when
            this process holds them all.
        easy_end: At which end of the scores the easy samples are.
        reference_scores: Shape (n,), the same score of the reference samples; None unless the
            policy's ``uses_reference_scores`` is set and the score can tell.
        labels: Shape (N,), int64, the samples' class labels as the data set has them; None unless
            the policy's ``uses_labels`` is set and they can be read without loading samples.
        epochs_since_best: How many reference losses came after the lowest; None without a
            reference, 0 before its first loss.
        is_learning: Whether the newest losses enter the score: with a gate only while the
            reference loss is at its lowest.
        estimates_since_peak: How many estimates of the share of wrong labels came after the largest
            one; None where the signal makes none.
        noise_share: Estimated share of wrong labels in use, 0.0 while none stand out; None where
            the signal estimates none.
        noise_share_error: Standard error of that estimate; None likewise.
        loss_ranks: Where the samples' losses lie among the reference's, and the reference's own;
            None where the signal keeps no such ranks.
        has_looks: Whether samples that are left out are looked at as the policy's ``look_every``
            asks: not in a plain loop, in manual optimisation or with ``sample_index=``.
        is_finishing: Whether the epoch is one of the last, after the schedule's ``stop_fraction``.
    """

    epoch: int
    num_selections: int
    seed: int
    indices: Tensor
    trajectories: LossTrajectories
    all_reduce: AllReduce | None = None
    easy_end: Literal["low", "high"] = "low"
    reference_scores: Tensor | None = None
    labels: Tensor | None = None
    epochs_since_best: int | None = None
    is_learning: bool = True
    has_looks: bool = False
    is_finishing: bool = False
    estimates_since_peak: int | None = None
    noise_share: float | None = None
    loss_ranks: LossRanks | None = None
    noise_share_error: float | None = None

    def total(self, value: Tensor) -> Tensor:
        """Sum a tensor over all shares of the data set."""
        return self.all_reduce(value) if self.all_reduce else value

    def is_any(self, value: bool) -> bool:
        """Say whether it is true on any share of the data set."""
        return bool(self.total(torch.tensor(int(value), device=self.indices.device)) > 0)

    def generator(self) -> torch.Generator:
        """Return a CPU generator seeded by (seed, epoch), for draws that are not per sample."""
        return torch.Generator().manual_seed(draw_seed(self.seed, self.epoch))


class Policy(ABC):
    """Turn scores into the next epoch's selection.

    Subclass it for a policy of your own; :meth:`select` is all it needs.

    Attributes:
        finish: What the last epochs train on unless the schedule says otherwise.
        keep_fraction: Share of samples that a ``"partial"`` finish draws each epoch.
        window: How many of the last epochs' losses :meth:`select` reads from the trajectories
            itself; None for all.
        works_on_shares: Whether :meth:`select` gives the same selection when each rank calls it
            with the scores of its own samples only, adding up over ranks with
            ``context.all_reduce``. Needed for ``partition="fixed"``.
        weighs_samples: Whether selections come with weights; a step on whose loss they could not be
            put is then refused at the start instead of at the first weight.
        uses_reference_scores: Whether :meth:`select` reads ``context.reference_scores``.
        uses_labels: Whether :meth:`select` reads ``context.labels``.
        look_every: After how many epochs a forward pass looks again at the samples that were left
            out, so that their scores follow the network; 0 for never. The epoch's row of losses
            then holds theirs too.
        selects_first_epoch: Whether it selects before anything is recorded, for epoch 0 and the
            epochs before the schedule's ``start_epoch``; the scores are all NaN then. Epoch 0
            trains on everything otherwise.
        needs_signal: The kind of signal whose values the scores must be of; None for any.
        signal_remedy: What to do where it is another, as a sentence.
    """

    finish: Finish = "full"
    keep_fraction: float = 1.0
    window: int | None = 1
    works_on_shares: bool = False
    weighs_samples: bool = False
    uses_reference_scores: bool = False
    uses_labels: bool = False
    look_every: int = 0
    selects_first_epoch: bool = False
    needs_signal: type[Signal] | None = None
    signal_remedy: str = ""

    @abstractmethod
    def select(self, scores: Tensor, context: SelectionContext) -> Selection:
        """Select the samples of ``context.epoch``.

        Args:
            scores: Shape (N,), float32. High = keep, NaN = undefined (keep such a sample).
            context: Epoch, seed, indices and trajectories.

        Returns:
            ``Selection(kept, weights)``; weights None means 1 for all.
        """

    def to_look_at(self, kept: Tensor) -> Tensor:
        """Say which samples are cut, as against those that only sit out an epoch.

        A look takes in those that are cut, and the audit calls them so.

        Args:
            kept: Shape (N,), bool, of the newest selection.

        Returns:
            Shape (N,), bool; by default everything that is not kept.
        """
        return ~kept

    def metrics(self) -> dict[str, float]:
        """Return what :meth:`select` found out that is worth logging, the same on every rank."""
        return {}

    def warning(self) -> str | None:
        """Say what to know of the newest selection, the same on every rank, or None."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """State that :meth:`select` carries from epoch to epoch, tensors and primitives only."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Take over a saved state."""
