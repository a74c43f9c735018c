"""`MixtureCut` on prepared scores."""

import numpy as np
import pytest
import torch
from scipy.stats import norm

from lightning_alignprune import LossTrajectories, MixtureCut, SelectionContext
from lightning_alignprune.functional import reference_cut
from tests.banks import bank_of, reloaded
from tests.in_two_shards import in_two_shards
from tests.noisy_scores import generator, ranks_of, right_losses

NAN, INF = float("nan"), float("inf")


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

    assert torch.equal(in_two_shards(select, 5000), select(slice(None)))


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
