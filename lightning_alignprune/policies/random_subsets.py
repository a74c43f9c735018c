"""The two baselines without a score: a fresh random subset each epoch, and one for the run."""

from collections.abc import Sequence

import torch
from torch import Tensor
from typing_extensions import override

from lightning_alignprune._checks import check_number
from lightning_alignprune.functional.selection import Selection, draw_fixed_count
from lightning_alignprune.policies.base import Policy, SelectionContext

_ONE_DRAW_PER_RUN = -1


def _check_fraction(owner: str, prune_fraction: float) -> None:
    check_number(
        owner,
        "prune_fraction",
        prune_fraction,
        low=0.0,
        high=1.0,
        high_open=True,
        remedy="It is the share of samples left out of an epoch.",
    )


def _draw(keep_fraction: float, context: SelectionContext, epoch: int) -> Selection:
    everyone = torch.ones_like(context.indices, dtype=torch.bool)
    count = round(keep_fraction * int(context.total(everyone.sum())))
    return Selection(
        draw_fixed_count(
            everyone, count, context.indices, context.seed, epoch, all_reduce=context.all_reduce
        )
    )


class DynamicRandom(Policy):
    """Train each epoch on a fresh uniform subset, whatever the scores: the baseline to beat.

    Args:
        prune_fraction: Share of samples left out of each epoch, in [0, 1); exactly
            ``round((1 - prune_fraction) * N)`` are kept, with weight 1.

    Raises:
        ValueError: If ``prune_fraction`` is out of range.

    Note:
        It goes on to the end of the run; ``PruningSchedule(finish="full")`` ends on all samples.

        Parity: SeTa's public code names the setting ratio 0, one group, window 1 as this baseline,
        which prunes nothing.
    """

    finish = "selected"
    works_on_shares = True

    def __init__(self, prune_fraction: float = 0.5) -> None:
        _check_fraction("DynamicRandom", prune_fraction)
        self.prune_fraction = prune_fraction
        self.keep_fraction = 1.0 - prune_fraction

    @override
    def select(self, scores: Tensor, context: SelectionContext) -> Selection:
        return _draw(self.keep_fraction, context, context.epoch)


class StaticSubset(Policy):
    """Train on the same subset in every epoch but the first: a coreset, random or your own.

    Args:
        prune_fraction: Share of samples left out, in [0, 1), if no ``indices`` are given; the
            subset is drawn once from the run's seed.
        indices: The samples to train on, for a subset chosen by another method.

    Raises:
        ValueError: If ``prune_fraction`` is out of range, or ``indices`` is empty, repeats an
            index or holds a negative one.

    Note:
        Epoch 0 trains on every sample, as with all policies. For a subset from the first step on,
        wrap the data set in ``torch.utils.data.Subset``.

        Parity: SeTa's public code takes the *first* samples, which on sorted data drops classes.
    """

    finish = "selected"
    works_on_shares = True

    def __init__(self, prune_fraction: float = 0.5, indices: Sequence[int] | None = None) -> None:
        owner = "StaticSubset"
        _check_fraction(owner, prune_fraction)
        self.prune_fraction = prune_fraction
        self.keep_fraction = 1.0 - prune_fraction
        self.indices: Tensor | None = None
        if indices is not None:
            self.indices = torch.as_tensor(indices, dtype=torch.int64)
            is_valid = len(self.indices) > 0 and int(self.indices.min()) >= 0
            if not is_valid or len(torch.unique(self.indices)) < len(self.indices):
                raise ValueError(
                    f"{owner}: expected indices to be distinct sample numbers from 0 on, got "
                    f"{len(self.indices)} value(s). Pass None for a random subset."
                )

    @override
    def select(self, scores: Tensor, context: SelectionContext) -> Selection:
        if self.indices is None:
            return _draw(self.keep_fraction, context, _ONE_DRAW_PER_RUN)
        num_samples = int(context.total(torch.tensor(len(context.indices))))
        if int(self.indices.max()) >= num_samples:
            raise ValueError(
                f"StaticSubset: expected indices below the {num_samples} samples of the training "
                f"set, got {int(self.indices.max())}. Was the subset made for another set?"
            )
        return Selection(torch.isin(context.indices, self.indices.to(context.indices.device)))
