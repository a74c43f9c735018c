"""From scores to the samples of the next epoch: pure selection rules.

Legend: ``N`` samples. A selection rule sees only tensors and numbers. ``all_reduce`` sums a tensor
over the ranks that each hold a share of the samples; without it one process holds them all.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from lightning_alignprune._checks import check_choice, check_float
from lightning_alignprune.functional._ordering import kth_smallest, ordered_keys
from lightning_alignprune.functional.draws import sample_keys, uniform

AllReduce = Callable[[Tensor], Tensor]
Rescale = Literal["expectation", "none"]
RESCALES: tuple[Rescale, ...] = get_args(Rescale)
_COIN_STREAM = 2


class Selection(NamedTuple):
    """Which samples train next epoch, and how much each counts.

    Attributes:
        kept: Shape (N,), bool.
        weights: Shape (N,), float32, the factor on each sample's loss; None means 1 for all.
    """

    kept: Tensor
    weights: Tensor | None = None


def full_selection(num_samples: int, device: torch.device | str = "cpu") -> Selection:
    """Keep every sample with weight 1.

    Example:
        >>> full_selection(3).kept.tolist()
        [True, True, True]
    """
    return Selection(torch.ones(num_samples, dtype=torch.bool, device=device))


def keep_always(selection: Selection, always: Tensor) -> Selection:
    """Add samples to a selection; they weigh what they did if they were kept, else 1.

    Args:
        selection: Any selection of N samples.
        always: Shape (N,), bool. The samples that are kept whatever it says.

    Example:
        >>> pruned = Selection(torch.tensor([True, False, False]), torch.tensor([2.0, 0.0, 0.0]))
        >>> kept, weights = keep_always(pruned, torch.tensor([True, True, False]))
        >>> kept.tolist(), weights[kept].tolist()
        ([True, True, False], [2.0, 1.0])
    """
    kept, weights = selection
    if weights is not None:
        weights = torch.where(always & ~kept, 1.0, weights)
    return Selection(kept | always, weights)


def draw_fixed_count(
    candidates: Tensor,
    count: int,
    indices: Tensor,
    seed: int,
    epoch: int,
    stream: int = 0,
    all_reduce: AllReduce | None = None,
) -> Tensor:
    """Draw exactly ``count`` of the candidates, uniformly and without replacement.

    The draw keeps the samples with the smallest keys of
    :func:`~lightning_alignprune.functional.sample_keys`, so it is the same wherever it is computed.

    Args:
        candidates: Shape (N,), bool.
        count: How many to keep over all ranks; capped by the number of candidates.
        indices: Shape (N,), int64. The samples' indices in the data set.
        seed: The run's seed.
        epoch: The epoch the draw is for.
        stream: Number of the draw within the epoch.
        all_reduce: Sums over ranks when each holds only its share of the samples.

    Returns:
        Shape (N,), bool, a subset of ``candidates``.

    Example:
        >>> drawn = draw_fixed_count(torch.arange(10) < 8, 3, torch.arange(10), seed=0, epoch=0)
        >>> int(drawn.sum()), bool((drawn & (torch.arange(10) >= 8)).any())
        (3, False)

    Note:
        O(N) expected; one host synchronisation.
    """
    if count <= 0:
        return torch.zeros_like(candidates)
    if all_reduce is None and bool(candidates.all()):
        keys = sample_keys(indices, seed, epoch, stream)
        threshold = kth_smallest(keys, count)
        return candidates.clone() if threshold is None else keys <= threshold
    positions = candidates.nonzero().squeeze(1)
    keys = sample_keys(indices[positions], seed, epoch, stream)
    threshold = kth_smallest(keys, count, all_reduce)
    if threshold is None:
        return candidates.clone()
    drawn = torch.zeros_like(candidates)
    drawn[positions] = keys <= threshold
    return drawn


def draw_largest(
    values: Tensor,
    count: int,
    indices: Tensor,
    seed: int,
    epoch: int,
    stream: int = 0,
    all_reduce: AllReduce | None = None,
) -> Tensor:
    """Take exactly the ``count`` samples with the largest values; draw among equals at the border.

    Args:
        values: Shape (N,), float32 or narrower. NaN is never taken.
        count: How many over all ranks; capped by the number of values that are not NaN.
        indices: Shape (N,), int64. The samples' indices in the data set.
        seed: The run's seed.
        epoch: The epoch the draw is for.
        stream: Number of the draw within the epoch.
        all_reduce: Sums over ranks when each holds only its share of the samples.

    Returns:
        Shape (N,), bool.

    Example:
        >>> values = torch.tensor([1.0, 3.0, torch.nan, 2.0])
        >>> draw_largest(values, 2, torch.arange(4), seed=0, epoch=0).tolist()
        [False, True, False, True]

    Note:
        O(N) expected; two host synchronisations.
    """
    if count <= 0:
        return torch.zeros_like(values, dtype=torch.bool)
    defined = ~values.isnan()
    # -0.0 + 0.0 is 0.0: the two zeros are equal, their bit patterns are not.
    keys = -ordered_keys(
        values.float().nan_to_num(nan=0.0, posinf=torch.inf, neginf=-torch.inf) + 0.0
    ).long()
    border = kth_smallest(keys[defined], count, all_reduce)
    if border is None:
        return defined
    taken = defined & (keys < border)
    num_taken = taken.sum()
    missing = count - int(all_reduce(num_taken) if all_reduce else num_taken)
    equal = defined & (keys == border)
    return taken | draw_fixed_count(equal, missing, indices, seed, epoch, stream, all_reduce)


def infobatch_selection(
    scores: Tensor,
    prune_probability: float,
    indices: Tensor,
    seed: int,
    epoch: int,
    rescale: Rescale = "expectation",
    all_reduce: AllReduce | None = None,
) -> Selection:
    """Drop a random share of the samples whose score is below the mean score (InfoBatch).

    ``low = {score < mean of the defined scores}``; ``floor((1 - prune_probability) * |low|)`` of
    them stay, drawn uniformly. Where that is none though ``prune_probability < 1``, one of them
    stays with probability ``(1 - prune_probability) * |low|``. With ``rescale="expectation"`` each
    kept low sample is weighted by the inverse of its chance to stay: ``|low| / |kept low|``, or
    ``1 / (1 - prune_probability)`` for that one. The weighted sum over the selection is then an
    exactly unbiased estimate of the sum over all samples. Samples with a NaN score are kept and
    left out of the mean.

    Args:
        scores: Shape (N,). High means keep; NaN means undefined.
        prune_probability: Chance in [0, 1] that a low sample is dropped this epoch.
        indices: Shape (N,), int64. The samples' indices in the data set.
        seed: The run's seed.
        epoch: The epoch the selection is for.
        rescale: ``"expectation"`` or ``"none"``.
        all_reduce: Sums over ranks when each holds only its share of the samples.

    Returns:
        The selection; ``weights`` is None when all are 1.

    Raises:
        TypeError: If an option is of the wrong kind.
        ValueError: If ``prune_probability`` is outside [0, 1] or ``rescale`` unknown.

    Example:
        >>> scores = torch.tensor([0.1, 0.2, 0.3, 0.4, 2.0])
        >>> kept, weights = infobatch_selection(scores, 0.5, torch.arange(5), seed=0, epoch=1)
        >>> int(kept.sum()), float(weights[kept].sum()), bool(kept[4])
        (3, 5.0, True)

    Note:
        O(N) expected time, O(N) extra memory; two host synchronisations.
    """
    owner, remedy = "infobatch_selection", "0 drops nothing, 1 drops every low sample."
    prune_probability = check_float(
        owner, "prune_probability", prune_probability, low=0, high=1, remedy=remedy
    )
    rescale = check_choice(owner, "rescale", rescale, RESCALES)
    defined = ~scores.isnan()
    totals = torch.stack([scores.nansum(dtype=torch.float64), defined.sum(dtype=torch.float64)])
    total, count = (all_reduce(totals) if all_reduce else totals).tolist()
    low = scores < (total / count if count else float("nan"))
    num_low_here = low.sum()
    num_low = int(all_reduce(num_low_here) if all_reduce else num_low_here)
    expected = (1.0 - prune_probability) * num_low
    # (1 - 0.9) * 10 is 0.999... in binary; the user's 10 % of 10 is 1.
    num_stay = int(expected + 1e-9)
    weight = num_low / max(num_stay, 1)
    if num_stay == 0 < expected:  # none would ever train, which no weight makes up for
        num_stay, weight = int(_coin(seed, epoch) < expected), 1.0 / (1.0 - prune_probability)
    stay = draw_fixed_count(low, num_stay, indices, seed, epoch, all_reduce=all_reduce)
    kept = stay | ~low
    if rescale == "none" or num_stay == 0 or weight == 1.0:
        return Selection(kept)
    weights = torch.ones(scores.shape, device=scores.device)
    weights[stay] = weight
    return Selection(kept, weights)


def _coin(seed: int, epoch: int) -> float:
    """Draw one number in [0, 1) for an epoch, the same on every rank."""
    return uniform(torch.zeros(1, dtype=torch.int64), seed, epoch, _COIN_STREAM).item()
