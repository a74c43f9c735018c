"""What of a loss is beside the tapped losses: by its operations and by its value."""

import pytest
import torch
import torch.nn.functional as F

from lightning_alignprune.tap.loss_tap import LossTap
from lightning_alignprune.tap.untapped import untapped, untapped_form

X, Y = torch.randn(8, 5), torch.arange(8) % 3
NET = torch.nn.Linear(5, 3)


def look(loss_of):
    tap = LossTap(torch.arange(8))
    with tap:
        loss = loss_of(NET(X))
    found = untapped(loss, tap.calls)
    assert found.form == untapped_form(loss, tap.calls)
    return found


@pytest.mark.parametrize(
    "loss_of",
    [
        lambda z: F.cross_entropy(z, Y),
        lambda z: 3 * F.cross_entropy(z, Y) + F.mse_loss(z, X[:, :3]) / 2,
        lambda z: (F.cross_entropy(z, Y, reduction="none") * X[:, 0]).sum(),
        lambda z: F.mse_loss(z, X[:, :3], reduction="sum") / 7 + X.mean(),
    ],
)
def test_nothing_is_trained_beside_tapped_losses(loss_of):
    assert look(loss_of).form == ()
    assert look(loss_of).is_nothing(0)


def test_the_rest_is_what_was_added_by_hand():
    form, rest, scale, factors = look(lambda z: 2 * F.cross_entropy(z, Y) + z.square().mean())
    by_hand = NET(X).square().mean().item()
    assert "MeanBackward0" in form
    assert factors == []
    assert rest == pytest.approx(by_hand, rel=1e-5)
    assert scale >= 2 * F.cross_entropy(NET(X), Y).item()


def test_the_form_is_the_same_for_the_same_code_only():
    def with_penalty(z):
        return F.cross_entropy(z, Y) + NET.weight.abs().sum()

    by_hand = look(lambda z: F.cross_entropy(z, Y) + z.abs().sum())
    assert look(with_penalty).form == look(with_penalty).form != by_hand.form


def test_elements_changed_in_place_are_taken_as_they_became():
    def masked(z):
        elements = F.cross_entropy(z, Y, reduction="none")
        elements *= X[:, 0] > 0
        return elements.mean()

    assert look(masked).form == ()


def test_factors_are_those_that_the_network_makes():
    def by_network(z):
        return F.cross_entropy(z, Y) * (1 + z.square().mean())

    found = look(by_network)
    assert found.factors == pytest.approx([1 + NET(X).square().mean().item()])
    assert found.rest == pytest.approx(0, abs=1e-5)
    assert look(lambda z: F.cross_entropy(z, Y).sqrt()).factors == []
    assert look(lambda z: F.cross_entropy(z, Y) * z.detach().mean() + NET.bias.sum()).factors == []


def test_a_penalty_is_alike_for_other_samples_and_a_factor_is_not():
    def penalised(part):
        return look(lambda z: F.cross_entropy(z, Y) * (1 + part * z.square().mean()) + NET.bias[0])

    assert penalised(0).is_alike(penalised(0), 1e-5)
    assert not penalised(1).is_alike(penalised(2), 1e-5)
