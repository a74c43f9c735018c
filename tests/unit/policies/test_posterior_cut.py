"""`PosteriorCut`: when it begins, what it cuts, what it leaves."""

import dataclasses

import pytest
import torch

from lightning_alignprune import LossTrajectories, PosteriorCut, SelectionContext
from lightning_alignprune.signals import LossRanks
from tests.banks import reloaded

N, NAN = 100, float("nan")


def context(reference=1.0, since=2, **changes):
    bank = LossTrajectories(N, window=1)
    bank.record(torch.arange(N), torch.zeros(N))
    bank.close_epoch(0, torch.tensor(reference))
    made = SelectionContext(5, 0, 0, torch.arange(N), bank, estimates_since_peak=since)
    return dataclasses.replace(made, **changes)


def made(*args, **kwargs):
    """Cut all above the threshold, however many of them are right."""
    return PosteriorCut(*args, **{"max_right": 1.0, **kwargs})


def posteriors():
    return torch.linspace(0.005, 0.995, N)  # P(right), so that 50 are wrong at 0.5


def cut(policy, *args, scores=None, **kwargs):
    scores = posteriors() if scores is None else scores
    return int((~policy.select(scores, context(*args, **kwargs)).kept).sum())


def test_it_waits_for_the_peak_of_the_noise_share():
    policy = made(readmit=0.0)
    assert [cut(policy, since=since) for since in (0, 1, 2, 0)] == [0, 0, 50, 50]
    assert cut(made(readmit=0.0), since=None) == 50  # a signal without estimates


def test_nothing_is_cut_where_no_noise_stands_out():
    policy, unknown = made(), torch.full((N,), NAN)
    assert cut(policy, scores=unknown) == 0
    assert policy.metrics() == {}
    some = posteriors()
    some[:20] = NAN
    assert cut(made(readmit=0.0), scores=some) == 30


def test_the_estimate_counts_the_known_and_is_taken_over_all_shares():
    scores = posteriors()
    scores[-40:] = NAN
    policy = made(readmit=0.0)
    policy.select(scores, context(all_reduce=lambda value: value * 2))
    assert policy.wrong_kept == pytest.approx(float(1 - scores[50:60].mean()))


def test_a_cut_that_leaps_without_evidence_is_reported():
    def warned(*rows, changes=({}, {})):
        policy = made(readmit=0.0)
        for row, change in zip(rows, changes, strict=True):
            policy.select(row, context(**change))
        return policy.warning() or ""

    few = posteriors() + 0.3  # 20 wrong ones
    assert "30 of 50 samples that were cut come back and 0 others" in warned(posteriors(), few)
    assert "0 of 20 samples that were cut come back and 30 others" in warned(few, posteriors())
    assert not warned(posteriors(), posteriors() + 0.2)
    assert not warned(few, posteriors(), changes=({}, {"since": 0})), "a new estimate"
    assert not warned(posteriors() + 0.47, posteriors() + 0.44), "two and five are no leap"


def test_what_is_cut_comes_back_when_its_posterior_says_so():
    policy = made(readmit=0.0)
    assert cut(policy) == 50
    assert cut(policy, scores=posteriors().clamp_min(0.6)) == 0


def test_some_are_looked_at_again_but_not_at_the_end():
    assert 30 < cut(made(0.5, readmit=0.2)) < 49
    assert cut(made(0.5, readmit=0.2), is_finishing=True) == 50


def ranks(wrong):
    """Right labels lie among the reference as it does itself, wrong ones above nine tenths."""
    even = torch.linspace(0.001, 0.999, int((~wrong).sum()))
    places = torch.empty(N)
    places[~wrong], places[wrong] = even, torch.linspace(0.92, 0.999, int(wrong.sum()))
    return LossRanks(places, torch.linspace(0.0, 1.0, 400))


def soft_and_sharp():
    wrong = torch.arange(N) < 40
    sharp = torch.where(wrong, 0.02, 0.98)
    return wrong, torch.where(wrong, 0.55, 0.76), sharp


def test_ranks_are_cut_too_where_hardly_a_label_is_surely_wrong():
    wrong, soft, sharp = soft_and_sharp()
    about = {"noise_share": 0.4, "loss_ranks": ranks(wrong), "epochs_since_best": 10}
    for scores, by_rank in ((soft, True), (sharp, False)):
        policy = made(readmit=0.0)
        kept = policy.select(scores, context(**about)).kept
        assert policy.cuts_by_rank is by_rank
        assert not kept[wrong].any()
        assert bool(kept[~wrong].all()) != by_rank, "a rank among the worst takes right ones along"
        assert kept[~wrong].float().mean() > 0.7


