"""The first step with weights is rehearsed: what would break later is refused before step 1."""

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader

from lightning_alignprune import DynamicPruningCallback, InfoBatch, PruningSchedule
from tests.conftest import TinyModule, make_data, make_trainer, weights_of


class LossInCheckpoint(TinyModule):
    def training_step(self, batch, batch_idx):
        x, y = batch
        return checkpoint(lambda h: F.cross_entropy(self.net(h), y), x, use_reentrant=False)


def fit(module, policy):
    torch.manual_seed(0)
    schedule = PruningSchedule(finish="selected")
    callback = DynamicPruningCallback("loss", policy, schedule=schedule)
    make_trainer(callback, max_epochs=4).fit(module, DataLoader(make_data(), 8))
    return callback


def test_a_loss_inside_a_checkpoint_is_refused_before_anything_is_trained():
    module = LossInCheckpoint()
    before = weights_of(module)
    with pytest.raises(MisconfigurationException, match="outside of activation checkpoints"):
        fit(module, InfoBatch(0.5))
    for name, value in weights_of(module).items():
        assert torch.equal(value, before[name]), name


def test_without_weights_it_trains():
    callback = fit(LossInCheckpoint(), InfoBatch(0.5, rescale="none"))
    assert callback.decision.selection is not None


def test_a_step_that_cannot_be_repeated_trains_all_the_same():
    calls = []

    class FailsFirst(TinyModule):
        def training_step(self, batch, batch_idx):
            calls.append(batch_idx)
            if len(calls) == 1:
                raise RuntimeError("not in a rehearsal")
            return super().training_step(batch, batch_idx)

    assert fit(FailsFirst(), InfoBatch(0.5)).decision.selection is not None
