"""What the epochs of a run say of a sample: forgetting, Dyn-Unc, DUAL.

Legend: ``N`` samples, ``T`` recorded epochs, ``J`` epochs of a window. Rows hold one epoch each,
NaN where a sample was not seen in it.
"""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from lightning_alignprune._checks import check_choice, check_float, check_int

NeverLearned = Literal["zero", "max"]
NEVER_LEARNED: tuple[NeverLearned, ...] = get_args(NeverLearned)
_LEAST = 1e-6  # a Beta density is 0 or infinite at the ends


def forgetting_events(rows: Sequence[Tensor], never_learned: NeverLearned = "zero") -> Tensor:
    """Count how often a sample was right in one epoch and wrong in the next one that saw it.

    Source: Toneva et al. 2018.

    Args:
        rows: T tensors of shape (N,), oldest first: 1 where the prediction was the given label, 0
            where not.
        never_learned: What a sample that was never right counts: ``"zero"``, so that it is kept
            last, or ``"max"``, T, as in the paper, which keeps it first. Under label noise most of
            those are wrong.

    Returns:
        Shape (N,), float32, from 0 to T; NaN where no epoch saw the sample.

    Raises:
        ValueError: If there are no rows or the word is another.

    Example:
        >>> rows = [torch.tensor([r, 0.0]) for r in (0.0, 1.0, 0.0, 1.0, 1.0, 0.0)]
        >>> forgetting_events(rows).tolist(), forgetting_events(rows, "max").tolist()
        ([2.0, 0.0], [2.0, 6.0])

    Note:
        O(T N) time; three rows of memory.
    """
    check_choice("forgetting_events", "never_learned", never_learned, NEVER_LEARNED)
    _check_rows("forgetting_events", rows, 1)
    events = torch.zeros_like(rows[0], dtype=torch.float32)
    was_right = torch.zeros_like(rows[0], dtype=torch.bool)
    ever_right, ever_seen = was_right.clone(), was_right.clone()
    for row in rows:
        seen, right = ~row.isnan(), row > 0.5
        events += was_right & seen & ~right
        was_right = torch.where(seen, right, was_right)
        ever_right |= right
        ever_seen |= seen
    if never_learned == "max":
        events = torch.where(ever_right, events, len(rows))
    return torch.where(ever_seen, events, torch.nan)


def window_uncertainty(
    rows: Sequence[Tensor], window: int = 10, favours_hard: bool = False
) -> Tensor:
    """Return how much the given label's probability moves, averaged over all windows (Dyn-Unc).

    In each window of J epochs the unbiased standard deviation; with ``favours_hard`` times 1 minus
    the mean (DUAL), so that of two samples that move alike the less learned one is ahead.

    Sources: Dyn-Unc, He et al. 2024; DUAL, Cho et al. 2025.

    Args:
        rows: T tensors of shape (N,), oldest first: probabilities of the given labels.
        window: J, from 2 to T.
        favours_hard: Whether to weigh by 1 minus the window's mean.

    Returns:
        Shape (N,), float32, in [0, 0.71]; NaN where no window saw the sample twice.

    Raises:
        ValueError: If there are fewer rows than the window.

    Example:
        >>> rows = [torch.tensor([p]) for p in (0.1, 0.5, 0.9, 0.9)]
        >>> round(window_uncertainty(rows, 2).item(), 6)
        0.188562
        >>> round(window_uncertainty(rows, 2, favours_hard=True).item(), 6)
        0.094281

    Note:
        O(T N) time whatever the window; six rows of memory in float64. Parity: public code of
        Dyn-Unc leaves the last window out and takes a probability of 0 for "not seen".
    """
    owner = "window_uncertainty"
    check_int(owner, "window", window, low=2, remedy="Ten in the papers.")
    _check_rows(owner, rows, window)
    zeros = torch.zeros_like(rows[0], dtype=torch.float64)
    sums, squares, seen, total, windows = (zeros.clone() for _ in range(5))
    for t, row in enumerate(rows):
        for sign, part in ((1, row), (-1, rows[t - window] if t >= window else None)):
            if part is not None:
                values = part.double()
                is_seen = ~values.isnan()
                values = values.nan_to_num(nan=0.0)
                sums.add_(values, alpha=sign)
                squares.add_(values.square(), alpha=sign)
                seen.add_(is_seen, alpha=sign)
        if t >= window - 1:
            mean = sums / seen
            deviation = ((squares - sums * mean).clamp_min(0) / (seen - 1)).sqrt()
            values = deviation * (1 - mean) if favours_hard else deviation
            counts = seen >= 2
            total += torch.where(counts, values, 0)
            windows += counts
    return (total / windows).float()  # 0 / 0 is NaN


