"""Which operations clip a loss is read off its graph."""

import pytest
import torch
from torch import nn

from lightning_alignprune.tap.clipping import clips_between, may_fill

SCALE = nn.Parameter(torch.ones(()))


def losses():
    return torch.tensor([1.0, 3.0, 2.0], requires_grad=True) * 1


@pytest.mark.parametrize(
    "reduce",
    [
        lambda x: x.clamp(max=2).mean(),
        lambda x: x.mean().clamp(min=2),
        lambda x: (x - 2).abs().sum(),
        lambda x: torch.relu(x - 2).sum(),
        lambda x: torch.minimum(x, torch.tensor(2.0)).sum(),
        lambda x: torch.nn.functional.hardtanh(x).sum(),
    ],
)
def test_what_is_clipped(reduce):
    assert clips_between(reduce(x := losses()), [x])


@pytest.mark.parametrize(
    "reduce",
    [
        lambda x: (x * torch.tensor([1.0, 0.0, 1.0])).sum() / 2,
        lambda x: x.topk(2).values.mean(),
        lambda x: torch.minimum(x, x.flip(0)).sum(),
        lambda x: x.mean() + SCALE.abs(),  # clipped, but none of the losses
        lambda x: x.max(),
    ],
)
def test_what_is_not(reduce):
    assert clips_between(reduce(x := losses()), [x]) == []


def test_other_values_in_the_place_of_losses():
    x = losses()
    filled = x.masked_fill(x > 1, 0.0).sum()
    assert may_fill(filled, [x])
    assert not may_fill(filled + SCALE**2, [x])  # the losses need not add up then
    assert not may_fill(x.sum(), [x])
