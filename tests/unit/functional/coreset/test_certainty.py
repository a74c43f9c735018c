"""Margin, EL2N and GraNd: literal values, and autograd as judge."""

import pytest
import torch
import torch.nn.functional as F

from lightning_alignprune.functional import (
    error_norm,
    last_layer_gradient_norm,
    probability_margin,
)

P, Y, H = torch.tensor([[0.7, 0.2, 0.1]]), torch.tensor([0]), torch.tensor([[3.0, 4.0]])


def test_oracles():
    assert probability_margin(P).item() == pytest.approx(0.5, abs=1e-6)
    assert error_norm(P, Y).item() == pytest.approx(0.374166, abs=1e-6)
    assert last_layer_gradient_norm(P, Y, H).item() == pytest.approx(1.907878, abs=1e-6)
    assert last_layer_gradient_norm(P, Y, H, False).item() == pytest.approx(0.374166 * 5, abs=1e-5)


def test_the_inputs_stay_as_they_are():
    before = P.clone()
    error_norm(P, Y)
    assert torch.equal(P, before)


@pytest.mark.parametrize("has_bias", [True, False])
def test_grand_is_the_gradient_of_each_samples_own_loss_whatever_the_batch(has_bias):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(5, 4, generator=generator)
    labels = torch.tensor([0, 2, 1, 1, 0])
    layer = torch.nn.Linear(4, 3, bias=has_bias)
    probabilities = layer(features).softmax(1).detach()
    ours = last_layer_gradient_norm(probabilities, labels, features, has_bias)
    for i in range(5):
        loss = F.cross_entropy(layer(features[i : i + 1]), labels[i : i + 1])
        grads = torch.autograd.grad(loss, list(layer.parameters()))
        norm = torch.cat([grad.flatten() for grad in grads]).norm()
        assert ours[i].item() == pytest.approx(norm.item(), rel=1e-5)
