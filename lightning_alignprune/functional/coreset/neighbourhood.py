"""Prune4ReL: samples that lend the most confidence to their neighbours, picked one by one.

Every pick makes its neighbours, the samples of almost the same direction, worth less. To find them
without looking at all N samples the features lie in cells around centres: on the unit sphere angles
obey the triangle inequality, so most cells, and most of a cell, can be left out for certain.

Legend: ``N`` samples, ``K`` picked, ``d`` feature size.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_alignprune._checks import check_float, check_int
from lightning_alignprune.functional.coreset.prototypes import cosine_kmeans, nearest_prototype
from lightning_alignprune.functional.draws import sample_keys

#: About an hour on two cores at d = 512.
MOST_PAIRS = 10_000_000_000
_SLACK = 2e-3  # radians that rounding may move an angle
_CELL_STRIDE = 4.0  # above pi, so that cell number and angle make one sorted key
_FEWEST_IN_CELLS = 512
_NUM_PROBES = 256
_ITERATIONS, _MOST_EACH = 5, 32  # of the centres' k-means
_TOGETHER = 0.1  # of the time alone that a similarity takes when many are computed at once
_ROWS = 1 << 14  # looked at together
_STREAM = 14


def neighbourhood_gain(reached: Tensor, confidence: Tensor, eta: float = 1.0) -> Tensor:
    """Return what a sample's own confidence adds to what its neighbourhood has.

    ``tanh((R + c) / eta) - tanh(R / eta)``, which shrinks as R grows.

    Source: Prune4ReL, Park et al. 2023.

    Args:
        reached: R, shape (N,), at least 0: the confidence that picked neighbours lend a sample.
        confidence: c, shape (N,), in (0, 1]: its largest probability.
        eta: Scale, above 0.

    Returns:
        Shape (N,), float64, in (0, 1).

    Example:
        >>> gains = neighbourhood_gain(torch.zeros(3), torch.tensor([0.9, 0.8, 0.6]))
        >>> gains.double().round(decimals=6).tolist()
        [0.716298, 0.664037, 0.53705]
    """
    return _log_gain(reached.double(), confidence.double(), eta).exp()


def _log_gain(reached: Tensor, confidence: Tensor, eta: float) -> Tensor:
    # sinh(c) / (cosh(R + c) cosh(R)): its logarithm still tells samples apart where tanh is 1.
    x, c = reached * (2 / eta), confidence * (2 / eta)
    return torch.log1p(-(-c).exp()) - x - (-x - c).exp().log1p() - (-x).exp().log1p() + math.log(2)


def neighbourhood_subset(
    features: Tensor,
    confidence: Tensor,
    count: int,
    threshold: float = 0.95,
    eta: float = 1.0,
    most_pairs: int = MOST_PAIRS,
    seed: int = 0,
) -> Tensor:
    """Pick the sample of the largest gain, let its neighbours have its confidence, and again.

    Exact: no neighbour above the threshold is missed. Sources and parity: Prune4ReL, Park et al.
    2023; as in the public code the gain is a candidate's own, without its neighbours'. There all
    gains are equal once tanh is 1; here the least reached sample is still the first.

    Args:
        features: Shape (N, d), float, finite; only directions count.
        confidence: Shape (N,), in (0, 1].
        count: K, in [1, N].
        threshold: Neighbours have ``0.5 + 0.5 * cosine`` above it; in [0.5, 1). 0.975 for CIFAR-10,
            0.95 for CIFAR-100 and ImageNet, 0.8 for Clothing-1M in the paper.
        eta: Scale of the confidences.
        most_pairs: How many similarities to compute at most. K times those of a pick, with the
            centres and with samples that may be neighbours, is estimated before anything is picked.
        seed: Seed of the cells' centres, which decide about the time, not about the picks.

    Returns:
        Shape (K,), int64, in the order in which they were picked.

    Raises:
        ValueError: If a number is out of range, a feature is not finite, or the set is too large
            for so low a threshold; the message says how many similarities it would take.

    Example:
        >>> features = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
        >>> neighbourhood_subset(features, torch.tensor([0.9, 0.8, 0.6]), 2).tolist()
        [0, 2]

    Note:
        Memory: two copies of the features, one after the start, and some numbers a sample. Time of
        a pick: O(d) for each cell and for each sample that may be a neighbour. There are sqrt(N)
        cells, more where these leave too many such samples; where few are left it is
        O(K * sqrt(N) * d).
    """
    owner, num_samples = "neighbourhood_subset", len(features)
    remedy = "It is the size of the subset."
    count = check_int(owner, "count", count, low=1, high=num_samples, remedy=remedy)
    remedy = "0.95 is the paper's for CIFAR-100 and ImageNet."
    check_float(owner, "threshold", threshold, low=0.5, below=1, remedy=remedy)
    check_float(owner, "eta", eta, above=0, remedy="1 in the paper.")
    _check_values(owner, features, confidence)
    cells, of_a_pick = _worthwhile_cells(features, threshold, count, seed)
    num_pairs = of_a_pick * count
    if num_pairs > most_pairs:
        raise ValueError(
            f"{owner}: expected at most {most_pairs:.3g} similarities, got about {num_pairs:.2g} "
            f"for {count} picks of {num_samples} samples. Raise threshold, so that fewer samples "
            "are neighbours, pick fewer, or raise most_pairs for a machine that is fast enough."
        )
    return _picks(cells, confidence, count, threshold, eta)


def _worthwhile_cells(
    features: Tensor, threshold: float, count: int, seed: int
) -> tuple["_Cells", float]:
    """Make cells, twice as many as long as that saves more than it takes.

    Fewer cells than clusters leave almost all samples to look at.

    Returns:
        The cells, and how many similarities a pick takes with them.
    """
    points = F.normalize(features.flatten(1).float(), dim=1)
    num_samples = len(points)
    number = 1 if num_samples < _FEWEST_IN_CELLS else round(math.sqrt(num_samples))
    cells = _Cells(points, threshold, number, seed)
    looked_at = cells.mean_candidates(seed)
    while number > 1 and looked_at > number:
        number *= 2
        pairs = number * (num_samples + _ITERATIONS * min(num_samples, number * _MOST_EACH))
        if number > num_samples or pairs * _TOGETHER > looked_at * count:
            break
        del cells  # only one of them at a time
        cells = _Cells(points, threshold, number, seed)
        looked_at = cells.mean_candidates(seed)
    return cells, looked_at + len(cells.bounds)


def _picks(cells: "_Cells", confidence: Tensor, count: int, threshold: float, eta: float) -> Tensor:
    confidence = confidence[cells.order].double()
    reached = torch.zeros_like(confidence)
    gains = _log_gain(reached, confidence, eta)
    # Gains only shrink: what was a cell's best is a bound until the cell comes first.
    best = torch.stack([gains[start:stop].max() for start, stop in cells.bounds])
    is_bound = [False] * len(cells.bounds)
    picked = torch.empty(count, dtype=torch.int64, device=gains.device)
    for number in range(count):
        cell = int(best.argmax())
        while is_bound[cell]:
            best[cell] = gains[slice(*cells.bounds[cell])].max()
            is_bound[cell] = False
            cell = int(best.argmax())
        pick = cells.bounds[cell][0] + int(gains[slice(*cells.bounds[cell])].argmax())
        picked[number] = pick
        gains[pick] = -torch.inf
        near, similarity = cells.neighbours(pick, threshold, is_bound)  # the pick is among them
        reached[near] += similarity * confidence[pick]
        fresh = _log_gain(reached[near], confidence[near], eta)
        gains[near] = torch.where(gains[near].isinf(), gains[near], fresh)
    return cells.order[picked]


class _Cells:
    """Unit vectors sorted by cell, and in a cell by the angle to its centre.

    Attributes:
        order: Shape (N,), int64: which sample is at which place.
        points: Shape (N, d), float32, in that order.
        bounds: Of each cell the first place and the one after its last.
    """

    def __init__(self, points: Tensor, threshold: float, number: int, seed: int) -> None:
        self._centres = cosine_kmeans(points, number, seed, _ITERATIONS, _MOST_EACH)
        similarity, cell = nearest_prototype(points, self._centres)
        keys = cell * _CELL_STRIDE + similarity.double().clamp(-1, 1).arccos()
        self._keys, self.order = keys.sort()
        self.points = points[self.order]
        self._places = torch.arange(len(points), device=points.device)
        self._reach = math.acos(2 * threshold - 1) + _SLACK
        sizes = cell.bincount(minlength=number)
        filled = sizes.nonzero().squeeze(1)
        self._centres, self._names = self._centres[filled], filled
        stops = sizes[filled].cumsum(0)
        self._radius = self._keys[stops - 1] - filled * _CELL_STRIDE
        self.bounds = list(zip([0, *stops[:-1].tolist()], stops.tolist(), strict=True))

    def neighbours(self, place: int, threshold: float, is_met: list[bool]) -> tuple[Tensor, Tensor]:
        """Return the places of all neighbours, and how similar they are; note which cells were met.

        Args:
            place: Whose neighbours.
            threshold: Which similarity they exceed.
            is_met: One per cell; True where a neighbour may be.
        """
        places, similarities = [], []
        for cell, start, stop in zip(*self._ranges(self.points[place]), strict=True):
            if start < stop:
                is_met[cell] = True
                places.append(self._places[start:stop])
                similarities.append(self.points[start:stop] @ self.points[place])
        similarity = torch.cat(similarities) * 0.5 + 0.5
        near = (similarity > threshold).nonzero().squeeze(1)
        return torch.cat(places)[near], similarity[near]

    def _ranges(self, point: Tensor) -> tuple[list[int], list[int], list[int]]:
        angles = (self._centres @ point).double().clamp(-1, 1).arccos()
        near = (angles - self._radius <= self._reach).nonzero().squeeze(1)
        middle, base = angles[near], self._names[near] * _CELL_STRIDE
        lowest = base + (middle - self._reach).clamp_min(0) - _SLACK
        highest = base + (middle + self._reach).clamp_max(math.pi) + _SLACK
        starts = torch.searchsorted(self._keys, lowest)
        stops = torch.searchsorted(self._keys, highest, right=True)
        return near.tolist(), starts.tolist(), stops.tolist()

    def mean_candidates(self, seed: int) -> float:
        """Return how many samples one pick has to look at, measured on some drawn ones."""
        probes = sample_keys(self._places, seed, 0, _STREAM).argsort()[:_NUM_PROBES].tolist()
        looked_at = 0
        for place in probes:
            _, starts, stops = self._ranges(self.points[place])
            looked_at += sum(stops) - sum(starts)
        return looked_at / len(probes)


def _check_values(owner: str, features: Tensor, confidence: Tensor) -> None:
    if confidence.shape != (len(features),):
        raise ValueError(
            f"{owner}: expected confidence of shape ({len(features)},), got "
            f"{tuple(confidence.shape)}. Pass one per sample, in the same order."
        )
    parts = torch.split(features.flatten(1), _ROWS)
    bad = ~torch.cat([part.isfinite().all(1) for part in parts])
    bad |= ~((confidence > 0) & confidence.isfinite())
    if bool(bad.any()):
        first = int(bad.nonzero()[0])
        raise ValueError(
            f"{owner}: expected finite features and confidences above 0, got others for sample "
            f"{first}. Look at that sample and at the network."
        )
