"""Ranks among the reference, and the two cuts."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.mixture import GaussianMixture

from lightning_alignprune.functional import gaussian_cut, reference_cut, reference_rank
from tests.in_two_shards import in_two_shards
from tests.noisy_scores import generator, ranks_of

NAN, INF = float("nan"), float("inf")


# ---- reference_rank ---------------------------------------------------------------------------


def slow_rank(loss, reference):
    """Interpolate between the mean ranks of the reference losses, loss by loss."""
    points, n = sorted(set(reference)), len(reference)
    middle = [
        (sum(r < x for r in reference) + sum(r <= x for r in reference)) / 2 / n for x in points
    ]
    if loss < points[0]:
        return 0.0
    if loss >= points[-1]:
        return 1 - (1 - middle[-1]) * math.exp(points[-1] - loss)
    return float(np.interp(loss, points, middle))


NUMBERS = st.floats(-100, 100, width=32).filter(lambda x: x == 0 or abs(x) > 1e-3)


@given(st.lists(NUMBERS, min_size=1, max_size=30), st.lists(NUMBERS, min_size=1, max_size=30))
@settings(max_examples=200)
def test_rank_is_that_of_the_slow_version(losses, reference):
    ranks = reference_rank(torch.tensor(losses), torch.tensor(reference))
    expected = [slow_rank(loss, reference) for loss in losses]
    assert ranks.tolist() == pytest.approx(expected, abs=2e-5)


@given(
    st.lists(NUMBERS | st.sampled_from([NAN, INF, -INF, 1e30]), min_size=1, max_size=30),
    st.lists(NUMBERS, min_size=1, max_size=30),
)
@settings(max_examples=200)
def test_rank_is_monotone_within_0_and_1_and_nan_stays(losses, reference):
    losses = torch.tensor(losses).sort().values  # NaN last
    ranks = reference_rank(losses, torch.tensor(reference))
    assert torch.equal(ranks.isnan(), losses.isnan())
    ranks = ranks[~ranks.isnan()]
    assert (ranks >= 0).all()
    assert (ranks <= 1).all()
    assert (ranks.diff() >= -1e-6).all()


def test_ranks_of_chunks_are_those_of_the_whole():
    losses = torch.rand(200_000, generator=generator(0)) * 4
    reference = torch.rand(100, generator=generator(1)) * 3
    part = slice(65_000, 66_000)
    assert torch.equal(
        reference_rank(losses, reference)[part], reference_rank(losses[part], reference)
    )
    assert reference_rank(losses.half(), reference).dtype == torch.float32
    assert reference_rank(losses[:0], reference).shape == (0,)


def test_losses_beyond_the_reference_stay_in_order():
    ranks = reference_rank(torch.tensor([3.0, 4.0, 6.0]), torch.tensor([1.0, 2.0, 2.0]))
    assert (ranks.diff() > 0).all()
    assert float(ranks[0]) > 2 / 3


def test_equal_losses_of_a_sure_network_are_in_the_middle_of_their_ranks():
    reference = torch.cat([torch.zeros(600), torch.rand(400, generator=generator(0))])
    ranks = reference_rank(reference, reference)
    assert ranks[:600].tolist() == pytest.approx([0.3] * 600)
    assert float(ranks.mean()) == pytest.approx(0.5)
    # All right labels, and no noise is seen in them.
    assert reference_cut(ranks, 1000).threshold == INF
    assert reference_cut(reference_rank(torch.zeros(50), torch.zeros(9)), 9).threshold == INF


# ---- reference_cut ----------------------------------------------------------------------------


@pytest.mark.parametrize("num_reference", [20, 200, 1000])
def test_nothing_is_cut_of_clean_labels(num_reference):
    cuts = [
        reference_cut(ranks_of(5000, 0, num_reference, seed, head_start=1.4)[0], num_reference)
        for seed in range(200)
    ]
    assert sum(cut.threshold < INF for cut in cuts) <= 5


@pytest.mark.parametrize("num_reference", [20, 200, 1000])
def test_chance_cuts_few_clean_labels(num_reference):
    # Without a head start, and the largest of many excesses: two standard errors are not enough.
    pruned = []
    for seed in range(200):
        ranks, _ = ranks_of(5000, 0, num_reference, seed)
        threshold = reference_cut(ranks, num_reference).threshold
        pruned.append(float((ranks > threshold).float().mean()))
    assert np.mean(np.array(pruned) > 0) < 0.25
    assert np.mean(pruned) < 0.08


@pytest.mark.parametrize("share", [0.05, 0.2, 0.45, 0.8])
@pytest.mark.parametrize("shift", [0.5, 2.0, 4.0])
def test_the_share_of_wrong_labels_is_not_overestimated(share, shift):
    found = []
    for seed in range(40):
        num_wrong = int(5000 * share)
        ranks, _ = ranks_of(5000 - num_wrong, num_wrong, 500, seed, shift)
        found.append(reference_cut(ranks, 500).noise_share)
    # The reference's own error at its middle, carried to the estimate: half a point over 22.
    error = (1 - share) * 0.5 / 500**0.5 / 0.5
    assert np.mean(found) <= share
    assert max(found) <= share + 2 * error
    if shift == 4.0:  # all wrong labels are in the worst tenth: two standard errors are missing
        assert np.mean(found) >= share - 2.3 * 0.3 * (1 / 500 + 1 / 5000) ** 0.5 / 0.9


@pytest.mark.parametrize("share", [0.2, 0.45, 0.8])
def test_the_cut_makes_what_is_kept_purer(share):
    num_wrong = int(5000 * share)
    ranks, is_wrong = ranks_of(5000 - num_wrong, num_wrong, 500, 0)
    cut = reference_cut(ranks, 500, head_start=1.0)
    kept = ranks <= cut.threshold
    assert is_wrong[kept].float().mean() < 0.5 * share
    assert is_wrong[~kept].float().mean() > 0.5
    assert kept[~is_wrong].float().mean() > 0.5
    assert kept[is_wrong].float().mean() < 0.5 * kept[~is_wrong].float().mean()


def test_no_more_is_pruned_than_the_share_of_wrong_labels_allows():
    # A fifth of the pruned are wrong; the share is known to one standard error, at most this.
    error = (0.25 * (1 / 200 + 1 / 5000)) ** 0.5 / 0.5
    for seed in range(200):
        ranks, _ = ranks_of(5000, 0, 200, seed)
        cut = reference_cut(ranks, 200, max_wrong=0.2, confidence=1.0)
        pruned = float((ranks > cut.threshold).float().mean())
        assert pruned <= 5 * (cut.noise_share + error) + 0.005


def test_what_was_cut_once_is_a_lower_bound_on_what_is_cut():
    ranks, is_wrong = ranks_of(4000, 1000, 500, 0)
    first = reference_cut(ranks, 500)
    assert first.pruned == pytest.approx(float((ranks > first.threshold).float().mean()), abs=0.002)
    assert reference_cut(ranks, 500, least_pruned=0.1) == first
    # What is trained on looks better and better, and what is wrong does not stand out any more.
    ranks, is_wrong = ranks_of(4000, 1000, 500, 0, shift=1.0, head_start=2.0)
    assert reference_cut(ranks, 500).threshold == INF
    later = reference_cut(ranks, 500, least_pruned=first.pruned)
    beyond = ranks > later.threshold
    assert first.pruned - 0.001 <= float(beyond.float().mean()) < first.pruned + 0.03
    assert later.pruned == first.pruned, "a bin's surplus does not add up"
    assert is_wrong[beyond].float().mean() > 0.3
    # All that is bad is in the last bin.
    worst = torch.cat([torch.zeros(900), torch.ones(100)])
    assert reference_cut(worst, 500, least_pruned=0.05).threshold == pytest.approx(0.995)


def test_a_lower_bound_on_wrong_labels_cuts_more():
    ranks, _ = ranks_of(3000, 2000, 500, 0)
    thresholds = [reference_cut(ranks, 500, max_wrong=m).threshold for m in (0.05, 0.2, 0.5)]
    assert thresholds == sorted(thresholds)
    assert thresholds[0] < thresholds[2]


def test_a_head_start_of_the_trained_samples_keeps_more():
    ranks, _ = ranks_of(3000, 2000, 500, 0)
    assert (
        reference_cut(ranks, 500, head_start=1.0).threshold
        >= reference_cut(ranks, 500, head_start=2.0).threshold
    )


@pytest.mark.parametrize(
    ("cut", "values"),
    [
        (lambda x, r=None: reference_cut(x, 500, all_reduce=r), ranks_of(3000, 2000, 500, 0)[0]),
        (
            lambda x, r=None: gaussian_cut(x, all_reduce=r),
            torch.cat([torch.randn(3000, generator=generator(0)), torch.arange(300) / 100 - 9]),
        ),
    ],
    ids=["reference", "gaussian"],
)
def test_shares_of_a_data_set_add_up_to_the_same_cut(cut, values):
    values = values[torch.randperm(len(values), generator=generator(1))]
    values[::7] = NAN
    whole = cut(values)
    assert math.isfinite(whole.threshold)
    found = in_two_shards(
        lambda part, reduce: torch.tensor([tuple(cut(values[part], reduce))], dtype=torch.float64),
        len(values),
    )
    assert found.tolist() == [pytest.approx(tuple(whole), abs=1e-9)] * 2


@pytest.mark.parametrize("values", [[], [NAN, NAN], [0.4]], ids=str)
def test_next_to_nothing_to_cut(values):
    assert reference_cut(torch.tensor(values), 100).threshold == INF
    assert gaussian_cut(torch.tensor(values)).threshold == -INF


# ---- gaussian_cut -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "share", "spread"), [(-6.0, 0.4, 1.0), (-5.0, 0.1, 1.5), (-4.0, 0.7, 0.5)]
)
def test_the_mixture_is_sklearns(low, share, spread):
    num_low = int(20_000 * share)
    scores = torch.randn(20_000, generator=generator(0))
    scores[:num_low] = scores[:num_low] * spread + low
    cut = gaussian_cut(scores, max_wrong=0.2)
    model = GaussianMixture(2, random_state=0, tol=1e-8, max_iter=1000)
    model.fit(scores.double().unsqueeze(1).numpy())
    first = int(model.means_.argmin())
    assert cut.noise_share == pytest.approx(model.weights_[first], abs=0.01)
    # Where the low component's posterior falls below max_wrong, to a bin's width.
    points = np.linspace(model.means_.min(), model.means_.max(), 2000)
    posterior = model.predict_proba(points[:, None])[:, first]
    assert cut.threshold == pytest.approx(points[posterior > 0.2].max(), abs=0.15)


def test_one_group_is_not_cut():
    for seed in range(50):
        rng = generator(seed)
        assert gaussian_cut(torch.randn(5000, generator=rng)).threshold == -INF
        near = torch.cat([torch.randn(3000, generator=rng), torch.randn(2000, generator=rng) - 1])
        assert gaussian_cut(near).threshold == -INF


@pytest.mark.parametrize("value", [0.0, -3.25, 1e30])
def test_equal_scores_are_not_cut(value):
    scores = torch.full((100,), value)
    assert gaussian_cut(scores).threshold == -INF
    scores[3] = NAN
    assert gaussian_cut(scores).threshold == -INF


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_a_handful_is_cut_only_between_its_values(n):
    scores = torch.randn(n, generator=generator(n))
    threshold = gaussian_cut(scores).threshold
    assert threshold == -INF or float(scores.min()) <= threshold <= float(scores.max())
