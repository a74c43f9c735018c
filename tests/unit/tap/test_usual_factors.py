"""A sample counts alike in batches of every size."""

import pytest
import torch

from lightning_alignprune.tap.usual_factors import UsualFactors


def test_factors_that_shrink_with_the_batch_are_a_sums():
    usual = UsualFactors()
    assert usual.corrections(torch.tensor([1.0, 12.0, -12.0]), 12) is None
    found = usual.corrections(torch.tensor([1.1, 3.3, -2.8]), 3)
    torch.testing.assert_close(found, torch.tensor([1.0, 4.0, 4.0]))


@pytest.mark.parametrize("factor", [0.0, -1.0, torch.nan, torch.inf])
def test_what_cannot_be_told_stays(factor):
    usual = UsualFactors()
    usual.corrections(torch.tensor([1.0]), 12)
    assert usual.corrections(torch.tensor([factor]), 3).item() == 1
    assert usual.corrections(torch.tensor([-1.0]), 3).item() == 1


def test_other_terms_begin_anew():
    usual = UsualFactors()
    usual.corrections(torch.tensor([12.0]), 12)
    assert usual.corrections(torch.tensor([3.0, 3.0]), 3) is None


def test_the_state_goes_on():
    usual, resumed = UsualFactors(), UsualFactors()
    usual.corrections(torch.tensor([12.0]), 12)
    resumed.load_state_dict(usual.state_dict())
    assert resumed.corrections(torch.tensor([3.0]), 3).tolist() == [4.0]