def test_ranks_wait_until_the_network_memorises_and_stay():
    wrong, soft, _ = soft_and_sharp()
    policy = made(readmit=0.0)
    seen = []
    for since_best in (0, 9, 10, 0):
        about = {"noise_share": 0.4, "loss_ranks": ranks(wrong), "epochs_since_best": since_best}
        policy.select(soft, context(**about))
        seen.append(policy.cuts_by_rank)
    assert seen == [False, False, True, True]


def test_a_reference_that_stands_still_is_not_enough_if_probabilities_and_share_hardly_agree():
    wrong, _, _ = soft_and_sharp()
    weak = torch.where(wrong, 0.55, 0.83)  # adds up to 0.7 of the share
    about = {"noise_share": 0.4, "loss_ranks": ranks(wrong)}
    policy = made(readmit=0.0)
    assert cut(policy, scores=weak, epochs_since_best=20, **about) == 40
    assert not policy.cuts_by_rank
    firm = torch.where(wrong, 0.55, 0.76)
    assert cut(policy, scores=firm, epochs_since_best=20, **about) > 40
    assert policy.cuts_by_rank


@pytest.mark.parametrize(
    ("since_best", "sunk_to", "is_tight"), [(1, 0.94, False), (2, 0.94, True), (2, 0.96, False)]
)
def test_evidence_that_sinks_while_the_reference_stands_still_was_learned_by_heart(
    since_best, sunk_to, is_tight
):
    policy = PosteriorCut(readmit=0.0)
    assert cut(policy) == 6
    paler = 1 - sunk_to * (1 - posteriors())
    found = cut(policy, scores=paler, epochs_since_best=since_best)
    assert found == int((paler < 0.5).sum()) if is_tight else found < 10
    again = cut(policy, scores=paler)  # and stays so
    assert (again > 40) == is_tight


def test_evidence_that_is_soft_sinks_for_other_reasons_too():
    wrong, soft, _ = soft_and_sharp()
    policy = PosteriorCut(readmit=0.0, threshold=0.4)
    about = {"noise_share": 0.3, "loss_ranks": ranks(wrong)}
    assert cut(policy, scores=soft, **about) == 0
    assert cut(policy, scores=1 - 0.94 * (1 - soft), epochs_since_best=9, **about) == 0
    assert cut(policy, scores=soft, epochs_since_best=10, **about) >= 40


@pytest.mark.parametrize(("sunk_to", "begin"), [(0.92, False), (0.75, True)])
def test_ranks_begin_without_agreement_only_where_much_was_learned_by_heart(sunk_to, begin):
    wrong, _, _ = soft_and_sharp()
    weak = torch.where(wrong, 0.55, 0.82)  # adds up to 0.72 of the share
    about = {"noise_share": 0.4, "loss_ranks": ranks(wrong)}
    policy = made(readmit=0.0)
    policy.select(weak, context(**about))
    paler = 1 - sunk_to * (1 - weak)
    policy.select(paler, context(epochs_since_best=10, **about))
    assert policy.cuts_by_rank is begin


def test_how_it_cuts_is_decided_once():
    wrong, soft, sharp = soft_and_sharp()
    about = {"noise_share": 0.4, "loss_ranks": ranks(wrong), "epochs_since_best": 10}
    policy = made(readmit=0.0)
    for scores in (sharp, soft, soft):
        policy.select(scores, context(**about))
    assert policy.cuts_by_rank is False


@pytest.mark.parametrize(
    ("since_best", "share", "error", "stands_out", "begins"),
    [
        (10, 0.0, 0.05, True, True),
        (9, 0.0, 0.05, True, False),
        (10, 0.0, 0.05, False, False),
        (10, 0.3, 0.05, True, False),
        (10, 0.0, 0.03, True, False),
    ],
    ids=[
        "memorises",
        "still improves",
        "as the reference",
        "an estimate that still rises",
        "an estimate that would have seen noise",
    ],
)
def test_ranks_begin_where_the_reference_is_too_small_for_an_estimate(
    since_best, share, error, stands_out, begins
):
    wrong = torch.arange(N) < 40
    found = ranks(wrong if stands_out else torch.zeros_like(wrong))
    about = {"noise_share": share, "noise_share_error": error}
    about |= {"loss_ranks": found, "epochs_since_best": since_best}
    policy = made(readmit=0.0)
    unknown = torch.full((N,), NAN)
    cut = ~policy.select(unknown, context(since=0, **about)).kept
    assert bool(cut[wrong].all()) == begins == policy.cuts_by_rank
    assert cut[~wrong].float().mean() < 0.3
    if begins:
        assert torch.tensor(policy.metrics()["wrong_kept"]).isnan()


