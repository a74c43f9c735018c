"""How far a sample is from the nearest prototype of unlabelled features (SSP).

Legend: ``N`` samples, ``d`` feature size, ``k`` prototypes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_alignprune._checks import check_int
from lightning_alignprune.functional.draws import sample_keys, uniform

_STREAM = 13
_ONCE = 0
_AT_FIRST = 8  # of the drawn samples one in so many, among which the centres begin
_MOST_SIMILARITIES = 1 << 24  # held at a time


def cosine_kmeans(
    features: Tensor, num_prototypes: int, seed: int = 0, iterations: int = 20, most_each: int = 256
) -> Tensor:
    """Find prototypes by k-means on the unit sphere.

    Centres begin as samples, each drawn with a chance proportional to its distance from those
    before it (k-means++). A centre that nobody is nearest to begins anew at the sample that is
    farthest from its own.

    Args:
        features: Shape (N, d), float; scaled to length 1.
        num_prototypes: k, from 1 to N.
        seed: Seed of the beginning.
        iterations: How often the centres move at most.
        most_each: Centres are found on at most this many samples each, drawn at random, as is
            common for large sets.

    Returns:
        Shape (k, d), float32, of length 1.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> features = torch.tensor([[1.0, 0.0], [2.0, 0.1], [0.0, 1.0], [0.1, 3.0]])
        >>> [round(x, 2) for x in cosine_kmeans(features, 2)[:, 0].sort().values.tolist()]
        [0.02, 1.0]

    Note:
        O(iterations * min(N, k * most_each) * k * d); a copy of the drawn features.
    """
    owner, num_samples = "cosine_kmeans", len(features)
    remedy = "As many as there are classes is a common choice."
    k = check_int(owner, "num_prototypes", num_prototypes, low=1, high=num_samples, remedy=remedy)
    check_int(owner, "iterations", iterations, low=1, remedy="Twenty will do.")
    check_int(owner, "most_each", most_each, low=1, remedy="256 will do.")
    indices = torch.arange(num_samples, device=features.device)
    drawn = sample_keys(indices, seed, _ONCE, _STREAM).argsort()[: k * most_each]
    points = F.normalize(features[drawn].float(), dim=1)
    centres, before = _beginning(points[: max(k, len(drawn) // _AT_FIRST)], k, seed), None
    for _ in range(iterations):
        similarity, nearest = nearest_prototype(points, centres)
        if before is not None and torch.equal(nearest, before):
            break
        centres, before = _moved(points, nearest, similarity, k), nearest
    return centres


def _beginning(points: Tensor, k: int, seed: int) -> Tensor:
    chances = uniform(torch.arange(k, device=points.device), seed, _ONCE, _STREAM)
    distance = torch.full_like(points[:, 0], torch.inf)
    chosen = torch.zeros(k, dtype=torch.int64, device=points.device)  # a random sample is first
    for number in range(1, k):
        distance = torch.minimum(distance, 1 - points @ points[chosen[number - 1]]).clamp_min(0)
        reached = distance.double().cumsum(0)
        place = torch.searchsorted(reached, chances[number] * reached[-1], right=True)
        chosen[number] = place.clamp_max(len(points) - 1)
    return points[chosen].clone()


def _moved(points: Tensor, nearest: Tensor, similarity: Tensor, k: int) -> Tensor:
    sums = points.new_zeros(k, points.shape[1]).index_add_(0, nearest, points)
    empty = (nearest.bincount(minlength=k) == 0).nonzero().squeeze(1)
    sums[empty] = points[similarity.argsort(stable=True)[: len(empty)]]
    return F.normalize(sums, dim=1)


def nearest_prototype(points: Tensor, prototypes: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest cosine and whose it is, both of shape (N,), for vectors of length 1."""
    size = max(1, _MOST_SIMILARITIES // len(prototypes))
    found = [(part @ prototypes.T).max(1) for part in torch.split(points, size)]
    return torch.cat([each.values for each in found]), torch.cat([each.indices for each in found])


def prototype_distance(features: Tensor, prototypes: Tensor) -> Tensor:
    """Return 1 minus the cosine to the nearest prototype: small = typical, large = hard.

    Labels are not used. Source: self-supervised prototypes, Sorscher et al. 2022.

    Args:
        features: Shape (N, d), float.
        prototypes: Shape (k, d), as :func:`cosine_kmeans` finds them.

    Returns:
        Shape (N,), float32, in [0, 2].

    Example:
        >>> prototype = torch.tensor([[1.0, 0.0]])
        >>> found = prototype_distance(torch.tensor([[0.8, 0.6], [0.0, 1.0]]), prototype)
        >>> [round(x, 4) for x in found.tolist()]
        [0.2, 1.0]

    Note:
        O(N * k * d), in parts: no copy of the features.
    """
    prototypes = F.normalize(prototypes.float(), dim=1)
    size = max(1, _MOST_SIMILARITIES // max(features.shape[1], len(prototypes)))
    parts = torch.split(features, size)
    return torch.cat(
        [1 - nearest_prototype(F.normalize(p.float(), dim=1), prototypes)[0] for p in parts]
    )
