import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_alignprune.functional import (
    group_labels,
    optimal_cuts,
    sliding_window,
    window_selection,
)
from tests import oracles

values = st.lists(st.floats(-1e6, 1e6, width=32, allow_subnormal=False), min_size=1, max_size=10)


def grouped(scores, k):
    return group_labels(scores, optimal_cuts(scores, k))


def test_oracle_of_the_seta_code():
    scores = torch.tensor([0, 0.1, 0.2, 1, 1.1, 5, 5.2, 9, 9.5, 9.7])
    labels = grouped(scores, 4)
    assert torch.bincount(labels).tolist() == [3, 2, 2, 3]
    centres = [scores[labels == g].mean().item() for g in range(4)]
    assert centres == pytest.approx([0.1, 1.05, 5.1, 9.4], abs=1e-6)


@given(values, st.integers(1, 5))
@settings(max_examples=150)
def test_never_worse_than_all_groupings(numbers, k):
    scores = torch.tensor(numbers)
    inertia = oracles.sum_of_squares(scores, grouped(scores, k))
    spread = float(np.ptp(scores.double().numpy()))
    assert inertia <= oracles.least_sum_of_squares(scores, k) + 1e-12 * spread**2


@pytest.mark.parametrize("k", [2, 3, 7])
@pytest.mark.parametrize("kind", ["normal", "long tail", "ties", "clumps", "outlier", "even"])
def test_equals_the_dynamic_programme(kind, k):
    generator = torch.Generator().manual_seed(k)
    x = torch.randn(250, generator=generator)
    scores = {
        "normal": x,
        "long tail": (3 * x).exp(),
        "ties": (2 * x).round(),
        "clumps": x * 0.01 + torch.randint(0, 6, (250,), generator=generator),
        "outlier": torch.cat([x, torch.tensor([1e5])]),
        "even": torch.arange(250.0),
    }[kind]
    inertia = oracles.sum_of_squares(scores, grouped(scores, k))
    assert inertia == pytest.approx(oracles.least_sum_of_squares_by_dp(scores, k), rel=1e-9)


@pytest.mark.parametrize("k", [2, 5, 10])
def test_inertia_is_not_above_scikit_learns(k):
    cluster = pytest.importorskip("sklearn.cluster")
    scores = torch.randn(3_000, generator=torch.Generator().manual_seed(0)).exp()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = cluster.KMeans(k, n_init=5, random_state=0).fit(scores.double().unsqueeze(1))
    assert oracles.sum_of_squares(scores, grouped(scores, k)) <= theirs.inertia_ * (1 + 1e-9)


