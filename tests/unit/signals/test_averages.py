"""Signals that keep an average: log odds, margins, wrong events, on prepared steps."""

from statistics import fmean

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from lightning_alignprune import (
    BatchLoss,
    DynamicPruningCallback,
    LabelOdds,
    LabelPosterior,
    LossTrajectories,
    Margin,
    TimeAverage,
    WrongEvents,
)
from lightning_alignprune.functional import class_prior, label_log_odds
from lightning_alignprune.signals import ReferenceSamples
from tests.banks import reloaded
from tests.unit.signals.test_calibrated_loss import step_of

C, NAN = 4, float("nan")


def drawn(n, seed, noise=0.0):
    """Logits of a good network that knows the true classes, and labels given with pairflip."""
    generator = torch.Generator().manual_seed(seed)
    true = torch.arange(n) % C
    logits = torch.randn(n, C, generator=generator) + 4 * F.one_hot(true, C)
    is_wrong = torch.rand(n, generator=generator) < noise
    return logits, torch.where(is_wrong, (true + 1) % C, true), is_wrong


def reference(seed=9, n=200):
    logits, labels, _ = drawn(n, seed)
    return ReferenceSamples(F.cross_entropy(logits, labels, reduction="none"), logits, labels)


def epoch(signal, bank, number, noise=0.4, size=800, seen=None, order=None):
    """One epoch in two batches, the reference after it; returns which labels are wrong."""
    logits, given, is_wrong = drawn(size, number, noise)
    indices = torch.arange(size) if seen is None else seen.nonzero().squeeze(1)
    indices = indices if order is None else indices[order]
    for part in indices.chunk(2):
        bank.record(part, signal.values(step_of(logits[part], given[part])))
    signal.follow_reference(reference(seed=100 + number))
    bank.close_epoch(number, transform=signal.close_epoch)
    return is_wrong


def run(signal, num_epochs, noise=0.4):
    bank = LossTrajectories(800, window=1)
    for number in range(num_epochs):
        is_wrong = epoch(signal, bank, number, noise)
    return bank, is_wrong


def test_two_reference_passes_make_an_estimate_and_three_estimates_give_odds():
    signal, bank = LabelOdds(), LossTrajectories(800, window=1)
    epoch(signal, bank, 0)
    assert signal.newest_share is None
    for number in (1, 2):
        epoch(signal, bank, number)
        assert 0.35 < signal.noise_share < 0.45
        assert bank.last.isnan().all()
    epoch(signal, bank, 3)
    assert bank.last.isfinite().all()
    assert set(signal.metrics()) == {"noise_share", "newest_noise_share"}


def test_wrong_labels_have_a_low_posterior():
    generator = torch.Generator().manual_seed(0)
    logits, given, is_wrong = drawn(800, 0, 0.4)
    signal, bank = LabelOdds(), LossTrajectories(800, window=1)
    for number in range(4):
        noisy = logits + torch.randn(800, C, generator=generator)
        bank.record(torch.arange(800), signal.values(step_of(noisy, given)))
        signal.follow_reference(reference(seed=number))
        bank.close_epoch(number, transform=signal.close_epoch)
    posterior = LabelPosterior().compute(bank)
    assert (posterior[is_wrong] < 0.5).float().mean() > 0.95
    assert (posterior[~is_wrong] > 0.5).float().mean() > 0.95


def test_recorded_is_minus_the_log_odds():
    signal = LabelOdds()
    run(signal, 3)
    logits, given, _ = drawn(8, 5)
    state = signal.state_dict()
    predictions = signal._map.on(logits).predictions(logits)
    odds = label_log_odds(predictions, given, state["transition"], state["prior"])
    assert_close(signal.values(step_of(logits, given)), -odds)
    assert_close(state["prior"], class_prior(reference().labels, C))


def test_clean_labels_record_nothing():
    signal = LabelOdds()
    bank, _ = run(signal, 5, noise=0.0)
    assert signal.noise_share == 0.0
    assert LabelPosterior().compute(bank).isnan().all()


