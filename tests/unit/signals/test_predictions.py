"""What a prediction says of the given label, on prepared steps."""

import pytest
import torch

from lightning_alignprune import LabelProbability, RightPrediction
from tests.unit.signals.test_calibrated_loss import step_of

LOGITS = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3]]).log()


@pytest.mark.parametrize(
    ("signal", "of_0", "of_2"), [(LabelProbability(), 0.7, 0.3), (RightPrediction(), 1.0, 0.0)]
)
def test_one_number_for_each_sample(signal, of_0, of_2):
    values = signal.values(step_of(LOGITS, torch.tensor([0, 2])))
    assert values.tolist() == pytest.approx([of_0, of_2])
    assert values.dtype == torch.float32
    ignored = signal.values(step_of(LOGITS, torch.tensor([0, -100])))
    assert ignored[0] == pytest.approx(of_0)
    assert ignored[1].isnan()
    bad = torch.full((2,), torch.inf)
    assert signal.values(step_of(LOGITS * torch.nan, torch.tensor([0, 2]), bad)).isinf().all()
    assert signal.label_notes(step_of(LOGITS, torch.tensor([0, 2])))[1].tolist() == [0, 2]
