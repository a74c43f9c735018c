"""From scores or features to the samples that are kept: largest, smallest, middle, or drawn.

Legend: ``N`` samples, ``K`` chosen, ``d`` feature size, ``C`` classes.
"""

import torch
from torch import Tensor

from lightning_alignprune._checks import check_int
from lightning_alignprune.functional.draws import sample_keys, uniform

_TIES, _WEIGHTED = 11, 12  # streams of draws
_ONCE = 0  # stands where a draw has its epoch


def largest_subset(
    scores: Tensor, count: int, labels: Tensor | None = None, seed: int = 0
) -> Tensor:
    """Choose the samples with the largest scores; equal ones at random.

    Counts such as forgetting events are equal for many samples, and in the order of the data set
    equal ones would come from its first classes.

    Args:
        scores: Shape (N,). High = keep; NaN, such as of a sample never seen, comes last.
        count: K, in [1, N].
        labels: Shape (N,), integers. With them every class keeps its share of the whole, to within
            a sample, and the largest scores of each class are chosen.
        seed: Seed of the order of equal scores.

    Returns:
        Shape (K,), int64, ascending indices.

    Raises:
        ValueError: If ``count`` is out of range or the lengths differ.

    Example:
        >>> scores, labels = torch.tensor([9.0, 8.0, 7.0, 1.0]), torch.tensor([0, 0, 1, 1])
        >>> largest_subset(scores, 2).tolist(), largest_subset(scores, 2, labels).tolist()
        ([0, 1], [0, 2])

    Note:
        Two sorts of N numbers, with labels four.
    """
    owner = "largest_subset"
    remedy = "It is the size of the subset."
    count = check_int(owner, "count", count, low=1, high=len(scores), remedy=remedy)
    keys = sample_keys(torch.arange(len(scores), device=scores.device), seed, _ONCE, _TIES)
    order = keys.argsort()
    ranked = scores.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)[order]
    order = order[ranked.argsort(descending=True, stable=True)]
    if labels is None:
        return order[:count].sort().values
    _check_lengths(owner, "labels", labels, len(scores))
    _, of_class = torch.unique(labels[order], return_inverse=True)
    within = _place_in_class(of_class) < _shares(of_class.bincount(), count)[of_class]
    return order[within].sort().values


def _shares(sizes: Tensor, count: int) -> Tensor:
    """Deal ``count`` out in proportion to the sizes: whole parts, then the largest remainders."""
    exact = count * sizes  # whole numbers: no share is lost to rounding
    total = sizes.sum()
    shares = exact // total
    left = count - int(shares.sum())
    shares[(exact % total).argsort(descending=True, stable=True)[:left]] += 1
    return shares


def weighted_subset(log_weights: Tensor, count: int, seed: int = 0) -> Tensor:
    """Draw samples without replacement, each with a chance proportional to its weight.

    The K largest of log weight plus Gumbel noise are such a draw (Efraimidis and Spirakis 2006).

    Args:
        log_weights: Shape (N,). Minus infinity and NaN are drawn only when no others are left.
        count: K, in [1, N].
        seed: Seed of the draw, which depends on it and the sample's index only.

    Returns:
        Shape (K,), int64, ascending indices.

    Raises:
        ValueError: If ``count`` is out of range.

    Example:
        >>> weights = torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0])
        >>> weighted_subset(weights.log(), 3).tolist()
        [1, 2, 4]
    """
    indices = torch.arange(len(log_weights), device=log_weights.device)
    chance = uniform(indices, seed, _ONCE, _WEIGHTED).clamp_min(2.0**-54)
    return largest_subset(log_weights.double() - (-chance.log()).log(), count, seed=seed)


