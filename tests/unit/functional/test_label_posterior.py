"""Transition matrices and posteriors on drawn predictions whose truth is known."""

import pytest
import torch
from scipy.optimize import minimize
from torch.testing import assert_close

from lightning_alignprune.functional import (
    estimate_transition,
    false_discovery_threshold,
    label_log_odds,
    label_posterior,
    mean_predictions,
    offset_to_share,
    reference_confusion,
    transition_matrix,
)
from tests.in_two_shards import in_lockstep
from tests.seeds import SEEDS, enough


def predictions_for(labels, prior, strength, generator):
    """Bayes' own predictions from features with a hump of ``strength`` at the true class."""
    features = torch.randn(len(labels), len(prior), generator=generator).double()
    features[torch.arange(len(labels)), labels] += strength
    return (strength * features + prior.log()).softmax(1)


def flipped(labels, C, noise, kind, generator):
    is_wrong = torch.rand(len(labels), generator=generator) < noise
    step = 1 if kind == "pair" else torch.randint(1, C, (len(labels),), generator=generator)
    return torch.where(is_wrong, (labels + step) % C, labels)


def drawn(seed, C=10, n=200, N=3000, noise=0.0, kind="uniform", strength=2.5, skew=0.0):
    """Reference predictions and labels, training predictions, given and true labels, the prior."""
    generator = torch.Generator().manual_seed(seed)
    prior = torch.arange(1, C + 1).double() ** -skew
    prior /= prior.sum()
    clean, true = (
        torch.multinomial(prior, size, replacement=True, generator=generator) for size in (n, N)
    )
    given = flipped(true, C, noise, kind, generator)
    reference = predictions_for(clean, prior, strength, generator)
    return reference, clean, predictions_for(true, prior, strength, generator), given, true, prior


def estimated(reference, clean, training, given, *_):
    C = reference.shape[1]
    counts = torch.bincount(given, minlength=C)
    sums = torch.zeros(C, C).double().index_add_(0, given, training)
    return estimate_transition(reference, clean, mean_predictions(sums, counts), counts)


def identity(C):
    return torch.eye(C).double()


def test_the_matrix_is_the_least_of_its_objective():
    generator = torch.Generator().manual_seed(0)
    R, T = (torch.rand(5, 5, generator=generator).double().softmax(0) for _ in range(2))
    found = transition_matrix(R, T, shrinkage=0.02)
    assert_close(found.sum(0), torch.ones(5).double())
    assert bool((found >= 0).all())
    for j in range(5):
        target = T[:, j].numpy()

        def objective(q, j=j, target=target):
            misfit = R.numpy() @ q - target
            return misfit @ misfit + 0.02 * ((q - identity(5)[j].numpy()) ** 2).sum()

        one = {"type": "eq", "fun": lambda q: q.sum() - 1}
        slow = minimize(
            objective, [0.2] * 5, bounds=[(0, 1)] * 5, constraints=[one], options={"ftol": 1e-14}
        )
        assert objective(found[:, j].numpy()) <= slow.fun + 1e-8


@pytest.mark.parametrize("C", [2, 10, 100])
def test_a_known_mixture_is_taken_apart(C):
    generator = torch.Generator().manual_seed(1)
    R = 0.7 * identity(C) + 0.3 * torch.rand(C, C, generator=generator).double().softmax(0)
    Q = 0.6 * identity(C) + 0.4 * identity(C).roll(1, 0)
    assert_close(transition_matrix(R, R @ Q, shrinkage=1e-6), Q, atol=1e-3, rtol=0)
    assert_close(transition_matrix(R, R), identity(C), atol=1e-6, rtol=0)