@pytest.mark.parametrize("num_noisy", [1, 2])
def test_noise_that_the_next_epochs_do_not_show_is_dropped(num_noisy):
    signal, bank = LabelOdds(), LossTrajectories(800, window=1)
    numbers = iter(range(20))
    epoch(signal, bank, next(numbers), 0.4)
    for _ in range(num_noisy):
        epoch(signal, bank, next(numbers), 0.4)
    assert signal.noise_share > 0.35
    epoch(signal, bank, next(numbers), 0.0)
    assert signal.noise_share == 0.0
    for _ in range(3):
        assert bank.last.isnan().all()
        epoch(signal, bank, next(numbers), 0.4)
    assert (signal._weight == 2).all()  # what was averaged before the drop is gone
    for _ in range(2):
        epoch(signal, bank, next(numbers), 0.0)  # seen three times: memorised by now
    assert signal.noise_share > 0.35
    assert bank.last.isfinite().all()


def test_ignored_and_bad_samples_are_marked_and_not_counted():
    signal = LabelOdds()
    logits, given, _ = drawn(6, 0)
    given, logits = given.clone(), logits.clone()
    given[1], logits[2] = -100, NAN
    losses = torch.tensor([1.0, NAN, float("inf"), 1.0, 1.0, 1.0])
    values = signal.values(step_of(logits, given, losses))
    assert values.isnan().tolist() == [False, True, False, False, False, False]
    assert values.isinf().tolist() == [False, False, True, False, False, False]
    assert signal.sums()["predictions"][:-1].sum() / 2**30 == pytest.approx(4, abs=1e-5)


def test_sums_do_not_depend_on_order_or_shares():
    logits, given, _ = drawn(300, 0)
    whole, parts = LabelOdds(), [LabelOdds(), LabelOdds()]
    whole.values(step_of(logits, given))
    for signal, part in zip(parts, torch.randperm(300).chunk(2), strict=True):
        for batch in part.split(7):
            signal.values(step_of(logits[batch], given[batch]))
    for name, value in whole.sums().items():
        assert torch.equal(value, parts[0].sums()[name] + parts[1].sums()[name])


def test_an_epoch_that_was_pruned_makes_no_estimate():
    signal, bank = LabelOdds(), LossTrajectories(800, window=1)
    for number in range(3):
        epoch(signal, bank, number)
    before = signal.noise_share, signal.newest_share, signal.estimates_since_peak
    epoch(signal, bank, 3, seen=torch.arange(800) % 2 == 0)
    assert (signal.noise_share, signal.newest_share, signal.estimates_since_peak) == before
    epoch(signal, bank, 4)
    assert signal.newest_share != before[1]


def test_the_estimate_that_stands_out_most_and_the_two_after_it_stay_in_use():
    signal, bank = LabelOdds(), LossTrajectories(800, window=1)
    shares = []
    for number, noise in enumerate([0.1, 0.1, 0.4, 0.2, 0.2, 0.1, 0.1]):
        epoch(signal, bank, number, noise=noise)  # memorised from the fourth on
        shares.append(signal.newest_share)
    assert shares[2] == max(shares[1:])
    assert signal.noise_share == fmean(shares[2:5])
    assert shares[-1] < 0.2
    assert signal.estimates_since_peak == 4


def test_a_state_of_mid_epoch_goes_on_exactly():
    ours = LabelOdds(decay=0.8)
    bank, _ = run(ours, 3)
    logits, given, _ = drawn(800, 3, 0.4)
    bank.record(torch.arange(400), ours.values(step_of(logits[:400], given[:400])))
    theirs = LabelOdds(decay=0.8)
    theirs.load_state_dict(reloaded(ours.state_dict()))
    theirs.load_sums(reloaded(ours.sums()))
    other = LossTrajectories(800, window=1)
    other.load_state_dict(reloaded(bank.state_dict()))
    for signal, trajectories in ((ours, bank), (theirs, other)):
        values = signal.values(step_of(logits[400:], given[400:]))
        trajectories.record(torch.arange(400, 800), values)
        signal.follow_reference(reference())
        trajectories.close_epoch(3, transform=signal.close_epoch)
        epoch(signal, trajectories, 4)
    assert torch.equal(other.last, bank.last)
    assert theirs.noise_share == ours.noise_share
    assert theirs.newest_share == ours.newest_share


def averaged(signal, rows, **kwargs):
    bank = LossTrajectories(len(rows[0]), window=1)
    for number, values in enumerate(rows):
        row = torch.tensor(values)
        seen = (~row.isnan()).nonzero().squeeze(1)
        bank.record(seen, row[seen])
        bank.close_epoch(number, transform=signal.close_epoch)
    return bank


