"""Ranks among the reference, the two cuts, and `MixtureCut` on prepared scores."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.mixture import GaussianMixture

from lightning_alignprune import LossTrajectories, MixtureCut, SelectionContext
from lightning_alignprune.functional import gaussian_cut, reference_cut, reference_rank
from tests.unit.test_selection import in_two_shares
from tests.unit.test_trajectories import bank_of, reloaded

NAN, INF = float("nan"), float("inf")


def generator(seed):
    return torch.Generator().manual_seed(seed)


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


def right_losses(count, rng, head_start=1.0):
    """Normal losses; who is trained on has the head start over a held-out reference."""
    return -torch.special.ndtri(torch.rand(count, generator=rng) ** (1 / head_start))


def ranks_of(num_right, num_wrong, num_reference, seed, shift=2.0, head_start=1.0):
    """Ranks among a reference; wrong labels lie higher than the right ones."""
    rng = generator(seed)
    right = right_losses(num_right, rng, head_start)
    wrong = torch.randn(num_wrong, generator=rng) + shift
    reference = torch.randn(num_reference, generator=rng)
    is_wrong = torch.arange(num_right + num_wrong) >= num_right
    return reference_rank(torch.cat([right, wrong]), reference), is_wrong


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
    found = in_two_shares(
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


# ---- the policy -------------------------------------------------------------------------------


def context(n, bank=None, epoch=6, **kwargs):
    settings = {"epochs_since_best": 5}
    return SelectionContext(
        epoch, 0, 0, torch.arange(n), bank or LossTrajectories(n), **(settings | kwargs)
    )


def mixed(num_right=3000, num_wrong=2000, num_reference=500, seed=0, shift=3.0):
    """Scores (high = keep), those of a reference, and who is wrong.

    Right labels are trained on: they have the head start that MixtureCut reckons with.
    """
    rng = generator(seed)
    wrong = torch.randn(num_wrong, generator=rng) + shift
    scores = -torch.cat([right_losses(num_right, rng, 1.4), wrong])
    reference = -torch.randn(num_reference, generator=rng)
    return scores, reference, torch.arange(num_right + num_wrong) >= num_right


def cut_only(**kwargs):
    return MixtureCut(**({"prune_easy": 0.0, "readmit": 0.0} | kwargs))


@pytest.mark.parametrize("with_reference", [True, False])
def test_wrong_labels_are_pruned(with_reference):
    scores, reference, is_wrong = mixed(shift=5.0)
    policy = cut_only()
    kept = policy.select(
        scores, context(5000, reference_scores=reference if with_reference else None)
    ).kept
    assert is_wrong[~kept].float().mean() > 0.9
    assert (~kept)[is_wrong].float().mean() > 0.9
    assert policy.noise_share == pytest.approx(0.4, abs=0.08)
    assert policy.metrics() == {"noise_share": policy.noise_share}


def test_clean_labels_are_not_cut_with_a_reference():
    for seed in range(20):
        scores, reference, _ = mixed(5000, 0, seed=seed)
        assert cut_only().select(scores, context(5000, reference_scores=reference)).kept.all()


def test_no_reference_score_can_be_undefined_without_harm():
    scores, reference, _ = mixed()
    expected = cut_only().select(scores, context(5000, reference_scores=reference)).kept
    padded = torch.cat([torch.tensor([NAN]), reference, torch.tensor([NAN] * 3)])
    found = cut_only().select(scores, context(5000, reference_scores=padded)).kept
    assert torch.equal(found, expected)
    alone = cut_only().select(scores, context(5000)).kept
    nothing = torch.full((9,), NAN)
    assert torch.equal(
        cut_only().select(scores, context(5000, reference_scores=nothing)).kept, alone
    )


def test_it_waits_until_the_reference_has_not_improved_for_a_while():
    scores, reference, _ = mixed()
    policy = cut_only(patience=3)

    def num_cut(since):
        about = context(5000, reference_scores=reference, epochs_since_best=since)
        return int((~policy.select(scores, about).kept).sum())

    assert [num_cut(since) for since in (0, 1, 2)] == [0, 0, 0]
    assert policy.metrics() == {}
    assert num_cut(3) > 1000
    assert num_cut(0) > 1000, "once begun it goes on"
    about = context(5000, reference_scores=reference, epochs_since_best=None)
    assert not cut_only().select(scores, about).kept.all(), "no reference loss, no wait"
    about = context(5000, reference_scores=reference, epochs_since_best=0)
    assert not cut_only(patience=0).select(scores, about).kept.all()


def test_a_score_is_carried_until_there_is_a_new_one():
    scores, reference, is_wrong = mixed(shift=6.0)
    policy = cut_only()
    first = policy.select(scores, context(5000, reference_scores=reference)).kept
    # What was cut is not seen: its score is undefined, and it stays cut.
    later = torch.where(first, scores, NAN)
    again = policy.select(later, context(5000, reference_scores=reference)).kept
    assert torch.equal(again, first)
    # A new, good score brings a sample back.
    sample = int((~first & is_wrong).nonzero()[0])
    later[sample] = 2.0
    assert policy.select(later, context(5000, reference_scores=reference)).kept[sample]


def test_the_cut_does_not_shrink_when_what_is_trained_on_looks_better():
    # The excess shrinks as wrong labels are learned, and soon is within chance.
    policy, shares = cut_only(), []
    for shift in (2.0, 1.25, 1.0):
        scores, reference, is_wrong = mixed(4000, 1000, 300, shift=shift)
        about = context(5000, reference_scores=reference)
        kept = policy.select(scores, about).kept
        assert not kept.all()
        assert (~kept)[is_wrong].float().mean() > 1.5 * (~kept)[~is_wrong].float().mean()
        shares.append(float((~kept).float().mean()))
    assert shares[0] > 0.1
    assert min(shares) >= shares[0] - 0.002
    assert policy.noise_share > 0.05
    fresh = cut_only()
    assert fresh.select(scores, about).kept.all(), "too little to begin with"
    fresh.load_state_dict(reloaded(policy.state_dict()))
    assert torch.equal(fresh.select(scores, about).kept, kept)


def test_undefined_scores_are_kept():
    scores, reference, _ = mixed()
    scores[::3] = NAN
    for about in ({"reference_scores": reference}, {}):
        kept = MixtureCut(prune_easy=0.0).select(scores, context(5000, **about)).kept
        assert kept[::3].all()
        assert not kept.all()


def test_a_share_of_what_was_cut_is_looked_at_again_while_that_tells_something():
    scores, reference, _ = mixed()
    policy = cut_only(readmit=0.1)
    about = {"reference_scores": reference, "is_learning": True}
    all_seen = bank_of([[1.0] * 5000])
    cut = ~policy.select(scores, context(5000, all_seen, **about)).kept
    # Older losses still give those that were cut a score: that is nothing new.
    bank = bank_of([torch.where(cut, NAN, 1.0).tolist()])
    shares = []
    back = torch.zeros_like(cut)
    for epoch in range(7, 27):
        kept = policy.select(scores, context(5000, bank, epoch=epoch, **about)).kept
        shares.append(float(kept[cut].float().mean()))
        back |= kept & cut
        assert kept[~cut].all()
    assert np.mean(shares) == pytest.approx(0.1, abs=0.02)
    assert float(back[cut].float().mean()) > 0.8, "others in each epoch"
    closed = context(5000, bank, epoch=30, reference_scores=reference, is_learning=False)
    assert not policy.select(scores, closed).kept[cut].any()


def test_the_floor_on_what_is_kept():
    scores, reference, _ = mixed(500, 4500, shift=6.0)
    found = cut_only(min_kept=0.05).select(scores, context(5000, reference_scores=reference)).kept
    assert int(found.sum()) < 1000
    kept = cut_only(min_kept=0.3).select(scores, context(5000, reference_scores=reference)).kept
    assert int(kept.sum()) == 1500
    assert scores[kept].min() >= scores[~kept].max(), "the best of them"
    everything = cut_only(min_kept=1.0).select(scores, context(5000, reference_scores=reference))
    assert everything.kept.all()


def test_the_floor_within_a_class():
    scores, reference, _ = mixed(4000, 1000, shift=6.0)
    labels = torch.arange(5000) % 9
    labels[4000:] = 9  # a class of wrong labels only
    about = context(5000, reference_scores=reference, labels=labels)
    bare = cut_only(min_kept_per_class=0.0).select(scores, about).kept
    assert int(bare[labels == 9].sum()) < 50
    kept = cut_only(min_kept_per_class=0.25).select(scores, about).kept
    assert int(kept[labels == 9].sum()) == 250
    best = scores[4000:].sort(descending=True).values[:250]
    assert torch.equal(scores[4000:][kept[4000:]].sort(descending=True).values, best)
    assert torch.equal(kept[:4000], bare[:4000])
    unlabelled = labels.clone()
    unlabelled[:50] = -100
    about = context(5000, reference_scores=reference, labels=unlabelled)
    assert torch.equal(cut_only(min_kept_per_class=0.25).select(scores, about).kept, kept)


def test_easy_samples_are_left_out_at_random():
    n = 20_000
    losses = torch.rand(n, generator=generator(0))
    bank = bank_of([losses.tolist()])
    policy = MixtureCut(prune_easy=0.4, readmit=0.0)
    about = context(n, bank, reference_scores=torch.rand(50), epochs_since_best=0)
    kept = policy.select(torch.zeros(n), about).kept
    easy = losses < losses.mean()
    assert kept[~easy].all()
    assert float(kept[easy].float().mean()) == pytest.approx(0.6, abs=0.02)
    later = context(n, bank, epoch=7, reference_scores=torch.rand(50), epochs_since_best=0)
    assert not torch.equal(policy.select(torch.zeros(n), later).kept, kept)
    assert MixtureCut(prune_easy=0.4).keep_fraction == pytest.approx(0.6)


def test_easy_samples_that_stay_count_for_those_that_are_left_out():
    scores, reference, _ = mixed()
    losses = (-scores).exp()
    about = context(5000, bank_of([losses.tolist()]), reference_scores=reference)
    cut = ~cut_only().select(scores, about).kept
    kept, weights = MixtureCut(prune_easy=0.4, readmit=0.0).select(scores, about)
    assert not kept[cut].any()
    easy = ~cut & (losses < losses[~cut].mean())
    assert weights[easy & kept].unique().tolist() == [
        pytest.approx(float(easy.sum() / (easy & kept).sum()))
    ]
    assert (weights[kept & ~easy] == 1).all()
    assert float(weights[kept].sum()) == pytest.approx(float((~cut).sum()), rel=1e-5)
    bare = MixtureCut(prune_easy=0.4, readmit=0.0, rescale="none").select(scores, about)
    assert bare.weights is None
    assert torch.equal(bare.kept, kept)


def test_in_the_last_epochs_all_that_is_not_cut_trains_with_weight_1():
    scores, reference, _ = mixed()
    bank = bank_of([torch.where(torch.arange(5000) % 2 == 0, NAN, (-scores).exp()).tolist()])
    cut = ~cut_only().select(scores, context(5000, bank, reference_scores=reference)).kept
    about = context(5000, bank, reference_scores=reference, is_finishing=True)
    kept, weights = MixtureCut(prune_easy=0.5, readmit=0.3).select(scores, about)
    assert torch.equal(kept, ~cut)
    assert weights is None


def test_shares_decide_as_one_process():
    scores, reference, _ = mixed()
    losses = (-scores).exp()
    indices = torch.randperm(5000, generator=generator(3))

    def select(part, all_reduce=None):
        bank = bank_of([losses[part].tolist()])
        about = SelectionContext(
            6,
            0,
            0,
            indices[part],
            bank,
            all_reduce,
            reference_scores=reference,
            epochs_since_best=5,
        )
        kept, weights = MixtureCut().select(scores[part], about)
        return torch.stack([kept.double(), weights.double()], 1)

    assert torch.equal(in_two_shares(select, 5000), select(slice(None)))


def test_state_round_trip():
    scores, reference, _ = mixed()
    policy = MixtureCut()
    cut = ~policy.select(scores, context(5000, reference_scores=reference)).kept
    other = MixtureCut()
    other.load_state_dict(reloaded(policy.state_dict()))
    later = context(5000, epoch=7, reference_scores=reference, epochs_since_best=0)
    unseen = torch.where(cut, NAN, scores)
    assert other.noise_share == policy.noise_share
    assert torch.equal(other.select(unseen, later).kept, policy.select(unseen, later).kept)
    fresh = MixtureCut()
    fresh.load_state_dict(reloaded(MixtureCut().state_dict()))
    assert fresh.select(unseen, later).kept.any()


def test_rescale_is_checked():
    with pytest.raises(ValueError, match=r"MixtureCut: expected rescale .*got 'mean'"):
        MixtureCut(rescale="mean")


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("value", [0.0, NAN])
def test_tiny_and_constant_sets_are_kept(n, value):
    for reference in (None, torch.zeros(3)):
        about = context(n, reference_scores=reference, labels=torch.zeros(n, dtype=torch.int64))
        assert cut_only().select(torch.full((n,), value), about).kept.all()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_wrong", 0.0),
        ("max_wrong", 1.0),
        ("patience", -1),
        ("prune_easy", 1.0),
        ("readmit", -0.1),
        ("min_kept", 0.0),
        ("min_kept_per_class", 1.1),
    ],
)
def test_settings_are_checked(name, value):
    with pytest.raises(ValueError, match=rf"MixtureCut: expected {name} .*got {value}"):
        MixtureCut(**{name: value})


def test_the_boundary_has_the_meaning_that_it_says():
    # Densities are known here: at the cut, max_wrong of the samples are wrong.
    ranks, _ = ranks_of(60_000, 40_000, 20_000, 0, shift=2.5)
    threshold = reference_cut(ranks, 20_000, max_wrong=0.2, head_start=1.0).threshold
    loss = norm.ppf(threshold)
    right, wrong = 0.6 * norm.pdf(loss), 0.4 * norm.pdf(loss - 2.5)
    assert wrong / (right + wrong) == pytest.approx(0.2, abs=0.08)