def small_loss_subset(losses: Tensor, count: int, labels: Tensor | None = None) -> Tensor:
    """Choose the samples with the smallest losses: most of them have the right label.

    Without labels the easy classes crowd out the others. With labels every class gets its share:
    the counts per class differ by at most one, as long as the classes have enough samples; what a
    small class cannot give is shared among the others. Equal losses: the lower index first.

    Args:
        losses: Shape (N,). NaN or infinite losses are never chosen.
        count: K, at least 1; capped by the number of finite losses. Ten samples are enough for a
            reference trend.
        labels: Shape (N,), the given (possibly wrong) labels, for a balanced choice.

    Returns:
        Shape (K,), int64, ascending indices.

    Raises:
        ValueError: If ``count`` is below 1 or the lengths differ.

    Example:
        >>> losses, labels = torch.tensor([0.1, 0.2, 0.9, 0.3]), torch.tensor([0, 0, 1, 0])
        >>> small_loss_subset(losses, 2).tolist(), small_loss_subset(losses, 2, labels).tolist()
        ([0, 1], [0, 2])

    Note:
        One or two sorts of N numbers.
    """
    count = check_int("small_loss_subset", "count", count, low=1, remedy="Ten will do.")
    order = losses.argsort(stable=True)
    order = order[losses[order].isfinite()]
    if labels is not None:
        _check_lengths("small_loss_subset", "labels", labels, len(losses))
        # The j-th best of its class comes before every (j+1)-th best: a round over the classes.
        order = order[_place_in_class(labels[order]).argsort(stable=True)]
    return order[:count].sort().values


def moderate_subset(features: Tensor, labels: Tensor, count: int) -> Tensor:
    """Choose the samples of middling distance to the median feature of their class (Moderate).

    Neither the most typical nor the strangest: of all samples in the order of their distance,
    the ``count`` in the middle, from position ``(N - K) // 2`` on.

    Parity: the public code rounds the two ends apart, which may change the number of samples; here
    exactly K are chosen.

    Args:
        features: Shape (N, d), float, finite.
        labels: Shape (N,), integers. The given (possibly wrong) labels.
        count: K, in [1, N].

    Returns:
        Shape (K,), int64, ascending indices.

    Raises:
        ValueError: If ``count`` is out of range, the lengths differ, or a feature is not finite.

    Example:
        >>> features, labels = torch.tensor([[0.0], [1.0], [2.0], [3.0], [9.0]]), torch.zeros(5)
        >>> moderate_subset(features, labels, 3).tolist()
        [0, 1, 3]

    Note:
        O(N * (C + d)) and a sort of N numbers; two copies of the largest class's features.
    """
    owner = "moderate_subset"
    num_samples = len(features)
    remedy = "It is the size of the subset."
    count = check_int(owner, "count", count, low=1, high=num_samples, remedy=remedy)
    _check_lengths(owner, "labels", labels, num_samples)
    distance = torch.empty(num_samples, device=features.device)
    classes: Tensor = torch.unique(labels)
    for label in classes:
        members = (labels == label).nonzero().squeeze(1)
        of_class = features[members].flatten(1).float()
        bad = ~of_class.isfinite().all(1)
        if bool(bad.any()):
            raise ValueError(
                f"{owner}: expected finite features, got NaN or inf for sample "
                f"{int(members[bad][0])}. Look at that sample and at the network."
            )
        distance[members] = (of_class - _median(of_class)).square().sum(1).sqrt()
    start = (num_samples - count) // 2
    return distance.argsort(stable=True)[start : start + count].sort().values


def _median(values: Tensor) -> Tensor:
    # Of an even number the mean of the middle two; torch.median would take the lower.
    columns, number = values.T.contiguous(), len(values)
    lower = columns.kthvalue((number + 1) // 2, dim=1).values
    return lower if number % 2 else (lower + columns.kthvalue(number // 2 + 1, dim=1).values) / 2


def _place_in_class(labels: Tensor) -> Tensor:
    """Number the samples of each class in their order: 0 for the first of its class."""
    by_class = labels.argsort(stable=True)
    ordered = labels[by_class]
    starts = torch.searchsorted(ordered, ordered)
    place = torch.empty_like(by_class)
    place[by_class] = torch.arange(len(labels), device=labels.device) - starts
    return place


def _check_lengths(owner: str, argument: str, values: Tensor, num_samples: int) -> None:
    if values.shape != (num_samples,):
        raise ValueError(
            f"{owner}: expected {argument} of shape ({num_samples},), got {tuple(values.shape)}. "
            "Pass one per sample, in the same order."
        )
