"""`CalibratedLoss` on prepared steps."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from lightning_alignprune import CalibratedLoss
from lightning_alignprune.functional import Calibrator, calibrate, identity_calibrator
from lightning_alignprune.signals import NoLogitsError, ReferenceSamples
from lightning_alignprune.tap.tapped_step import TappedCall, TappedStep
from tests.banks import reloaded
from tests.unit.functional.test_calibration import draw

NAN = float("nan")


def step_of(logits, target, losses=None, user_losses=None):
    if losses is None:
        losses = F.cross_entropy(logits.float(), target, reduction="none")
        losses = torch.where(target < 0, NAN, losses)
    call = TappedCall(losses, losses.mean(), "mean", logits, target)
    return TappedStep(len(target), losses.mean(), [call], user_losses)


def fitted(seed=0, C=4):
    signal = CalibratedLoss()
    logits, labels = draw(400, C, seed, flip=0.8)
    samples = ReferenceSamples(F.cross_entropy(logits, labels, reduction="none"), logits, labels)
    return signal, signal.follow_reference(samples), logits, labels


def test_the_signal_records_through_the_map():
    signal, samples, logits, labels = fitted()
    expected = calibrate(logits, labels)
    assert torch.equal(samples.losses, expected.losses)
    assert signal.strength == expected.strength
    values = signal.values(step_of(logits[:8], labels[:8]))
    assert torch.equal(values, expected.calibrator.losses(logits[:8], labels[:8]))


def test_smoothing_and_class_weights_do_not_enter_even_before_the_first_fit():
    logits, labels = draw(8, 4, 0)
    weight = torch.tensor([1.0, 5.0, 1.0, 2.0])
    trained = F.cross_entropy(logits, labels, weight, reduction="none", label_smoothing=0.3)
    plain = F.cross_entropy(logits, labels, reduction="none")
    assert_close(CalibratedLoss().values(step_of(logits, labels, trained)), plain)


def test_ignored_samples_stay_unobserved_and_bad_logits_are_marked():
    signal, _, logits, labels = fitted()
    labels, logits = labels[:4].clone(), logits[:4].clone()
    labels[1], logits[2] = -100, NAN
    losses = torch.tensor([1.0, NAN, float("inf"), 1.0])
    values = signal.values(step_of(logits, labels, losses))
    assert values.isnan().tolist() == [False, True, False, False]
    assert values.isinf().tolist() == [False, False, True, False]


def test_values_have_no_graph_and_leave_autocast_out():
    signal, _, logits, labels = fitted()
    expected = signal.values(step_of(logits, labels))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        values = signal.values(step_of(logits, labels))
    assert torch.equal(values, expected)
    assert not values.requires_grad
    assert values.dtype == torch.float32


@pytest.mark.parametrize(
    ("step", "got"),
    [
        (TappedStep(2, torch.tensor(1.0)), "0 classification losses"),
        (step_of(torch.zeros(2, 3), torch.zeros(2, 3)[:, 0], torch.zeros(2)), "0 classification"),
        (
            TappedStep(
                2, torch.tensor(1.0), step_of(torch.zeros(2, 3), torch.tensor([0, 1])).calls * 2
            ),
            "2 classification losses",
        ),
        (
            step_of(torch.zeros(2, 3), torch.tensor([0, 1]), user_losses=torch.zeros(2)),
            "a sample_loss of the module's own",
        ),
    ],
)
def test_steps_without_one_classification_loss_are_refused(step, got):
    with pytest.raises(NoLogitsError, match=got):
        CalibratedLoss().values(step)


def test_a_reference_without_logits_is_refused():
    with pytest.raises(NoLogitsError, match="no classification loss in the reference pass"):
        CalibratedLoss().follow_reference(ReferenceSamples(torch.zeros(3)))


def test_state_round_trip():
    signal, _, logits, labels = fitted()
    other = CalibratedLoss()
    other.load_state_dict(reloaded(signal.state_dict()))
    step = step_of(logits, labels)
    assert torch.equal(other.values(step), signal.values(step))
    assert other.strength == signal.strength
    fresh = CalibratedLoss()
    fresh.load_state_dict(reloaded(CalibratedLoss().state_dict()))
    assert_close(fresh.values(step), step.calls[0].losses)


@pytest.mark.parametrize(("strengths", "got"), [((), r"\(\)"), ((1.0, 0.0), "0.0"), ((-1,), "-1")])
def test_strengths_are_checked(strengths, got):
    with pytest.raises(ValueError, match=rf"CalibratedLoss: expected strengths .*got {got}"):
        CalibratedLoss(strengths)


def test_a_calibrator_is_a_plain_tuple_of_tensors():
    parts = tuple(identity_calibrator(3))
    assert torch.equal(Calibrator(*parts)(torch.eye(3)), torch.eye(3))
