"""Slow, obvious versions of the package's maths, in numpy and scipy, for the tests to compare with.

Nothing here imports the package. Legend: N samples, T epochs; NaN = not seen.
"""

import itertools
import math

import numpy as np
from scipy import stats


def pearson_alignment(losses, reference, min_observations=4):
    """DAS of a (T, N) array by scipy, sample by sample, over the epochs in which it was seen."""
    scores = []
    for v in np.asarray(losses, dtype=float).T:
        m = ~np.isnan(v) & ~np.isnan(reference)
        flat = m.sum() < 2 or np.ptp(v[m]) == 0 or np.ptp(reference[m]) == 0
        defined = m.sum() >= min_observations and not flat
        scores.append(stats.pearsonr(v[m], reference[m])[0] if defined else np.nan)
    return np.array(scores)


def carried(losses, before=None):
    """Repeat each sample's last loss in the epochs in which it was not seen."""
    out = np.array(losses, dtype=float)
    last = np.full(out.shape[1], np.nan) if before is None else np.array(before, dtype=float)
    for row in out:
        np.copyto(row, last, where=np.isnan(row))
        last = row
    return out


def sum_of_squares(values, labels):
    """Inertia of a grouping."""
    values, labels = np.asarray(values, dtype=float), np.asarray(labels)
    groups = [values[labels == g] for g in np.unique(labels)]
    return sum(((group - group.mean()) ** 2).sum() for group in groups)


def least_sum_of_squares(values, k):
    """Inertia of the best grouping into at most k intervals, by trying all of them."""
    values = np.sort(np.asarray(values, dtype=float))
    best = math.inf
    for num in range(1, min(k, len(values)) + 1):
        for cuts in itertools.combinations(range(1, len(values)), num - 1):
            labels = np.searchsorted(cuts, np.arange(len(values)), side="right")
            best = min(best, sum_of_squares(values, labels))
    return best


def least_sum_of_squares_by_dp(values, k):
    """The same for hundreds of values: the textbook dynamic programme, O(k N^2)."""
    x = np.sort(np.asarray(values, dtype=float))
    n = len(x)
    s1, s2 = np.insert(np.cumsum(x), 0, 0), np.insert(np.cumsum(x * x), 0, 0)

    def cost(a, b):
        return s2[b] - s2[a] - (s1[b] - s1[a]) ** 2 / (b - a)

    best = [math.inf] * (n + 1)
    best[0] = 0.0
    for _ in range(k):
        best = [0.0] + [min(best[a] + cost(a, b) for a in range(b)) for b in range(1, n + 1)]
    return best[n]


def mean_second_difference(losses):
    """Mean of the last three |l(e) - 2 l(e-1) + l(e-2)| of the seen losses; NaN with under six."""
    seen = [x for x in losses if not math.isnan(x)]
    d = [abs(a - 2 * b + c) for a, b, c in zip(seen, seen[1:], seen[2:], strict=False)]
    return float(np.mean(d[-3:])) if len(seen) >= 6 else math.nan


def moderate(features, labels, count):
    """Keep exactly `count` samples of middling distance to the median of their class."""
    features, labels = np.asarray(features, dtype=float), np.asarray(labels)
    centre = {c: np.median(features[labels == c], axis=0) for c in np.unique(labels)}
    pairs = zip(features, labels, strict=True)
    distance = [np.linalg.norm(f - centre[c]) for f, c in pairs]
    order = np.argsort(distance, kind="stable")
    start = (len(labels) - count) // 2
    return np.sort(order[start : start + count])
