import math

import pytest
import torch
import torch.nn.functional as F

from lightning_alignprune.functional import (
    early_learning_penalty,
    generalized_cross_entropy,
    moved_targets,
    sparse_overparam_losses,
    symmetric_cross_entropy,
    view_consistency,
)

Z, Y = torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([1])


@pytest.mark.parametrize(
    ("u_squared", "v_squared", "entropy", "squared"),
    [(0.0, 0.0, 1.407606, 2.0), (0.5, 0.0, 0.700201, 1.25), (0.5, 0.3, 0.399158, 0.83)],
)
def test_sop_oracle(u_squared, v_squared, entropy, squared):
    u = torch.tensor([[math.sqrt(u_squared)]])
    v = torch.full((1, 3), math.sqrt(v_squared))
    found = sparse_overparam_losses(Z, Y, u, v)
    assert found.item() == pytest.approx(entropy + squared, abs=2e-6)


def test_sop_learns_u_from_the_entropy_and_v_from_the_squares():
    u = torch.tensor([[0.5]], requires_grad=True)
    v = torch.full((1, 3), 0.4, requires_grad=True)
    logits = Z.clone().requires_grad_()
    sparse_overparam_losses(logits, Y, u, v).sum().backward()
    # Of the squared term, guess class 0 and label 1: d/dv of (1 - v0^2)^2 + (-v2^2)^2.
    a = 0.4
    expected = [-4 * a * (1 - a * a), 0.0, 4 * a**3]
    assert v.grad[0].tolist() == pytest.approx(expected, abs=1e-6)
    # -log q1 with q1 = m / (m + r): m = p1 + u^2, r what the others keep of 1.
    p0, p1, p2 = Z.softmax(1)[0].tolist()
    m, r = p1 + 0.25, max(p0 - 0.16, 1e-4) + max(p2 - 0.16, 1e-4)
    assert u.grad.item() == pytest.approx(2 * 0.5 * (1 / (m + r) - 1 / m), rel=1e-5)
    assert u.grad.item() < 0
    assert logits.grad.abs().sum() > 0


def test_sop_balance_is_the_same_for_all_of_a_batch():
    logits, labels = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), Y.repeat(6)
    u, v = torch.zeros(6), torch.zeros(6, 3)
    plain = sparse_overparam_losses(logits, labels, u, v)
    added = sparse_overparam_losses(logits, labels, u, v, balance=0.1) - plain
    mean = logits.softmax(1).mean(0)
    torch.testing.assert_close(added, torch.full((6,), -0.1 * mean.log().mean().item()))


def test_elr_oracle():
    targets = torch.tensor([[0.7, 0.2, 0.1]])
    assert early_learning_penalty(Z, targets).item() == pytest.approx(-0.741534, abs=1e-6)
    first = moved_targets(torch.zeros(1, 3), Z, beta=0.7)
    torch.testing.assert_close(first, 0.3 * Z.softmax(1))
    torch.testing.assert_close(moved_targets(first, Z, 0.7), 0.51 * Z.softmax(1))
    sure = torch.tensor([[50.0, 0.0, 0.0]])  # a probability of 1 has a finite logarithm
    assert early_learning_penalty(sure, sure.softmax(1)).isfinite()


def test_gce_lies_between_cross_entropy_and_the_absolute_error():
    entropy = F.cross_entropy(Z, Y)
    torch.testing.assert_close(generalized_cross_entropy(Z, Y, 1e-4)[0], entropy, rtol=1e-3, atol=0)
    own = Z.softmax(1)[0, 1]
    torch.testing.assert_close(generalized_cross_entropy(Z, Y, 1.0)[0], 1 - own)
    expected = (1 - own**0.7) / 0.7
    torch.testing.assert_close(generalized_cross_entropy(Z, Y)[0], expected)


def test_sce_is_cross_entropy_both_ways():
    p = Z.softmax(1)[0]
    reverse = -(p * torch.tensor([-4.0, 0.0, -4.0])).sum()
    expected = 6 * F.cross_entropy(Z, Y) + 0.1 * reverse
    torch.testing.assert_close(symmetric_cross_entropy(Z, Y, 6.0, 0.1)[0], expected)


def test_consistency_is_torchs_divergence_and_trains_the_strong_view():
    weak, strong = Z.clone().requires_grad_(), torch.tensor([[0.5, 0.0, 1.0]], requires_grad=True)
    found = view_consistency(weak, strong)
    expected = F.kl_div(strong.log_softmax(1), Z.softmax(1), reduction="sum")
    torch.testing.assert_close(found[0], expected)
    found.sum().backward()
    assert weak.grad is None
    assert strong.grad.abs().sum() > 0


@pytest.mark.parametrize("loss", [generalized_cross_entropy, symmetric_cross_entropy])
def test_large_logits_give_finite_losses_and_gradients(loss):
    logits = torch.tensor([[200.0, -200.0, 0.0]], requires_grad=True)
    value = loss(logits, Y)
    value.sum().backward()
    assert value.isfinite().all()
    assert logits.grad.isfinite().all()