def test_an_outlier_does_not_spoil_the_sums_of_the_others():
    scores = torch.cat([torch.arange(6.0) // 3 + torch.arange(6.0) * 1e-3, torch.tensor([1e12])])
    assert grouped(scores, 3).tolist() == [0, 0, 0, 1, 1, 1, 2]


@pytest.mark.parametrize("sign", [-1, 1])
def test_an_outlier_does_not_spoil_the_sums_of_its_run(sign):
    scores = torch.arange(20_000.0) // 5_000 + torch.arange(20_000.0) * 1e-6
    labels = grouped(torch.cat([scores * sign, torch.tensor([1e12 * sign])]), 5)
    assert labels.bincount().sort().values.tolist() == [1, *[5_000] * 4]


def test_many_scores_are_nearest_to_the_mean_of_their_group():
    scores = torch.randn(300_000, generator=torch.Generator().manual_seed(0)).exp()
    cuts = optimal_cuts(scores, 6)
    labels = group_labels(scores, cuts)
    means = torch.stack([scores[labels == group].double().mean() for group in range(6)])
    middles = (means[1:] + means[:-1]) / 2
    below = torch.stack([scores[scores < cut].max() for cut in cuts])
    assert bool(((below <= middles) & (middles <= cuts)).all())


def test_the_caller_keeps_the_order_of_its_scores():
    scores = torch.tensor([2.0, 3.0, 1.0])
    optimal_cuts(scores, 2)
    select(scores, range(2), k=2)
    assert scores.tolist() == [2.0, 3.0, 1.0]


@given(values, st.integers(1, 4), st.randoms(use_true_random=False))
@settings(max_examples=50)
def test_order_does_not_matter(numbers, k, random):
    shuffled = random.sample(numbers, len(numbers))
    assert torch.equal(
        optimal_cuts(torch.tensor(numbers), k), optimal_cuts(torch.tensor(shuffled), k)
    )


def test_scale_and_shift_do_not_change_the_groups():
    scores = torch.randint(0, 1_000, (500,), generator=torch.Generator().manual_seed(1)).float()
    labels = grouped(scores, 4)
    assert torch.equal(labels, grouped(scores * 8 - 4096, 4))
    assert torch.equal(3 - labels, grouped(-scores, 4))


def test_float64_scores_that_float32_cannot_tell_apart():
    scores = 1 + torch.tensor([0, 1, 100, 101], dtype=torch.float64) * 1e-12
    assert grouped(scores, 2).tolist() == [0, 0, 1, 1]


def test_undefined_scores_are_left_out():
    scores = torch.tensor([torch.nan, 1.0, torch.inf, 5.0, -torch.inf])
    assert grouped(scores, 2).tolist() == [-1, 0, -1, 1, -1]


def test_fewer_distinct_scores_than_groups():
    assert grouped(torch.tensor([2.0, 1.0, 2.0]), 4).tolist() == [1, 0, 1]
    assert optimal_cuts(torch.full((3,), torch.nan), 3).tolist() == [math.inf] * 2
    assert optimal_cuts(torch.tensor([7.0]), 1).tolist() == []


def test_minus_zero_is_zero():
    assert grouped(torch.tensor([-0.0, 0.0, 1.0, 1.5, 1.0]), 2).tolist() == [0, 0, 1, 1, 1]


def test_refusals():
    with pytest.raises(ValueError, match=r"expected num_groups in \[1, inf\), got 0"):
        optimal_cuts(torch.ones(3), 0)
    with pytest.raises(ValueError, match=r"expected scores of shape \(N,\), got \(3, 1\)"):
        optimal_cuts(torch.ones(3, 1), 2)


@pytest.mark.parametrize(
    ("k", "fraction", "windows"),
    [
        (4, 0.5, [[0, 1, 2, 3], [1, 2], [2, 3], [0, 1], [1, 2]]),
        (5, 0.6, [[0, 1, 2, 3, 4], [1, 2, 3], [2, 3, 4], [0, 1, 2], [1, 2, 3]]),
        (5, 0.9, [[0, 1, 2, 3, 4], [1, 2, 3, 4], [0, 1, 2, 3], [1, 2, 3, 4]]),
        (1, 1.0, [[0], [0]]),
    ],
)
def test_sliding_windows(k, fraction, windows):
    assert [list(sliding_window(k, fraction, i)) for i in range(len(windows))] == windows


def test_ten_groups_start_at_the_second():
    assert list(sliding_window(10, 0.5, 1)) == [1, 2, 3, 4, 5]


def select(scores, window, k=4, keep=1.0, end="low", epoch=1):
    indices = torch.arange(len(scores))
    return window_selection(scores, k, window, keep, indices, 0, epoch, end).kept


def test_window_keeps_its_groups_and_the_undefined():
    scores = torch.tensor([0, 0.1, 1, 1.1, 5, 5.1, 9, 9.1, torch.nan, torch.inf])
    low = select(scores, range(1, 3))
    assert low.tolist() == [False, False, True, True, True, True, False, False, True, True]
    high = select(scores, range(2), end="high")
    assert high.tolist() == [False, False, False, False, True, True, True, True, True, True]


def test_random_share_is_drawn_before_the_grouping():
    scores = torch.rand(1_000, generator=torch.Generator().manual_seed(0))
    kept = [select(scores, range(4), keep=0.9, epoch=e) for e in range(3)]
    assert [int(k.sum()) for k in kept] == [900] * 3
    assert not torch.equal(kept[0], kept[1])


def test_equal_scores_fall_into_chunks_of_equal_size():
    scores = torch.full((10,), 3.0)
    kept = [select(scores, range(g, g + 1), k=5) for g in range(5)]
    assert [int(k.sum()) for k in kept] == [2] * 5
    assert torch.stack(kept).sum(0).tolist() == [1] * 10
