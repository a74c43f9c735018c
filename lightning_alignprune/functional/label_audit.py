"""Which labels look wrong, by scores of different meaning; given against suggested labels counted.

Legend: ``N`` samples, ``n`` reference samples, ``C`` classes.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_alignprune.functional.mixture import gaussian_cut, reference_cut, reference_rank

# An issue is a label that is more probably wrong than right.
UNDECIDED = 0.5


class Judgement(NamedTuple):
    """What is thought of the given labels.

    Attributes:
        quality: Shape (N,), float32, in [0, 1], high = right; NaN where nothing is known.
        is_issue: Shape (N,), bool. Whether the label counts as wrong.
        threshold: The quality below which it does; NaN where no quality decides.
        noise_share: Estimated share of wrong labels; NaN if there is no estimate.
        standard_error: Of the share; NaN if unknown.
        is_probability: Whether the quality is the probability that the label is right.
    """

    quality: Tensor
    is_issue: Tensor
    threshold: float
    noise_share: float = math.nan
    standard_error: float = math.nan
    is_probability: bool = False


def judge_by_quality(
    quality: Tensor, noise: tuple[float, float] | None = None, is_probability: bool = False
) -> Judgement:
    """Call an issue what is more probably wrong than right, or disagreed with more than not.

    Args:
        quality: Shape (N,), float, in [0, 1]; 0.5 is undecided, NaN is not judged.
        noise: Estimated share of wrong labels and its standard error.
        is_probability: Whether the quality is a probability.

    Example:
        >>> judge_by_quality(torch.tensor([0.9, 0.2, torch.nan])).is_issue.tolist()
        [False, True, False]
    """
    share, error = noise or (math.nan, math.nan)
    quality = quality.float()
    return Judgement(quality, quality < UNDECIDED, UNDECIDED, share, error, is_probability)


def judge_by_comparison(scores: Tensor, reference: Tensor | None = None) -> Judgement:
    """Call an issue what scores so badly that most samples of such scores must be wrong.

    With a clean reference the excess of bad scores over the reference's is wrong labels
    (:func:`~lightning_alignprune.functional.reference_cut` at a half), and the quality is the share
    of the reference that scores no better. Without one, two Gaussians are fitted
    (:func:`~lightning_alignprune.functional.gaussian_cut` at a half), and the quality is the share
    of the samples that score no better. On clean labels nothing stands out and nothing is called.

    Args:
        scores: Shape (N,), float, high = right; NaN is not judged.
        reference: Shape (n,), the same score of clean samples, NaN left out; None for no reference.

    Returns:
        The judgement; with a reference the share of noise is a lower bound, two errors below what
        was seen.

    Example:
        >>> scores = torch.cat([torch.linspace(-1, 0, 600), torch.linspace(-5, -4, 400)])
        >>> found = judge_by_comparison(scores, torch.linspace(-1, 0, 500))
        >>> int(found.is_issue[600:].sum()), int(found.is_issue[:600].sum()) < 60
        (400, True)
    """
    scores = scores.float()
    known = None if reference is None else reference[~reference.isnan()].float()
    if known is None or not len(known):
        found = gaussian_cut(scores, UNDECIDED)
        defined = scores[scores.isfinite()]
        badness = reference_rank(-scores, -defined) if len(defined) else scores * torch.nan
        is_issue = scores < found.threshold
    else:
        badness = reference_rank(-scores, -known.to(scores.device))
        found = reference_cut(badness, len(known), UNDECIDED)
        is_issue = badness > found.threshold
    quality = 1 - badness
    called = quality[is_issue]
    threshold = float(called.max()) if len(called) else math.nan
    return Judgement(quality, is_issue, threshold, found.noise_share)


def class_matrix(given: Tensor, label: Tensor, num_classes: int) -> Tensor:
    """Count the samples by given label and by the one that they should have.

    Args:
        given: Shape (N,), integer, in [0, C); negative entries are left out.
        label: Shape (N,), integer, in [0, C).
        num_classes: C.

    Returns:
        Shape (C, C), int64. Row j, column k: given as j and taken for k.

    Example:
        >>> class_matrix(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]), 2).tolist()
        [[1, 1], [0, 1]]
    """
    is_known = (given >= 0) & (label >= 0)
    cells = given[is_known].long() * num_classes + label[is_known].long()
    return torch.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def most_suspicious_first(quality: Tensor, losses: Tensor) -> Tensor:
    """Return an order of samples: low quality first, then those of unknown quality by their loss.

    Args:
        quality: Shape (N,), float; NaN where unknown.
        losses: Shape (N,), float; NaN where unknown.

    Returns:
        Shape (N,), int64. Equal samples stay in their order.

    Example:
        >>> nan = torch.nan
        >>> quality = torch.tensor([0.9, nan, 0.1, nan])
        >>> most_suspicious_first(quality, torch.tensor([1.0, 2.0, 3.0, 4.0])).tolist()
        [2, 0, 3, 1]
    """
    by_loss = losses.nan_to_num(nan=-math.inf).argsort(descending=True, stable=True)
    by_quality = quality[by_loss].nan_to_num(nan=math.inf).argsort(stable=True)
    return by_loss[by_quality]


def two_point_distribution(
    given: Tensor, suggested: Tensor, quality: Tensor, num_classes: int
) -> Tensor:
    """Spread a probability over the given and the suggested label.

    Args:
        given: Shape (N,), integer; negative where unknown, whose row is uniform.
        suggested: Shape (N,), integer; negative where there is none.
        quality: Shape (N,), in [0, 1], for the given label; the suggested one gets the rest. NaN
            counts as 1.
        num_classes: C.

    Returns:
        Shape (N, C), float32; rows add up to 1.

    Example:
        >>> labels = torch.tensor([0]), torch.tensor([2])
        >>> two_point_distribution(*labels, torch.tensor([0.25]), 3).tolist()
        [[0.25, 0.0, 0.75]]
    """
    right = torch.where(suggested < 0, 1.0, quality.float().nan_to_num(nan=1.0)).unsqueeze(1)
    found = torch.zeros(len(given), num_classes, device=given.device)
    found.scatter_add_(1, suggested.clamp_min(0).long().unsqueeze(1), 1 - right)
    found.scatter_add_(1, given.clamp_min(0).long().unsqueeze(1), right)
    found[given < 0] = 1 / num_classes
    return found
