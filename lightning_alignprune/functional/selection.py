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


def repb_selection(
    scores: Tensor,
    was_trained: Tensor,
    prune_probability: float,
    indices: Tensor,
    seed: int,
    epoch: int,
) -> Tensor:
    """Drop what lies below its batch's mean, and let back in what was left out (RePB).

    A sample of the last epoch with a score of 0 or more stays; one below 0 stays with probability
    ``1 - prune_probability``; one that was left out comes back with the same probability. One
    without a score stays.

    Args:
        scores: Shape (N,). Loss minus the mean of the batch it was in; NaN means undefined.
        was_trained: Shape (N,), bool. Whether the last epoch trained it.
        prune_probability: In [0, 1].
        indices: Shape (N,), int64. The samples' indices in the data set.
        seed: The run's seed.
        epoch: The epoch the selection is for.

    Returns:
        Shape (N,), bool. Which are kept.

    Raises:
        TypeError: If ``prune_probability`` is no number.
        ValueError: If it is outside [0, 1].

    Example:
        >>> scores, was_trained = torch.tensor([0.5, -0.5, 0.5]), torch.tensor([True, True, False])
        >>> repb_selection(scores, was_trained, 1.0, torch.arange(3), seed=0, epoch=1).tolist()
        [True, False, False]

    Note:
        O(N); one coin for each sample, no host synchronisation.
    """
    remedy = "0 drops nothing, 1 drops every sample below its batch's mean."
    prune_probability = check_float(
        "repb_selection", "prune_probability", prune_probability, low=0, high=1, remedy=remedy
    )
    has_luck = uniform(indices, seed, epoch) >= prune_probability
    return (was_trained & (scores >= 0)) | has_luck | scores.isnan()


def orderdp_selection(
    scores: Tensor,
    pool_fraction: float,
    top_fraction: float,
    indices: Tensor,
    seed: int,
    epoch: int,
    all_reduce: AllReduce | None = None,
) -> Tensor:
    """Draw a random pool and take the samples with the highest scores in it (OrderDP).

    Of the n samples with a score ``floor(pool_fraction * n)`` are drawn, of these
    ``floor(top_fraction * pool)`` kept. Samples without a score are kept on top.

    Args:
        scores: Shape (N,). NaN means undefined.
        pool_fraction: In (0, 1].
        top_fraction: In (0, 1].
        indices: Shape (N,), int64. The samples' indices in the data set.
        seed: The run's seed.
        epoch: The epoch the selection is for.
        all_reduce: Sums over ranks when each holds only its share of the samples.

    Returns:
        Shape (N,), bool. Which are kept.

    Raises:
        TypeError: If a fraction is no number.
        ValueError: If one is outside (0, 1].

    Example:
        >>> scores = torch.tensor([0.1, 0.4, 0.3, 0.2])
        >>> orderdp_selection(scores, 1.0, 0.5, torch.arange(4), seed=0, epoch=1).tolist()
        [False, True, True, False]

    Note:
        O(N) expected; four host synchronisations.
    """
    owner, remedy = "orderdp_selection", "1 leaves nothing out."
    for name, value in (("pool_fraction", pool_fraction), ("top_fraction", top_fraction)):
        check_float(owner, name, value, above=0, high=1, remedy=remedy)
    defined = ~scores.isnan()
    num_defined = int(all_reduce(defined.sum()) if all_reduce else defined.sum())
    # 0.57 * 100 is 56.999... in binary; the user's 57 % of 100 is 57.
    num_pool = int(pool_fraction * num_defined + 1e-9)
    num_kept = int(top_fraction * num_pool + 1e-9)
    draw = (indices, seed, epoch)
    pool = draw_fixed_count(defined, num_pool, *draw, stream=0, all_reduce=all_reduce)
    in_pool = torch.where(pool, scores, torch.nan)
    return ~defined | draw_largest(in_pool, num_kept, *draw, stream=1, all_reduce=all_reduce)


def next_subset(
    used: Tensor,
    count: int,
    indices: Tensor,
    seed: int,
    epoch: int,
    all_reduce: AllReduce | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw ``count`` samples of those not used yet; when they run out, begin a new round (RS2).

    Whoever calls it epoch after epoch sees every sample once before any of them twice. Where fewer
    than ``count`` are left of a round, all of them are taken and the rest is drawn of the others.

    Args:
        used: Shape (N,), bool. Which were drawn in the running round.
        count: How many to draw, over all ranks.
        indices: Shape (N,), int64. The samples' indices in the data set.
        seed: The run's seed.
        epoch: The epoch the draw is for.
        all_reduce: Sums over ranks when each holds only its share of the samples.

    Returns:
        Which are drawn, and which are used now; both of shape (N,), bool.

    Example:
        >>> drawn, used = next_subset(torch.tensor([True, True, False]), 2, torch.arange(3), 0, 1)
        >>> int(drawn.sum()), bool(drawn[2]), int(used.sum()), bool(used[2])
        (2, True, 1, False)

    Note:
        O(N) expected; two host synchronisations.
    """
    left = ~used
    num_left = int(all_reduce(left.sum()) if all_reduce else left.sum())
    draw = (indices, seed, epoch)
    drawn = draw_fixed_count(left, count, *draw, stream=0, all_reduce=all_reduce)
    if num_left > count:
        return drawn, used | drawn
    more = draw_fixed_count(~drawn, count - num_left, *draw, stream=1, all_reduce=all_reduce)
    return drawn | more, more