CASES = [
    {"C": 2, "n": 20},
    {"n": 20, "strength": 3.0},
    {"n": 200},
    {"n": 1000},
    {"n": 200, "strength": 1.5},  # a network that is right in half of the cases
    {"C": 20, "n": 20},
    {"C": 20, "n": 200, "N": 10_000},
    {"C": 20, "n": 1000, "N": 10_000, "skew": 0.5},  # some have 4 times the samples of others
    {"C": 100, "n": 200, "N": 20_000},  # two a class, 13 without any
    {"C": 100, "n": 1000, "N": 20_000},
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_clean_labels_show_no_noise(case):
    found = [estimated(*drawn(seed, **case)) for seed in SEEDS]
    is_clean = [torch.equal(each.matrix, identity(len(each.matrix))) for each in found]
    assert all(
        each.noise_share == 0.0 for each, clean in zip(found, is_clean, strict=True) if clean
    )
    # Two standard errors: one in 44 would show noise.
    assert sum(is_clean) >= enough(0.977)


@pytest.mark.parametrize("kind", ["uniform", "pair"])
@pytest.mark.parametrize("noise", [0.2, 0.35, 0.5])
@pytest.mark.parametrize("n", [200, 1000])
def test_the_noise_share_is_within_its_error_bars(n, noise, kind):
    def is_within(seed):
        sample = drawn(seed, n=n, noise=noise, kind=kind)
        found, share = estimated(*sample), (sample[3] != sample[4]).double().mean()
        # The pull towards right labels is no chance: up to 0.02 here.
        return abs(found.noise_share - share) < 2 * found.standard_error + 0.02

    assert sum(map(is_within, SEEDS)) >= enough(0.954)


def test_the_standard_error_is_that_of_repeated_draws():
    found = [estimated(*drawn(seed, noise=0.4)) for seed in range(60)]
    spread = torch.tensor([each.noise_share for each in found]).std()
    error = torch.tensor([each.standard_error for each in found]).mean()
    assert 0.7 * spread < error < 1.5 * spread


def test_few_samples_a_class_still_tell_much_noise():
    def is_near(seed):
        found = estimated(*drawn(seed, C=100, n=200, N=20_000, noise=0.4, kind="pair"))
        return 0.25 < found.noise_share < 0.45

    assert sum(map(is_near, SEEDS)) >= enough(0.99)


def test_a_class_that_the_reference_lacks_is_left_alone():
    reference, clean, training, given, _, prior = drawn(0, n=300, noise=0.4)
    part = clean != 3
    found = estimated(reference[part], clean[part], training, given)
    assert torch.equal(found.matrix[:, 3], identity(10)[3])
    assert torch.equal(found.matrix[3], identity(10)[3])
    known = torch.arange(10) != 3
    assert bool((found.matrix.diagonal()[known] < 0.8).all())
    odds = label_log_odds(training, given, found.matrix, prior)
    assert bool((odds[given == 3] > 5.99).all())


def test_a_class_that_nobody_is_given_does_no_harm():
    reference, clean, training, given, *_ = drawn(0, n=300, noise=0.4)
    part = given != 3
    found = estimated(reference, clean, training[part], given[part])
    assert bool(found.matrix.isfinite().all())
    assert 0.3 < found.noise_share < 0.5


def test_hundreds_of_classes():
    found = estimated(*drawn(0, C=300, n=600, N=10_000, noise=0.4, strength=4.0))
    assert 0.25 < found.noise_share < 0.5
    assert found.matrix.shape == (300, 300)


def test_classes_with_many_samples_keep_their_own_confusion():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(4).repeat(500)
    own = (5 * torch.rand(4, 4, generator=generator)).softmax(0)  # each its own confusion
    answers = torch.multinomial(own.T[labels], 1, generator=generator).squeeze(1)
    predictions = torch.eye(4)[answers]
    sums = torch.zeros(4, 4).index_add_(0, labels, predictions)
    plain = mean_predictions(sums, torch.bincount(labels))
    assert_close(reference_confusion(predictions, labels), plain, atol=0.01, rtol=0)


def test_log_odds_by_the_formula():
    _, _, training, given, _, prior = drawn(0, C=4, N=50)
    Q = torch.rand(4, 4, generator=torch.Generator().manual_seed(1)).double().softmax(0)
    odds = label_log_odds(training, given, Q, prior)
    for p, j, found in zip(training, given, odds, strict=True):
        right = Q[j, j] * p[j] / prior[j]
        every = sum(Q[k, j] * p[k] / prior[k] for k in range(4))
        assert_close(found, (right / (every - right)).log().clamp(-6, 6))
    assert_close(label_posterior(training, given, Q, prior), odds.sigmoid())


def test_the_posterior_is_a_probability():
    *_, training, given, true, prior = drawn(0, N=20_000, noise=0.4, kind="pair", strength=2.0)
    Q = (
        torch.zeros(10, 10)
        .double()
        .index_put_((true, given), torch.ones(20_000).double(), accumulate=True)
    )
    posterior = label_posterior(training, given, Q / Q.sum(0), prior)
    for low in (0.0, 0.2, 0.4, 0.6, 0.8):
        part = (posterior >= low) & (posterior < low + 0.2)
        is_right = (given == true)[part].double().mean()
        assert abs(is_right - posterior[part].mean()) < 0.05


def test_extreme_predictions():
    third = torch.ones(3) / 3
    sure = torch.tensor([[1.0, 0.0, 0.0]]).repeat(3, 1)
    Q = torch.tensor([[0.6, 0.0, 0.0], [0.4, 1.0, 0.5], [0.0, 0.0, 0.5]])
    odds = label_log_odds(sure, torch.arange(3), Q, third)
    assert_close(odds, torch.tensor([6.0, 0.0, 0.0]))  # 0 against 0 says nothing
    assert bool((label_log_odds(sure, torch.arange(3), torch.eye(3), third) >= 0).all())


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"labels": torch.zeros(3).long()}, r"predictions of shape \(n, C\).*\(4, 2\) and \(3,\)"),
        ({"predictions": torch.zeros(0, 2), "labels": torch.zeros(0).long()}, "at least 1"),
        ({"shrinkage": 0.0}, "expected shrinkage"),
        ({"confidence": -1.0}, "expected confidence"),
    ],
)
def test_what_does_not_fit_is_refused(change, match):
    given = {
        "predictions": torch.ones(4, 2) / 2,
        "labels": torch.tensor([0, 1, 0, 1]),
        "training": torch.ones(2, 2) / 2,
        "counts": torch.tensor([4, 4]),
    }
    with pytest.raises(ValueError, match=match):
        estimate_transition(**(given | change))


