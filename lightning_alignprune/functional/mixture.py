"""Where the wrong labels begin: cuts through a mixture of right and wrong labels' scores.

Both cuts work on a histogram, so their cost beyond one pass over the samples does not depend on
how many there are, and shares of a data set can be added up.

Legend: ``N`` samples, ``n`` reference samples, ``K`` bins.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_alignprune._checks import check_float, check_int
from lightning_alignprune.functional._histogram import histogram
from lightning_alignprune.functional.selection import AllReduce

_NUM_BINS = 200
_CHUNK = 1 << 16  # whose temporaries stay in the cache
_MAX_ROUNDS = 200
_LEAST_SEPARATION = 2.0  # Ashman's D; below it two Gaussians are not two groups


class Cut(NamedTuple):
    """A cut through a mixture.

    Attributes:
        threshold: What lies above (ranks) or below (scores) it is pruned; infinite (minus
            infinite for scores) if nothing is.
        noise_share: Estimated share of wrong labels among all samples, in [0, 1].
        pruned: Share of the samples that it takes, in [0, 1].
    """

    threshold: float
    noise_share: float
    pruned: float = 0.0


def reference_rank(losses: Tensor, reference: Tensor) -> Tensor:
    """Say where losses lie among those of the reference set: its smoothed distribution function.

    Between two reference losses the rank is interpolated. Above the largest it tends to 1, so that
    losses out there stay in order.

    Args:
        losses: Shape (N,), float. NaN stays NaN.
        reference: Shape (n,), float, finite.

    Returns:
        Shape (N,), float32, in [0, 1]: 0 below all of the reference, near 1 far above all of it.

    Example:
        >>> reference_rank(torch.tensor([0.0, 1.5, 2.5]), torch.tensor([1.0, 2.0])).tolist()
        [0.0, 0.5, 0.8483673334121704]

    Note:
        O(N log n); no host synchronisation.
    """
    points = reference.float().sort().values
    count = len(points)
    # Entry k belongs to losses above k of the points. Equal points share the mean of their ranks,
    # as many losses of a sure network are 0 exactly.
    ends = [torch.searchsorted(points, points, right=right) for right in (False, True)]
    middle = (ends[0] + ends[1]) / (2 * count)
    left, start = torch.cat([points[:1], points]), torch.cat([middle.new_zeros(1), middle])
    rise = torch.diff(start, append=start[-1:]) / torch.diff(left, append=left[-1:]).clamp_min(
        1e-12
    )
    ranks = torch.empty(len(losses), device=losses.device)
    for begin in range(0, len(losses), _CHUNK):
        part = losses[begin : begin + _CHUNK].float()
        below = torch.searchsorted(points, part, right=True, out_int32=True)
        inside = (part - left[below]).clamp_min_(0).mul_(rise[below]).add_(start[below])
        beyond = 1 - (1 - middle[-1]) * torch.exp(points[-1] - part)  # NaN goes here and stays NaN
        ranks[begin : begin + _CHUNK] = torch.where(below >= count, beyond, inside)
    return ranks


def _check_max_wrong(owner: str, max_wrong: float) -> float:
    remedy = "0.2 is the default; lower cuts more."
    return check_float(owner, "max_wrong", max_wrong, above=0, below=1, remedy=remedy)


def reference_cut(
    ranks: Tensor,
    num_reference: int,
    max_wrong: float = 0.2,
    head_start: float = 1.4,
    confidence: float = 2.0,
    least_pruned: float = 0.0,
    all_reduce: AllReduce | None = None,
) -> Cut:
    """Cut where the share of wrong labels among the samples reaches ``max_wrong``.

    Right labels should be ranked among the reference as the reference itself is: evenly. Every
    excess at bad ranks is wrong labels. With ``T(t)`` the share of samples and ``1 - t`` that of
    the reference ranked worse than t, ``(T(t) - (1 - t)) / t`` never exceeds the share of wrong
    labels; its largest value, less ``confidence`` standard errors of a reference of n, is the
    estimate. Samples that are trained on are ranked better than a held-out reference, most of all
    where it is worst: the right labels' tail is taken as ``(1 - t) ** head_start``. What is pruned
    then maximises ``T(t) - (1 - share) (1 - t) ** head_start / (1 - max_wrong)``: the samples among
    which more than ``max_wrong`` are wrong.

    Args:
        ranks: Shape (N,), float, as of :func:`reference_rank`; NaN is left out.
        num_reference: n, the size of the reference set.
        max_wrong: Estimated share of wrong labels at the cut, in (0, 1).
        head_start: Exponent, at least 1; 1 if the samples were not trained on.
        confidence: Standard errors that the largest excess must stand out by; with 2, one in six
            sets of right labels would show noise.
        least_pruned: Share of the samples, in [0, 1], that is pruned at least, to a bin's width:
            what an earlier cut found, when wrong labels stood out more.
        all_reduce: Sums over ranks when each holds only its share of the samples.

    Returns:
        A threshold on the ranks; infinite where no excess stands out, as on clean labels.

    Raises:
        TypeError: If an option is of the wrong kind.
        ValueError: If an option is out of range.

    Example:
        >>> right, wrong = torch.arange(6000) / 6000, 0.9 + torch.arange(4000) / 40000
        >>> cut = reference_cut(torch.cat([right, wrong]), num_reference=1000)
        >>> round(cut.threshold, 2), round(cut.noise_share, 2)
        (0.78, 0.38)
        >>> reference_cut(right, num_reference=1000).threshold
        inf

    Note:
        O(N) and one host synchronisation.
    """
    owner = "reference_cut"
    num_reference = check_int(
        owner, "num_reference", num_reference, low=1, remedy="A cut needs a reference."
    )
    max_wrong = _check_max_wrong(owner, max_wrong)
    remedy = "1 if the samples were not trained on."
    head_start = check_float(owner, "head_start", head_start, low=1, remedy=remedy)
    confidence = check_float(owner, "confidence", confidence, low=0, remedy="2 is the default.")
    remedy = "0 asks for nothing."
    least_pruned = check_float(owner, "least_pruned", least_pruned, low=0, high=1, remedy=remedy)
    counts = histogram(ranks, 0.0, 1.0, _NUM_BINS, all_reduce)
    total = float(counts.sum())
    if total == 0:
        return Cut(math.inf, 0.0)
    above = 1 - counts.cumsum(0)[:-1] / total  # T(t)
    tail = 1 - torch.arange(1, _NUM_BINS, dtype=torch.float64) / _NUM_BINS  # 1 - t
    error = confidence * (tail * (1 - tail) * (1 / num_reference + 1 / total)).sqrt()
    # The better half of the ranks is left out: any small difference between a training step and a
    # reference pass (BatchNorm, augmentation) moves right labels about in it.
    informs = (tail >= 0.1) & (tail < 0.5)
    excess = (above - tail) / (1 - tail)
    share = float((excess - error / (1 - tail))[informs].max().clamp(0.0, 0.99))
    gain = above - (1 - share) * tail**head_start / (1 - max_wrong)
    # More than max_wrong of what is pruned is wrong, so that there is a most that can be pruned.
    # Clean labels on which chance shows a few percent of noise lose little.
    gain[above > float(excess[informs].max()) / max_wrong] = -math.inf
    best = int(gain.argmax())
    pruned = float(above[best]) if share > 0 and float(gain[best]) > 0 else 0.0
    if pruned < least_pruned:  # the bin's surplus must not add up from cut to cut
        best, pruned = int((above >= least_pruned).sum()) - 1, least_pruned
    if pruned == 0.0 or best < 0:
        return Cut(math.inf, share)
    return Cut((best + 1) / _NUM_BINS, share, pruned)


def gaussian_cut(
    scores: Tensor, max_wrong: float = 0.2, all_reduce: AllReduce | None = None
) -> Cut:
    """Cut a mixture of two Gaussians where the low one's share reaches ``max_wrong``.

    For scores without a reference to compare with. Where two Gaussians do not explain the scores
    better than one (by BIC), or lie too close together (Ashman's D below 2), nothing is cut.

    Args:
        scores: Shape (N,), float, high = keep; NaN and infinite ones are left out.
        max_wrong: Posterior of the low component at the cut, in (0, 1).
        all_reduce: Sums over ranks when each holds only its share of the samples.

    Returns:
        A threshold on the scores; minus infinite for no cut.

    Raises:
        TypeError: If ``max_wrong`` is no number.
        ValueError: If it is out of range.

    Example:
        >>> scores = torch.cat([torch.randn(6000), torch.randn(4000) - 6])
        >>> cut = gaussian_cut(scores)
        >>> -4.5 < cut.threshold < -1.5, round(cut.noise_share, 1)
        (True, 0.4)
        >>> gaussian_cut(torch.randn(10_000)).threshold
        -inf

    Note:
        O(N); the EM runs on a histogram of 200 bins. Range of the bins: four standard deviations
        around the mean; what lies outside counts in the outermost bins.
    """
    max_wrong = _check_max_wrong("gaussian_cut", max_wrong)
    defined = scores[scores.isfinite()].double()
    moments = torch.stack([torch.ones_like(defined).sum(), defined.sum(), defined.square().sum()])
    count, first, second = (all_reduce(moments) if all_reduce else moments).tolist()
    if count < 2:
        return Cut(-math.inf, 0.0)
    mean = first / count
    deviation = math.sqrt(max(second / count - mean * mean, 0.0))
    if deviation == 0.0:
        return Cut(-math.inf, 0.0)
    low, high = mean - 4 * deviation, mean + 4 * deviation
    counts = histogram(defined, low, high, _NUM_BINS, all_reduce)
    width = (high - low) / _NUM_BINS
    centres = low + width * (torch.arange(_NUM_BINS, dtype=torch.float64) + 0.5)
    shares, means, spreads = _two_gaussians(counts, centres, width)
    densities = _normal(centres, means, spreads) * shares.unsqueeze(1)
    mixed = densities.sum(0).clamp_min(1e-300)
    alone = _normal(centres, torch.tensor([mean]), torch.tensor([deviation]))[0].clamp_min(1e-300)
    gain = 2 * float((counts * (mixed.log() - alone.log())).sum())
    distance = float((means[1] - means[0]).abs() / ((spreads**2).mean()).sqrt())
    share = float(shares[0])
    if gain <= 3 * math.log(count) or distance < _LEAST_SEPARATION:
        return Cut(-math.inf, 0.0)
    is_low = densities[0] / mixed > max_wrong
    # Between the means only: the wider Gaussian wins again far out on both sides.
    is_low = torch.where(centres <= means[0], True, is_low & (centres < means[1]))
    return Cut(float(centres[is_low][-1] + width / 2) if is_low.any() else -math.inf, share)


def _normal(x: Tensor, means: Tensor, spreads: Tensor) -> Tensor:
    z = (x.unsqueeze(0) - means.unsqueeze(1)) / spreads.unsqueeze(1)
    return torch.exp(-0.5 * z.square()) / (spreads.unsqueeze(1) * math.sqrt(2 * math.pi))


def _two_gaussians(counts: Tensor, centres: Tensor, width: float) -> tuple[Tensor, Tensor, Tensor]:
    """Fit shares, means and standard deviations, the low component first, by EM on the bins."""
    share = counts / counts.sum()
    cumulative = share.cumsum(0)
    quartiles = [centres[int((cumulative < q).sum())] for q in (0.2, 0.8)]
    means = torch.stack(quartiles)
    spread = (share * (centres - (share * centres).sum()).square()).sum().sqrt()
    spreads = torch.stack([spread, spread]) / 2
    shares = torch.tensor([0.5, 0.5], dtype=torch.float64)
    for _ in range(_MAX_ROUNDS):
        parts = _normal(centres, means, spreads) * shares.unsqueeze(1)
        weights = share * parts / parts.sum(0).clamp_min(1e-300)
        before, shares = shares, weights.sum(1).clamp_min(1e-9)
        means = (weights * centres).sum(1) / shares
        scatter = (weights * (centres - means.unsqueeze(1)).square()).sum(1) / shares
        spreads = scatter.sqrt().clamp_min(width)
        if float((shares - before).abs().max()) < 1e-6:
            break
    order = means.argsort()
    return shares[order], means[order], spreads[order]
