"""The reference loss is of what is recorded in training: a step's own mask and sums of losses."""

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from lightning_alignprune import DynamicPruningCallback
from tests.conftest import TinyModule, make_data, make_trainer

REFERENCE = make_data(32, seed=1)


def masked(m, x, y):
    mask = (x[:, 0] > 0).float()
    losses = F.cross_entropy(m.net(x), y, reduction="none")
    losses = losses * mask
    return losses.sum() / mask.sum()


def cut(m, x, y):
    losses = F.cross_entropy(m.net(x), y, reduction="none")
    return losses[x[:, 0] > 0].mean()


def with_a_penalty(m, x, y):
    weight = m.net[-1].weight
    return F.cross_entropy(m.net(x), y) + 10 * F.mse_loss(weight @ weight.T, torch.eye(3))


def two_losses(m, x, y):
    logits = m.net(x)
    F.l1_loss(logits, x[:, :3])  # a metric
    return 2 * F.cross_entropy(logits, y) + F.mse_loss(logits, x[:, :3])


def expected(loss_of, m, x, y):
    logits = m.net(x)
    losses = F.cross_entropy(logits, y, reduction="none")
    if loss_of in (masked, cut):
        return losses[x[:, 0] > 0].mean()
    if loss_of is two_losses:
        return 2 * losses.mean() + F.mse_loss(logits, x[:, :3])
    return losses.mean()


@pytest.mark.parametrize("loss_of", [masked, cut, with_a_penalty, two_losses])
def test_what_a_step_makes_of_its_losses_is_followed_on_the_reference(loss_of):
    class Step(TinyModule):
        def training_step(self, batch, batch_idx):
            return loss_of(self, *batch)

    class Compare(pl.Callback):
        def on_train_epoch_end(self, trainer, module):
            with torch.no_grad():
                wanted = expected(loss_of, module, *REFERENCE.tensors)
            found = trainer.callback_metrics["pruning/reference_loss"]
            torch.testing.assert_close(found, wanted)
            assert all(p.requires_grad for p in module.parameters())

    torch.manual_seed(0)
    callback = DynamicPruningCallback(reference=DataLoader(REFERENCE, 10))
    trainer = make_trainer(callback, Compare(), max_epochs=3)
    trainer.fit(Step(), DataLoader(make_data(64), 16))