def odds_of(seed, count=3000):
    return 2 * torch.randn(count, generator=torch.Generator().manual_seed(seed)) - 3


@pytest.mark.parametrize("share", [0.2, 0.4, 0.7])
def test_log_odds_are_moved_until_they_add_up_to_the_share(share):
    odds = odds_of(0).clamp(-6, 6)
    offset = offset_to_share(odds, share)
    assert float((odds + offset).sigmoid().mean()) == pytest.approx(share, abs=1e-3)


def test_log_odds_that_add_up_to_more_than_the_share_stay():
    odds = odds_of(1)
    assert offset_to_share(odds, float(odds.sigmoid().mean()) - 0.02) == 0.0
    assert offset_to_share(odds, 0.0) == 0.0
    assert offset_to_share(torch.full((5,), torch.nan), 0.4) == 0.0


def test_unknown_log_odds_and_how_ranks_share_them_change_nothing():
    odds = odds_of(2)
    wanted = offset_to_share(odds, 0.3)
    assert offset_to_share(torch.cat([odds, torch.full((9,), torch.nan)]), 0.3) == wanted
    found = in_lockstep(lambda rank, reduce: offset_to_share(odds[rank::2], 0.3, reduce), 2)
    assert found == [wanted, wanted]


@pytest.mark.parametrize("share", [-0.1, 1.0, "0.2"])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises((TypeError, ValueError), match="share"):
        offset_to_share(odds_of(3), share)


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.2, 0.4])
def test_above_the_threshold_the_share_of_right_labels_is_the_largest_allowed(rate):
    odds = odds_of(4)
    right = (-odds.clamp(-6, 6)).sigmoid().sort().values
    wanted = int((right.cumsum(0) / torch.arange(1, len(odds) + 1) <= rate).sum())
    found = int((odds > false_discovery_threshold(odds, rate)).sum())
    assert 0 < wanted < len(odds)
    assert abs(found - wanted) <= max(2, 0.01 * wanted)  # bins of a hundredth


def test_all_or_none_are_above_the_threshold():
    odds = odds_of(5)
    assert false_discovery_threshold(odds, 1.0) == -torch.inf
    assert false_discovery_threshold(odds.clamp(max=0.0), 0.4) == torch.inf
    assert false_discovery_threshold(torch.full((5,), torch.nan), 0.4) == torch.inf
    assert false_discovery_threshold(odds.new_tensor([9.0, -9.0]), 0.1) == pytest.approx(-5.99)


def test_the_threshold_is_the_same_on_ranks_and_unknown_odds_are_left_out():
    odds = odds_of(6)
    wanted = false_discovery_threshold(odds, 0.05)
    unknown = torch.full((9,), torch.nan)
    assert false_discovery_threshold(torch.cat([odds, unknown]), 0.05) == wanted

    def of_rank(rank, reduce):
        return false_discovery_threshold(odds[rank::2], 0.05, reduce)

    assert in_lockstep(of_rank, 2) == [wanted, wanted]


@pytest.mark.parametrize("rate", [0.0, 1.1, "0.2"])
def test_a_rate_that_is_none_is_refused(rate):
    with pytest.raises((TypeError, ValueError), match="rate"):
        false_discovery_threshold(odds_of(7), rate)