@pytest.mark.parametrize("share", [None, 0.0])
def test_without_a_share_of_noise_there_is_the_threshold_alone(share):
    wrong, soft, _ = soft_and_sharp()
    about = {"noise_share": share, "loss_ranks": ranks(wrong)}
    assert cut(made(readmit=0.0), scores=soft, **about) == 0


def test_what_was_learned_by_heart_is_cut_as_probabilities_add_up_to_the_share():
    wrong, learned = torch.arange(N) < 40, torch.arange(N) < 10
    scores = torch.where(wrong, torch.where(learned, 0.7, 0.02), 0.98)  # P(right)
    assert 1 - scores.mean() < 0.34
    for share, expected in ((0.4, 40), (0.34, 30), (0.2, 30)):
        policy = made(readmit=0.0)
        kept = policy.select(scores, context(noise_share=share)).kept
        assert int((~kept).sum()) == expected
        assert kept[~wrong].all()
        for later in (scores, torch.where(wrong, 0.02, 0.995), torch.where(wrong, 0.3, 0.98)):
            before = policy.offset
            policy.select(later, context(noise_share=share, epochs_since_best=2))
            assert policy.offset == before, "a network that learns better has no need of it"
            policy.select(later, context(noise_share=share, epochs_since_best=3))
            added = (1 - later).logit() + policy.offset
            total = max(share, float(1 - later.mean()))
            assert float(added.sigmoid().mean()) == pytest.approx(total, abs=1e-3)


def test_nothing_is_cut_where_probabilities_and_the_share_contradict_each_other():
    few = torch.where(torch.arange(N) < 5, 0.02, 0.99)  # P(right), as of blurred predictions
    assert cut(made(readmit=0.0), scores=few, noise_share=0.12) == 0
    assert cut(made(readmit=0.0), scores=few, noise_share=0.05) == 5


def test_of_what_is_cut_no_more_are_right_than_may_be_until_the_network_memorises():
    def right_of(policy, **about):
        kept = policy.select(posteriors(), context(**about)).kept
        return float(posteriors()[~kept].mean())

    for most in (0.05, 0.1, 0.2):
        policy = PosteriorCut(readmit=0.0, max_right=most)
        assert right_of(policy) == pytest.approx(most, abs=0.01)
    strict = PosteriorCut(0.95, readmit=0.0, max_right=0.2)  # the threshold holds too
    assert right_of(strict) == pytest.approx(0.025, abs=0.005)
    for since, number in ((9, 6), (10, 50), (0, 50)):
        policy = policy if since == 0 else PosteriorCut(readmit=0.0)
        assert cut(policy, epochs_since_best=since) == number


def test_a_lucky_reference_loss_of_long_ago_is_no_memorisation():
    def cut_after(losses):
        policy = PosteriorCut(readmit=0.0)
        for since, loss in enumerate(losses, 1):
            number = cut(policy, reference=loss, epochs_since_best=since)
        return number

    assert cut_after([1.0 + 0.02 * t for t in range(10)]) == 50
    falling = [1.3, 1.2, 1.3, 1.25, 1.2, 1.2, 1.1, 1.2, 1.05, 1.1]  # the best was 1.0, by chance
    assert cut_after(falling) == 6
    assert cut_after([NAN, *falling, *(1.1 + 0.02 * t for t in range(9))]) == 50


def test_where_no_label_is_surely_wrong_enough_nothing_is_cut():
    scores = torch.where(torch.arange(N) < 40, 0.3, 0.98)  # P(right)
    policy = PosteriorCut(readmit=0.0)
    assert cut(policy, scores=scores, noise_share=0.3) == 0
    assert cut(policy, scores=scores, noise_share=0.3, epochs_since_best=10) == 40


