import pytest
import torch

from lightning_alignprune import (
    DynamicAlignment,
    LastLoss,
    LossSinceStart,
    LossTrajectories,
    MeanLoss,
    Score,
)
from lightning_alignprune.functional import alignment
from lightning_alignprune.scores import SCORES
from tests.banks import bank_of, reloaded, same

NAN = float("nan")


def noisy_bank(reference, T=10, N=6, **kwargs):
    generator = torch.Generator().manual_seed(0)
    rows = torch.rand(T, N, generator=generator)
    rows[torch.rand(T, N, generator=generator) < 0.2] = NAN
    return bank_of(rows.tolist(), reference, **kwargs)


FALLS_THEN_RISES = [9.0, 8.0, 7.0, 6.0, 5.5, 5.0, 6.0, 7.0, 8.0, 9.0]


def test_last_loss_is_the_most_recent():
    assert same(LastLoss().compute(bank_of([[1.0, 2.0, NAN], [3.0, NAN, NAN]])), [3.0, 2.0, NAN])


def test_loss_since_start_outlives_dropped_rows_and_a_checkpoint():
    rows = [[3.0, NAN, NAN], [1.0, 2.0, NAN], [NAN, 2.5, NAN], [0.5, NAN, NAN]]
    bank = bank_of(rows, window=1, keep_first=True)
    assert same(LossSinceStart().compute(bank), [-2.5, 0.5, NAN])
    copy = LossTrajectories(3, window=1, keep_first=True)
    copy.load_state_dict(reloaded(bank.state_dict()))
    copy.record(torch.tensor([1, 2]), torch.tensor([1.0, 4.0]))
    copy.close_epoch(4)
    assert same(LossSinceStart().compute(copy), [-2.5, -1.0, 0.0])


def test_mean_loss_is_negative_and_skips_unseen_epochs():
    bank = bank_of([[1.0, 2.0, NAN], [3.0, NAN, NAN]])
    assert same(MeanLoss().compute(bank), [-2.0, -2.0, NAN])
    assert same(MeanLoss(window=1).compute(bank), [-3.0, NAN, NAN])


def test_mean_loss_of_a_half_precision_bank_is_float32():
    score = MeanLoss().compute(bank_of([[1.0, 2.0]], dtype="float16"))
    assert score.dtype == torch.float32


def test_alignment_uses_its_window_although_more_rows_are_kept():
    bank = noisy_bank(FALLS_THEN_RISES, window=None)
    expected = alignment(bank.rows[-5:], bank.reference[-5:])
    assert same(DynamicAlignment(window=5).compute(bank), expected)
    assert same(DynamicAlignment(window=None).compute(bank), alignment(bank.rows, bank.reference))


def test_carry_in_a_window_starts_from_the_losses_before_it():
    bank = noisy_bank(FALLS_THEN_RISES, window=None)
    before = torch.full((6,), NAN)
    for row in bank.rows[:5]:
        before = torch.where(row.isnan(), before, row)
    expected = alignment(bank.rows[5:], bank.reference[5:], missing="carry", before=before)
    assert same(DynamicAlignment(window=5, missing="carry").compute(bank), expected)


@pytest.mark.parametrize("missing", ["observed", "carry"])
@pytest.mark.parametrize("window", [4, None])
def test_gate_stops_at_the_best_reference_loss(window, missing):
    score = DynamicAlignment(window=window, gate="reference", missing=missing)
    ungated = DynamicAlignment(window=window, missing=missing)
    gated = noisy_bank(FALLS_THEN_RISES, window=window, keep_best=True)
    whole = noisy_bank(FALLS_THEN_RISES, window=None)
    until_best = LossTrajectories(6, window=window)
    for epoch in range(6):
        until_best.running = whole.rows[epoch].clone()
        until_best.close_epoch(epoch, whole.reference[epoch])
    assert same(score.compute(gated), ungated.compute(until_best))
    assert same(score.compute(whole), ungated.compute(until_best))


def test_gate_changes_nothing_while_the_reference_improves():
    falling = [float(10 - e) for e in range(10)]
    bank = noisy_bank(falling, window=None)
    for make in (DynamicAlignment, MeanLoss):
        gated = make(window=5, gate="reference").compute(bank)
        assert same(gated, make(window=5).compute(bank))


def test_gate_moves_on_when_the_reference_improves_again():
    rows = [[float(e)] for e in range(5)]
    score = MeanLoss(window=2, gate="reference")
    means = []
    for stop in range(1, 6):
        bank = bank_of(rows[:stop], [3.0, 2.0, 4.0, 5.0, 1.0], window=2, keep_best=True)
        means.append(-score.compute(bank).item())
    assert means == [0.0, 0.5, 0.5, 0.5, 3.5]


def test_gate_with_the_first_epoch_best():
    bank = bank_of([[1.0], [2.0], [3.0], [4.0], [5.0]], [1.0, 2.0, 3.0, 4.0, 5.0])
    assert MeanLoss(gate="reference").compute(bank).item() == -1.0
    assert DynamicAlignment(gate="reference").compute(bank).isnan().all()


def test_gate_without_any_reference_loss_is_open():
    bank = bank_of([[1.0], [3.0]])
    assert MeanLoss(gate="reference").compute(bank).item() == -2.0


def test_gate_over_a_resume():
    make = {"window": 3, "keep_best": True}
    rows = [[float(e), float(e * e)] for e in range(8)]
    reference = [5.0, 4.0, 3.0, 6.0, 7.0, 8.0, 2.0, 9.0]
    score = MeanLoss(window=3, gate="reference")
    for stop in range(1, 8):
        copy = LossTrajectories(2, **make)
        copy.load_state_dict(reloaded(bank_of(rows[:stop], reference[:stop], **make).state_dict()))
        for epoch in range(stop, 8):
            copy.running = torch.tensor(rows[epoch])
            copy.close_epoch(epoch, torch.tensor(reference[epoch]))
        assert same(score.compute(copy), score.compute(bank_of(rows, reference, **make)))


@pytest.mark.parametrize("score", [LastLoss(), MeanLoss(), DynamicAlignment()])
def test_nothing_recorded_is_undefined(score):
    assert score.compute(LossTrajectories(3)).isnan().tolist() == [True] * 3


def test_what_each_score_needs():
    assert not LastLoss().needs_reference
    assert not MeanLoss().needs_reference
    assert MeanLoss(gate="reference").needs_reference
    assert DynamicAlignment().needs_reference
    assert [s.easy_end for s in (LastLoss(), MeanLoss(), DynamicAlignment())] == [
        "low",
        "high",
        "high",
    ]


def test_names_make_scores_without_arguments():
    assert all(isinstance(make(), Score) for make in SCORES.values())
    assert {"LastLoss", "MeanLoss", "DynamicAlignment"} <= set(SCORES)


def test_refusals():
    with pytest.raises(ValueError, match=r"MeanLoss: expected window in \[1, inf\), got 0"):
        MeanLoss(window=0)
    with pytest.raises(ValueError, match=r"MeanLoss: expected gate to be one of"):
        MeanLoss(gate="best")
    with pytest.raises(ValueError, match=r"expected window in \[4, inf\), got 3"):
        DynamicAlignment(window=3)
    with pytest.raises(ValueError, match=r"min_observations in \[2, inf\), got 1"):
        DynamicAlignment(min_observations=1)
    with pytest.raises(ValueError, match="correlation to be one of"):
        DynamicAlignment(correlation="spearman")
    with pytest.raises(ValueError, match="missing to be one of"):
        DynamicAlignment(missing="forward")