def mean_probability(rows: Sequence[Tensor]) -> Tensor:
    """Return the mean of a sample's observed values, shape (N,), float32; NaN where none.

    Example:
        >>> rows = [torch.tensor([0.25, float("nan")]), torch.tensor([0.75, float("nan")])]
        >>> mean_probability(rows).tolist()
        [0.5, nan]
    """
    _check_rows("mean_probability", rows, 1)
    total = torch.zeros_like(rows[0], dtype=torch.float64)
    seen = torch.zeros_like(total)
    for row in rows:
        total += row.double().nan_to_num(nan=0.0)
        seen += ~row.isnan()
    return (total / seen).float()


def beta_log_weights(
    means: Tensor,
    scores: Tensor,
    prune_fraction: float,
    exponent: float = 4.0,
    num_hardest: int = 10,
) -> Tensor:
    """Return the log weights of DUAL's Beta sampling: the more is pruned, the easier the draw.

    The weight is ``Beta(mean; a, b) * score`` with ``b = 15 (1 - m) (1 - rho^c)``, ``a = 16 - b``
    and m the mean of the ``num_hardest`` samples of the largest score.

    Source: DUAL, Cho et al. 2025.

    Args:
        means: Shape (N,), in [0, 1]: mean probability of the given label.
        scores: Shape (N,), at least 0. NaN is never drawn while others are left.
        prune_fraction: rho, in [0, 1).
        exponent: c, above 0: 4 for CIFAR-100, 11 for ImageNet in the public code.
        num_hardest: How many samples say where the density begins.

    Returns:
        Shape (N,), float64; minus infinity where the score is 0 or undefined.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> means, ones = torch.tensor([0.2, 0.4, 0.5, 0.8]), torch.ones(4)
        >>> log_weights = beta_log_weights(means, torch.tensor([1.0, 9.0, 1.0, 1.0]), 0.5, 4, 1)
        >>> [round(x, 4) for x in (log_weights.exp() / torch.tensor([1, 9, 1, 1])).tolist()]
        [0.2471, 2.7484, 3.063, 0.0735]

    Note:
        Parity: public code reads the labels of the clean data set and, as its README calls it,
        takes index numbers for scores.
    """
    owner = "beta_log_weights"
    remedy = "It is the share of samples left out."
    check_float(owner, "prune_fraction", prune_fraction, low=0, below=1, remedy=remedy)
    check_float(owner, "exponent", exponent, above=0, remedy="4 for CIFAR-100, 11 for ImageNet.")
    check_int(owner, "num_hardest", num_hardest, low=1, remedy="Ten in the paper.")
    known = scores.double().nan_to_num(nan=0.0)
    means = means.double().clamp(_LEAST, 1 - _LEAST)
    hardest = known.topk(min(num_hardest, len(known))).indices
    centre = float(means[hardest].nanmean().nan_to_num(nan=0.5))
    b = 15 * (1 - centre) * (1 - prune_fraction**exponent)
    a = 16 - b
    constant = math.lgamma(16) - math.lgamma(a) - math.lgamma(b)
    density = constant + (a - 1) * means.log() + (b - 1) * (1 - means).log()
    log_weights: Tensor = density + known.log()
    return log_weights.nan_to_num(nan=-torch.inf, neginf=-torch.inf)


def _check_rows(owner: str, rows: Sequence[Tensor], least: int) -> None:
    if len(rows) < least:
        raise ValueError(
            f"{owner}: expected at least {least} recorded epochs, got {len(rows)}. "
            "Record more epochs, or take a shorter window."
        )
