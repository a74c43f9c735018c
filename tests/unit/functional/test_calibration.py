"""`calibrate` against a slow version, and what it does with few samples."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from torch.testing import assert_close

from lightning_alignprune.functional import calibrate, held_out_logits, identity_calibrator
from tests.seeds import SEEDS, enough

NAN = float("nan")


def draw(n, C, seed, scale=2.0, flip=0.0):
    """Logits that are calibrated by construction, unless labels are moved on by one class."""
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(n, C, generator=generator)
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator).squeeze(1)
    moved = torch.rand(n, generator=generator) < flip
    return logits, torch.where(moved, (labels + 1) % C, labels)


def slow_map(logits, labels, strength, diagonal=False):
    """The same problem by scipy in double precision: (objective, its least value and place)."""
    n, C = logits.shape
    size = C if diagonal else C * C
    start = torch.ones(C) if diagonal else torch.eye(C)

    def objective(flat):
        weight = torch.tensor(flat[:size], requires_grad=True)
        bias = torch.tensor(flat[size:], requires_grad=True)
        w = weight if diagonal else weight.view(C, C)
        mapped = (logits.double() * w if diagonal else logits.double() @ w) + bias
        value = F.cross_entropy(mapped, labels)
        value = value + strength / n * ((w - start).square().sum() + bias.square().sum())
        value.backward()
        return value.item(), torch.cat([weight.grad, bias.grad]).numpy()

    begin = np.concatenate([start.numpy().ravel(), np.zeros(C)])
    options = {"maxiter": 3000, "ftol": 1e-14, "gtol": 1e-9}
    return objective, minimize(objective, begin, jac=True, method="L-BFGS-B", options=options)


@pytest.mark.parametrize("scale", [1.0, 3.0, 10.0])
@pytest.mark.parametrize("strength", [1.0, 10.0, 100.0])
def test_the_map_is_the_least_of_the_penalised_loss(strength, scale):
    logits, labels = draw(600, 8, 0, scale, flip=0.8)
    found = calibrate(logits, labels, (strength,))
    objective, slow = slow_map(logits, labels, strength)
    ours = torch.cat([found.calibrator.weight.flatten(), found.calibrator.bias])
    gap = objective(ours.double().numpy())[0] - slow.fun
    assert found.strength == strength
    assert -1e-9 <= gap <= 1e-3 * (objective(np.r_[np.eye(8).ravel(), np.zeros(8)])[0] - slow.fun)


@pytest.mark.parametrize("flip", [0.0, 0.8])
def test_held_out_logits_are_those_of_the_held_out_losses(flip):
    logits, labels = draw(400, 4, 0, flip=flip)
    found = calibrate(logits, labels)
    mapped = held_out_logits(found.fold_maps, logits, labels)
    assert_close(F.cross_entropy(mapped, labels, reduction="none"), found.losses)
    assert (found.strength < float("inf")) is (flip > 0)
    changed = found.calibrator(logits)
    assert torch.equal(mapped, changed) is (flip == 0)


def test_many_classes_use_one_factor_and_offset_each():
    logits, labels = draw(900, 130, 0, 3.0)
    found = calibrate(logits, labels % 65, (10.0,))  # half of the classes never occur
    assert found.calibrator.weight.shape == (130,)
    objective, slow = slow_map(logits, labels % 65, 10.0, diagonal=True)
    ours = torch.cat([found.calibrator.weight, found.calibrator.bias]).double().numpy()
    assert 0 <= objective(ours)[0] - slow.fun + 1e-9 < 1e-4
    assert calibrate(*draw(300, 128, 0), (10.0,)).calibrator.weight.ndim == 2
    assert torch.equal(identity_calibrator(130)(logits), logits)


def test_the_strength_is_the_one_whose_gain_on_held_out_samples_is_surest():
    logits, labels = draw(400, 5, 1, flip=0.8)
    alone = {s: calibrate(logits, labels, (s,)) for s in (0.1, 10.0, 1000.0)}
    plain = F.cross_entropy(logits, labels, reduction="none")

    def surest(strength):
        gain = plain - alone[strength].losses
        return float(gain.mean() - (1 + 45 / 400) * gain.std(unbiased=False) / 20)

    best = max(alone, key=surest)
    found = calibrate(logits, labels, tuple(alone))
    assert found.strength == best
    assert_close(found.losses, alone[best].losses, rtol=1e-2, atol=1e-2)


def test_held_out_losses_are_of_maps_that_had_not_seen_the_sample():
    logits, labels = draw(200, 4, 2, flip=0.8)
    before = calibrate(logits, labels, (1.0,))
    sample = 17
    # A sample that is moved far out changes its own held-out loss, and not the map that gives it:
    moved = logits.clone()
    moved[sample] *= 3
    after = calibrate(moved, labels, (1.0,))
    slow_losses = []
    folds = torch.empty(200, dtype=torch.int64)
    folds[labels.argsort(stable=True)] = torch.arange(200) % 4
    for case in (logits, moved):
        rest = folds != folds[sample]
        _, slow = slow_map(case[rest], labels[rest], 1.0)
        weight, bias = torch.tensor(slow.x[:16]).view(4, 4), torch.tensor(slow.x[16:])
        mapped = case[sample].double() @ weight + bias
        slow_losses.append(F.cross_entropy(mapped, labels[sample]).item())
    assert before.losses[sample].item() == pytest.approx(slow_losses[0], rel=0.02)
    assert after.losses[sample].item() == pytest.approx(slow_losses[1], rel=0.02)
    assert after.losses[sample] != before.losses[sample]


def test_held_out_losses_say_what_unseen_samples_will_lose():
    gaps_held, gaps_seen = [], []
    for seed in range(8):
        logits, labels = draw(2200, 10, seed, flip=0.8)
        found = calibrate(logits[:200], labels[:200], (1.0,))
        unseen = found.calibrator.losses(logits[200:], labels[200:]).mean()
        seen = found.calibrator.losses(logits[:200], labels[:200]).mean()
        gaps_held.append(float(found.losses.mean() - unseen))
        gaps_seen.append(float(seen - unseen))
    assert abs(np.mean(gaps_held)) < 0.1
    assert np.mean(gaps_seen) < -0.2, "a map flatters the samples that it was fitted to"


@pytest.mark.parametrize("per_class", [1, 2, 4, 10, 50])
@pytest.mark.parametrize("C", [3, 20])
def test_a_small_reference_does_no_harm_to_calibrated_logits(per_class, C):
    # Nothing can be gained here, so that any change is a loss.
    harms = []
    for seed in SEEDS:
        logits, labels = draw(5000, C, seed)
        members = [(labels == c).nonzero().flatten()[:per_class] for c in range(C)]
        few = torch.cat(members)
        found = calibrate(logits[few], labels[few])
        rest = torch.ones(len(labels), dtype=torch.bool)
        rest[few] = False
        plain = F.cross_entropy(logits[rest], labels[rest])
        harms.append(float(found.calibrator.losses(logits[rest], labels[rest]).mean() / plain - 1))
        if per_class == 1:
            assert found.strength == float("inf")
            assert torch.equal(found.calibrator(logits), logits)
    # Of 320 other draws with three classes two were harmed by more than one per cent.
    assert sum(harm < 0.01 for harm in harms) >= enough(0.99, len(harms)), harms
    assert np.median(harms) < 0.001, harms


def test_few_samples_are_enough_where_the_network_learned_a_flip():
    gains = []
    for seed in range(10):
        logits, labels = draw(5000, 10, seed, scale=6.0, flip=1.0)
        few = torch.cat([(labels == c).nonzero().flatten()[:10] for c in range(10)])
        found = calibrate(logits[few], labels[few])
        plain = F.cross_entropy(logits, labels)
        gains.append(float(1 - found.calibrator.losses(logits, labels).mean() / plain))
    assert min(gains) > 0.5, gains


def test_a_missing_class_gets_the_plain_loss():
    logits, labels = draw(400, 4, 0, flip=0.8)
    has = labels != 3
    calibrator = calibrate(logits[has], labels[has]).calibrator
    assert calibrator.known.tolist() == [True, True, True, False]
    losses, plain = (
        calibrator.losses(logits, labels),
        F.cross_entropy(logits, labels, reduction="none"),
    )
    assert_close(losses[~has], plain[~has])
    assert not torch.isclose(losses[has], plain[has]).any()


@pytest.mark.parametrize("n", [1, 2, 3])
def test_next_to_no_samples_leave_the_logits_as_they_are(n):
    logits, labels = draw(n, 5, 0)
    found = calibrate(logits, labels)
    assert found.strength == float("inf")
    assert_close(found.losses, F.cross_entropy(logits, labels, reduction="none"))
    assert found.calibrator.known.sum() == len(labels.unique())


def test_half_precision_logits_are_mapped_in_float32():
    logits, labels = draw(300, 6, 0, flip=0.8)
    half = logits.bfloat16()
    found = calibrate(half, labels)
    assert found.calibrator.weight.dtype == torch.float32
    same = calibrate(half.float(), labels)
    assert torch.equal(found.losses, same.losses)
    assert torch.equal(
        found.calibrator.losses(half, labels), same.calibrator.losses(half.float(), labels)
    )


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_fits_in_a_pass_without_gradients(mode):
    logits, labels = draw(300, 6, 0, flip=0.8)
    expected = calibrate(logits, labels)
    with mode():
        copied = logits + 0
        found = calibrate(copied, labels + 0)
        assert not torch.is_grad_enabled()
    assert torch.equal(found.losses, expected.losses)
    assert not found.calibrator.weight.requires_grad
    assert not found.calibrator.weight.is_inference()
    assert logits.grad is None


def test_neither_the_logits_nor_the_random_state_change():
    logits, labels = draw(100, 3, 0)
    before, state = logits.clone(), torch.get_rng_state()
    calibrate(logits, labels)
    assert torch.equal(logits, before)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("logits", "labels"), [((4,), (4,)), ((4, 2), (3,)), ((0, 2), (0,)), ((4, 2), (4, 2))]
)
def test_shapes_are_checked(logits, labels):
    with pytest.raises(ValueError, match=r"calibrate: expected logits of shape \(n, C\)"):
        calibrate(torch.zeros(logits), torch.zeros(labels, dtype=torch.int64))
