"""What of a loss is beside the tapped losses: by its operations and by its value."""

import pytest
import torch
import torch.nn.functional as F

from lightning_alignprune.tap.loss_tap import LossTap
from lightning_alignprune.tap.untapped import untapped_form, untapped_part

X, Y = torch.randn(8, 5), torch.arange(8) % 3
NET = torch.nn.Linear(5, 3)


def look(loss_of):
    tap = LossTap(torch.arange(8))
    with tap:
        loss = loss_of(NET(X))
    return untapped_form(loss, tap.calls), *untapped_part(loss, tap.calls)


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
    form, rest, scale = look(loss_of)
    assert form == ()
    assert abs(rest) <= max(1e-6 * scale, abs(X.mean().item()) * 1.01)


def test_the_rest_is_what_was_added_by_hand():
    form, rest, scale = look(lambda z: 2 * F.cross_entropy(z, Y) + z.square().mean())
    by_hand = NET(X).square().mean().item()
    assert "MeanBackward0" in form
    assert rest == pytest.approx(by_hand, rel=1e-5)
    assert scale >= 2 * F.cross_entropy(NET(X), Y).item()


def test_the_form_is_the_same_for_the_same_code_only():
    def with_penalty(z):
        return F.cross_entropy(z, Y) + NET.weight.abs().sum()

    assert look(with_penalty)[0] == look(with_penalty)[0]
    assert look(with_penalty)[0] != look(lambda z: F.cross_entropy(z, Y) + z.abs().sum())[0]


def test_elements_changed_in_place_are_taken_as_they_became():
    def masked(z):
        elements = F.cross_entropy(z, Y, reduction="none")
        elements *= X[:, 0] > 0
        return elements.mean()

    form, rest, scale = look(masked)
    assert form == ()
    assert abs(rest) <= 1e-6 * scale