def test_a_cut_whose_evidence_fades_is_given_up():
    policy, places = made(readmit=0.0), torch.arange(N)
    cuts = []
    for number in (12, 8, 6, 6, 8):  # wrong by what each epoch's probabilities say, of 0.12
        scores = torch.where(places < number, 0.005, 0.995)
        cuts.append(cut(policy, scores=scores, noise_share=0.12))
        assert int(policy.to_look_at(places >= 0).sum()) == cuts[-1]
        assert policy.warning() is None
    assert cuts == [12, 8, 0, 0, 8]


def test_if_asked_some_of_the_easy_ones_are_left_out_until_the_end_and_get_no_look():
    wrong, _, sharp = soft_and_sharp()
    about = {"noise_share": 0.4, "loss_ranks": ranks(wrong), "has_looks": True}
    chosen = made().select(sharp, context(**about))
    assert chosen.kept.equal(~wrong)
    assert chosen.weights is None
    policy = made(prune_easy=0.5)
    assert policy.weighs_samples
    chosen = policy.select(sharp, context(**about))
    easy = ~wrong & (ranks(wrong).samples < ranks(wrong).samples[~wrong].mean())
    assert chosen.kept[~wrong & ~easy].all()
    assert 0 < int(chosen.kept[easy].sum()) < int(easy.sum())
    weighed = chosen.weights[chosen.kept & easy]
    assert weighed.sum() == pytest.approx(int(easy.sum()))
    assert (chosen.weights[chosen.kept & ~easy] == 1).all()
    assert policy.to_look_at(chosen.kept).equal(wrong)
    finished = policy.select(sharp, context(**about, is_finishing=True))
    assert finished.kept.equal(~wrong)
    assert finished.weights is None


def test_before_the_first_cut_nothing_is_left_out_and_nothing_looked_at():
    wrong, _, sharp = soft_and_sharp()
    policy = made()
    kept = policy.select(sharp, context(since=0, loss_ranks=ranks(wrong), noise_share=0.4)).kept
    assert kept.all()
    assert not policy.to_look_at(kept).any()


def test_floors_of_all_and_of_each_class():
    labels = torch.arange(N) // 50  # all of class 0 is probably wrong
    policy = made(readmit=0.0, min_kept_per_class=0.2)
    kept = policy.select(posteriors(), context(labels=labels)).kept
    assert int(kept[:50].sum()) == 10
    assert kept[40:].all()
    bad = posteriors() / 10
    assert cut(made(readmit=0.0, min_kept=0.3), scores=bad) == 70


# Sinking evidence needs the epochs before it, ranks the first cut; what began stays.
@pytest.mark.parametrize(
    ("is_soft", "epochs", "expected"),
    [
        (True, [(1.0, 0), (0.94, 2), (1.0, 0), (0.75, 10), (1.0, 0)], [0, 0, 0, 53, 53]),
        (False, [(1.0, 0), (0.96, 2), (0.93, 2), (1.0, 0)], [6, 0, 46, 50]),
    ],
)
def test_from_every_epoch_on_a_reloaded_policy_decides_as_the_first(is_soft, epochs, expected):
    wrong, _, _ = soft_and_sharp()
    first = torch.where(wrong, 0.55, 0.82) if is_soft else posteriors()

    def cuts(policy, some):
        return [
            cut(
                policy,
                scores=1 - sunk_to * (1 - first),
                noise_share=0.4 if is_soft else None,
                loss_ranks=ranks(wrong),
                epochs_since_best=since_best,
            )
            for sunk_to, since_best in some
        ]

    assert cuts(PosteriorCut(readmit=0.0), epochs) == expected
    for number in range(1, len(epochs)):
        policy = PosteriorCut(readmit=0.0)
        cuts(policy, epochs[:number])
        other = PosteriorCut(readmit=0.0)
        other.load_state_dict(reloaded(policy.state_dict()))
        assert other.wrong_kept == policy.wrong_kept
        assert cuts(other, epochs[number:]) == expected[number:]


@pytest.mark.parametrize(
    "change",
    [
        {"threshold": 1.0},
        {"patience": -1},
        {"max_wrong": 0.0},
        {"max_right": 0.0},
        {"prune_easy": 1.0},
        {"readmit": 1.0},
        {"min_kept": 0.0},
        {"min_kept_per_class": 1.5},
    ],
)
def test_options_are_checked(change):
    with pytest.raises(ValueError, match=f"PosteriorCut: expected {next(iter(change))}"):
        PosteriorCut(**change)
