"""The two baselines without a score: a fresh random subset each epoch, and one for the run."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from typing_extensions import override

from lightning_alignprune._checks import message
from lightning_alignprune.functional.selection import Selection, draw_fixed_count
from lightning_alignprune.policies._fractions import check_prune_fraction
from lightning_alignprune.policies.base import Policy, SelectionContext
from lightning_alignprune.state.index_file import SUFFIXES, read_indices

_ONE_DRAW_PER_RUN = -1  # stands where a draw has its epoch


def _check_indices(indices: object) -> Tensor:
    """Return ``indices`` as a tensor of distinct sample numbers, shape (n,), int64."""
    owner, constraint = "StaticSubset", "to be distinct sample numbers from 0 on"
    if isinstance(indices, Path) or (isinstance(indices, str) and indices.endswith(SUFFIXES)):
        indices = read_indices(indices)
    try:
        found = torch.as_tensor(indices)
    except (TypeError, ValueError, RuntimeError):  # words, ragged lists, objects
        found = torch.tensor(torch.nan)
    is_whole = not found.is_floating_point() and not found.is_complex()
    if found.numel() and (found.ndim != 1 or not is_whole or found.dtype == torch.bool):
        remedy = "List the numbers, or name a .npy or .txt file; of a mask, mask.nonzero()."
        shown = indices if isinstance(indices, (str, int, float)) else type(indices)
        raise TypeError(message(owner, "indices", constraint, shown, remedy))
    found = found.to(torch.int64)
    if (fault := _fault_in(found)) is not None:
        value, remedy = fault
        raise ValueError(message(owner, "indices", constraint, value, remedy))
    return found


def _fault_in(indices: Tensor) -> tuple[object, str] | None:
    """Return what is wrong with sample numbers, and what to do; None if nothing is."""
    if not len(indices):
        return "none", "Pass None for a random subset."
    if int(indices.min()) < 0:
        return int(indices.min()), "Count from the beginning of the training set."
    ordered = indices.sort().values
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    return (f"{int(twice[0])} twice", "List each sample once.") if len(twice) else None


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
        TypeError: If a value is of the wrong kind.
        ValueError: If ``prune_fraction`` is out of range.

    Note:
        It goes on to the end of the run; ``PruningSchedule(finish="full")`` ends on all samples.

        Parity: SeTa's public code names the setting ratio 0, one group, window 1 as this baseline,
        which prunes nothing.
    """

    finish = "selected"
    works_on_shares = True

    def __init__(self, prune_fraction: float = 0.5) -> None:
        self.prune_fraction = check_prune_fraction("DynamicRandom", prune_fraction)
        self.keep_fraction = 1.0 - self.prune_fraction

    @override
    def select(self, scores: Tensor, context: SelectionContext) -> Selection:
        return _draw(self.keep_fraction, context, context.epoch)


class StaticSubset(Policy):
    """Train on the same subset in every epoch: a coreset, random or your own.

    Args:
        prune_fraction: Share of samples left out, in [0, 1), if no ``indices`` are given; the
            subset is drawn once from the run's seed.
        indices: The samples to train on, for a subset chosen by another method: ints, at least
            one, none twice, or the path of a ``.npy`` or ``.txt`` file of them, as
            ``alignprune coreset`` writes it. A mask is refused.

    Raises:
        TypeError: If ``prune_fraction`` is no number or ``indices`` holds no ints.
        ValueError: If ``prune_fraction`` is out of range, or ``indices`` is empty, repeats an
            index or holds a negative one.
        FileNotFoundError: If there is no such file.

    Example:
        >>> StaticSubset(indices=[0, 3, 5]).indices
        tensor([0, 3, 5])

    Note:
        It needs no scores, so it holds from the first step on, whatever ``start_epoch`` says.

        Parity: SeTa's public code takes the *first* samples, which on sorted data drops classes.
    """

    finish = "selected"
    works_on_shares = True
    selects_first_epoch = True

    def __init__(
        self, prune_fraction: float = 0.5, indices: Sequence[int] | str | Path | None = None
    ) -> None:
        self.prune_fraction = check_prune_fraction("StaticSubset", prune_fraction)
        self.keep_fraction = 1.0 - self.prune_fraction
        self.indices = None if indices is None else _check_indices(indices)

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
