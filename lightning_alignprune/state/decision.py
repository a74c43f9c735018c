"""`Decision`: what was decided for an epoch, checked before anything trains on it."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from lightning_alignprune._checks import shape_of
from lightning_alignprune.functional.selection import Selection, keep_always
from lightning_alignprune.state.shard import Shard

_MOST_LEFT_OUT = 0.1


@dataclass
class Decision:
    """What was decided for an epoch.

    Attributes:
        epoch: The epoch it is for.
        selection: The samples and weights; None means every sample with weight 1. With
            ``partition="fixed"`` it holds this rank's samples only.
        scores: The scores it rests on, shape (N,), or None if none were computed.
        is_fallback: Whether nothing can be trained of what the policy kept, so that everything is.
        counts: How many samples are kept of each rank's shard; empty without a selection.
    """

    epoch: int
    selection: Selection | None
    scores: Tensor | None = None
    is_fallback: bool = False
    counts: list[int] = field(default_factory=list)

    @property
    def num_each(self) -> int | None:
        """How many samples each rank draws from its shard: the fewest that any has."""
        return min(self.counts) if self.counts else None

    @property
    def left_out_fraction(self) -> float:
        """Share of the kept samples that is not drawn, so that all ranks draw equally many."""
        return 1.0 - len(self.counts) * min(self.counts) / sum(self.counts) if self.counts else 0.0

    def fall_back(self) -> None:
        """Train everything, with weight 1, instead of a selection that nothing can be drawn of."""
        self.selection, self.is_fallback = None, True

    def num_kept(self, shard: Shard) -> int:
        """How many samples of all shards the epoch is to train on."""
        return shard.num_samples if self.selection is None else sum(self.counts)

    def metrics(self, shard: Shard) -> dict[str, float | Tensor]:
        """Return what is worth logging about it; with several shards one collective."""
        is_all = self.selection is None
        num_kept = self.num_kept(shard)
        values: dict[str, float | Tensor] = {
            "kept_fraction": num_kept / shard.num_samples,
            "num_kept": float(num_kept),
        }
        if not shard.is_whole:
            values["left_out_fraction"] = 0.0 if is_all else self.left_out_fraction
        if self.scores is not None:
            defined = (~self.scores.isnan()).sum(dtype=torch.float64)
            total, count = shard.total(torch.stack([self.scores.nansum().double(), defined]))
            if count:
                values["score_mean"] = (total / count).float()
        return values

    def warning(self, policy: str) -> str | None:
        """Say what the user should know about it, or None."""
        if self.is_fallback and sum(self.counts) == 0:
            return (
                f"{policy} kept no sample for epoch {self.epoch}; that epoch trains on all of them."
            )
        if self.is_fallback and min(self.counts) > 0:
            return (
                f"{policy} kept {min(self.counts)} sample(s) for epoch {self.epoch}, too few for a "
                "batch on every rank; that epoch trains on all of them, without weights. Keep "
                "more, or use a smaller batch or drop_last=False."
            )
        if self.is_fallback:
            return (
                f"{policy} kept no sample of rank {self.counts.index(0)}'s shard for epoch "
                f"{self.epoch}; that epoch trains on all of them. Use partition='replicated', or "
                "shuffle the data set once."
            )
        if self.left_out_fraction > _MOST_LEFT_OUT:
            return (
                f"the samples that {policy} kept for epoch {self.epoch} lie unevenly over the "
                f"ranks' shards: between {min(self.counts)} and {max(self.counts)}. Each trains "
                f"{min(self.counts)}, so {self.left_out_fraction:.0%} of them are left out. Use "
                "partition='replicated', or shuffle the data set once."
            )
        return None


def checked_scores(scores: Tensor, score: str, shard: Shard) -> Tensor:
    """Refuse scores that are not one number per sample.

    Raises:
        ValueError: Naming the score class and what it returned.
    """
    is_vector = isinstance(scores, Tensor) and scores.shape == (shard.num_own,)
    if not is_vector or not scores.is_floating_point():
        raise ValueError(
            f"{score}.compute: expected floats of shape ({shard.num_own},), one score per sample, "
            f"got {shape_of(scores)}. Look at the score."
        )
    return scores


def checked(
    decision: Decision,
    policy: str,
    shard: Shard,
    fewest: int = 1,
    trusted: Tensor | None = None,
) -> Decision:
    """Refuse a malformed selection, add the trusted samples; make "all" and "none" a full epoch.

    Args:
        decision: What is checked, in place.
        policy: Its policy's name.
        shard: The samples that are selected from.
        fewest: How many of a shard must be kept for every rank to get a batch.
        trusted: Shape (n,), bool. Samples of the shard that are kept whatever the policy says.

    Raises:
        ValueError: Naming the policy class and what it returned.
    """
    selection = decision.selection
    if selection is None:
        return decision
    if not isinstance(selection, Selection):
        raise ValueError(
            f"{policy}.select: expected a Selection, got {shape_of(selection)}. Return "
            "Selection(kept, weights)."
        )
    kept, weights = selection
    if not isinstance(kept, Tensor) or kept.dtype != torch.bool or kept.shape != (shard.num_own,):
        raise ValueError(
            f"{policy}.select: expected kept to be bools of shape ({shard.num_own},), one for each "
            f"sample, got {shape_of(kept)}. Look at the policy."
        )
    if weights is not None and (
        not isinstance(weights, Tensor)
        or not weights.is_floating_point()
        or weights.shape != kept.shape
    ):
        raise ValueError(
            f"{policy}.select: expected weights to be None or floats of shape ({shard.num_own},), "
            f"one for each sample, got {shape_of(weights)}. Look at the policy."
        )
    if trusted is not None:
        decision.selection = kept, weights = keep_always(selection, trusted)
    decision.counts = shard.counts(kept.sum())
    if sum(decision.counts) == shard.num_samples and weights is None:
        decision.selection, decision.counts = None, []
    elif min(decision.counts) < fewest:
        decision.fall_back()
    return decision