def test_an_average_holds_the_epochs_that_saw_the_sample():
    rows = [[1.0, 0.0, NAN], [0.0, NAN, NAN], [1.0, 1.0, NAN]]
    assert_close(averaged(WrongEvents(), rows).last[:2], torch.tensor([2 / 3, 0.5]))
    decayed = averaged(WrongEvents(decay=0.5), rows)
    assert_close(decayed.last[:2], torch.tensor([1.25 / 1.75, 1 / 1.5]))
    assert TimeAverage().compute(decayed)[2].isnan()
    assert_close(TimeAverage().compute(decayed)[:2], -decayed.last[:2])


def test_margins_and_events_of_a_step():
    logits = torch.tensor([[2.0, 0.0, 1.0], [0.0, 5.0, 1.0]])
    step = step_of(logits, torch.tensor([0, 2]))
    expected = -torch.tanh(torch.tensor([0.5, -2.0]))
    assert_close(Margin("none").values(step), expected)
    assert_close(Margin("class").values(step), expected)  # before any epoch is over
    assert_close(Margin().values(step), expected)  # before any reference
    assert WrongEvents().values(step).tolist() == [0.0, 1.0]


def test_a_class_that_the_network_favours_is_not_held_against_the_others():
    signal = Margin("class")
    logits = torch.randn(400, 3) + torch.tensor([3.0, 0.0, 0.0])
    given = torch.arange(400) % 3
    row = signal.values(step_of(logits, given))
    signal.close_epoch(row, row)
    predictions = logits.softmax(1)
    corrected = (predictions / predictions.mean(0)).log()
    own = corrected.gather(1, given.unsqueeze(1)).squeeze(1)
    others = corrected.scatter(1, given.unsqueeze(1), -torch.inf).amax(1)
    assert_close(
        signal.values(step_of(logits, given)), -torch.tanh((own - others) / 2), atol=1e-4, rtol=0
    )
    other = Margin("class")
    other.load_state_dict(reloaded(signal.state_dict()))
    assert torch.equal(other.values(step_of(logits, given)), signal.values(step_of(logits, given)))


def test_a_calibrated_margin_sees_through_swapped_classes():
    signal, labels = Margin(), torch.arange(400) % C
    logits = 4.0 * F.one_hot((labels + 1) % C, C) + torch.randn(400, C)  # always the next class
    losses = F.cross_entropy(logits, labels, reduction="none")
    signal.follow_reference(ReferenceSamples(losses, logits, labels))
    values = signal.values(step_of(logits, labels))
    assert (values < 0).float().mean() > 0.9
    assert (Margin("none").values(step_of(logits, labels)) > 0).float().mean() > 0.9


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: LabelOdds(decay=0.0), "LabelOdds: expected decay"),
        (lambda: WrongEvents(decay=1.5), "WrongEvents: expected decay"),
        (lambda: Margin("classes"), "Margin: expected correction"),
        (lambda: LabelOdds(strengths=()), "LabelOdds: expected strengths"),
        (lambda: Margin(strengths=()), "Margin: expected strengths"),
    ],
)
def test_arguments_are_checked(make, match):
    with pytest.raises(ValueError, match=match):
        make()


@pytest.mark.parametrize(
    ("score", "signal", "match"),
    [
        ("LabelPosterior", "SampleLoss", 'LabelOdds, got SampleLoss. Pass signal="LabelOdds"'),
        (LabelPosterior(), WrongEvents(), "LabelOdds, got WrongEvents"),
        ("TimeAverage", BatchLoss(), "AveragedSignal, got BatchLoss"),
    ],
)
def test_a_score_refuses_a_signal_that_it_cannot_read(score, signal, match):
    with pytest.raises(ValueError, match=match):
        DynamicPruningCallback(score, signal=signal)


def test_notes_are_the_same_alone_and_beside_the_values_and_count_once():
    logits, labels = (
        torch.randn(6, 3, generator=torch.Generator().manual_seed(0)),
        torch.arange(6) % 3,
    )
    signal = LabelOdds()
    values, notes = signal.read(step_of(logits, labels), with_notes=True)
    assert signal.sums()["predictions"].sum() > 0
    before = {name: value.clone() for name, value in signal.sums().items()}
    assert torch.equal(signal.label_notes(step_of(logits, labels)), notes)
    assert torch.equal(signal.sums()["predictions"], before["predictions"])
    assert torch.equal(signal.values(step_of(logits, labels)), values)
    assert_close(notes[4], F.cross_entropy(logits, labels, reduction="none"))
