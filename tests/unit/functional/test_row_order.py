"""Values that go with their samples are told from values that stay or go elsewhere."""

import pytest
import torch

from lightning_alignprune.functional.row_order import are_among, changed_places, follow_samples


@pytest.mark.parametrize("num_samples", [1, 2, 3, 16, 1000])
def test_places_are_changed_and_always_the_same(num_samples):
    order = changed_places(num_samples)
    assert sorted(order.tolist()) == list(range(num_samples))
    assert torch.equal(order, changed_places(num_samples))
    assert torch.equal(order, torch.arange(num_samples)) == (num_samples == 1)


@pytest.mark.parametrize("num_samples", [2, 5, 64])
@pytest.mark.parametrize("seed", range(8))
def test_right_and_wrong_places(num_samples, seed):
    torch.manual_seed(seed)
    losses, order = torch.rand(num_samples).exp(), changed_places(num_samples)
    noisy = losses[order] * (1 + 1e-6 * torch.randn(num_samples))
    assert follow_samples(losses, noisy, order) is True
    assert follow_samples(losses, losses, order) is False
    assert follow_samples(losses, torch.rand(num_samples), order) is False


def test_alike_values_tell_nothing():
    order = changed_places(8)
    assert follow_samples(torch.full((8,), 1.1), torch.full((8,), 1.1), order) is None
    almost = 1.1 + 1e-3 * torch.rand(8)
    assert follow_samples(almost, almost, order, precision=2**-8) is None
    assert follow_samples(almost, almost, order) is False


def test_unobserved_and_infinite_values_go_with_their_samples_too():
    order = changed_places(6)
    losses = torch.tensor([0.1, torch.nan, 0.7, torch.inf, 1.5, 0.2])
    assert follow_samples(losses, losses[order], order) is True
    assert follow_samples(losses, losses, order) is False


def test_values_that_are_among_others():
    others = torch.rand(50, generator=torch.Generator().manual_seed(0))
    some = others[torch.tensor([3, 40, 11, 3])]
    assert are_among(some, others)
    assert are_among(some * (1 + 1e-7), others)
    assert not are_among(some + 1e-3, others)
    assert not are_among(some, others, precision=0.01)  # anything is near one of them
    assert not are_among(torch.zeros(4), torch.tensor([0.0, 0.0, 1.0]))
    assert not are_among(torch.tensor([torch.nan, 1.0]), others)
    assert not are_among(some[:0], others)
