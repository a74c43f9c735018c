import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_alignprune.functional import (
    largest_subset,
    moderate_subset,
    small_loss_subset,
    weighted_subset,
)
from tests import oracles

NAN = float("nan")


def test_small_losses():
    assert small_loss_subset(torch.tensor([0.5, NAN, 0.1, 0.3]), 2).tolist() == [2, 3]
    assert small_loss_subset(torch.tensor([0.5, NAN, torch.inf]), 3).tolist() == [0]


def test_oracle_of_the_small_loss():
    loss = -torch.tensor([0.7, 0.6]).log()
    assert loss[0].item() == pytest.approx(0.356675, abs=1e-6)
    assert small_loss_subset(loss, 1).tolist() == [0]


@given(st.integers(1, 60), st.integers(0, 20))
@settings(max_examples=40)
def test_balanced_small_losses(count, seed):
    generator = torch.Generator().manual_seed(seed)
    losses = torch.rand(50, generator=generator)
    labels = torch.randint(0, 4, (50,), generator=generator)
    chosen = small_loss_subset(losses, count, labels)
    assert len(chosen) == min(count, 50)
    size, available = (torch.bincount(x, minlength=4) for x in (labels[chosen], labels))
    assert all(
        s == min(a, size.max()) or s == size.max() - 1 for s, a in zip(size, available, strict=True)
    )
    for label in range(4):
        inside = chosen[labels[chosen] == label]
        best = (labels == label).nonzero().squeeze(1)
        best = best[losses[best].argsort()][: len(inside)]
        assert set(inside.tolist()) == set(best.tolist())


def test_ten_samples_of_ten_classes():
    labels = torch.arange(1_000) % 10
    chosen = small_loss_subset(
        torch.rand(1_000, generator=torch.Generator().manual_seed(0)), 10, labels
    )
    assert sorted(labels[chosen].tolist()) == list(range(10))


@pytest.mark.parametrize("count", [1, 5, 10, 11, 40])
def test_moderate_equals_the_slow_version(count):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(40, 3, generator=generator)
    labels = torch.randint(0, 3, (40,), generator=generator)
    chosen = moderate_subset(features, labels, count)
    assert len(chosen) == count
    np.testing.assert_array_equal(chosen, oracles.moderate(features, labels, count))


def test_moderate_takes_exactly_the_middle():
    # Class median 4.5, so the samples pair up by distance: 4 5 | 3 6 | 2 7 | 1 8 | 0 9.
    features = torch.arange(10.0).unsqueeze(1)
    assert moderate_subset(features, torch.zeros(10), 5).tolist() == [1, 2, 3, 6, 7]


def test_refusals():
    with pytest.raises(ValueError, match=r"count in \[1, inf\), got 0"):
        small_loss_subset(torch.ones(3), 0)
    with pytest.raises(ValueError, match=r"labels of shape \(3,\), got \(2,\)"):
        small_loss_subset(torch.ones(3), 1, torch.ones(2))
    with pytest.raises(ValueError, match=r"count in \[1, 3\], got 4"):
        moderate_subset(torch.ones(3, 2), torch.ones(3), 4)
    with pytest.raises(ValueError, match="NaN or inf for sample 1"):
        moderate_subset(torch.tensor([[0.0], [NAN]]), torch.zeros(2), 1)


def test_largest_scores():
    assert largest_subset(torch.tensor([0.5, NAN, 2.0, 1.0]), 2).tolist() == [2, 3]
    assert largest_subset(torch.tensor([NAN, NAN, -9.0]), 1).tolist() == [2]
    assert largest_subset(torch.tensor([NAN, -9.0]), 2).tolist() == [0, 1]


def test_equal_scores_come_in_another_order_with_another_seed_not_in_that_of_the_set():
    first, again, other = (largest_subset(torch.zeros(100), 50, seed=s) for s in (0, 0, 1))
    assert first.tolist() == again.tolist() != other.tolist()
    assert 10 < int((first < 50).sum()) < 40


@given(st.integers(1, 60), st.integers(0, 20))
@settings(max_examples=40)
def test_every_class_keeps_its_share(count, seed):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(60, generator=generator)
    labels = torch.randint(0, 4, (60,), generator=generator) * 7
    chosen = largest_subset(scores, count, labels)
    assert len(chosen) == count
    for label in labels.unique():
        members = (labels == label).nonzero().squeeze(1)
        inside = chosen[labels[chosen] == label]
        assert abs(len(inside) - count * len(members) / 60) < 1
        best = members[scores[members].argsort(descending=True)][: len(inside)]
        assert set(inside.tolist()) == set(best.tolist())


def test_a_weighted_draw_has_the_chances_of_its_weights():
    log_weights = torch.tensor([1.0, 2.0, 3.0, 4.0]).log()
    first = torch.cat([weighted_subset(log_weights, 1, seed) for seed in range(2000)])
    np.testing.assert_allclose(first.bincount() / 2000, [0.1, 0.2, 0.3, 0.4], atol=0.035)
    none = torch.tensor([-torch.inf, NAN, 0.0])
    assert weighted_subset(none, 1).tolist() == [2]
    assert weighted_subset(none, 3).tolist() == [0, 1, 2]
