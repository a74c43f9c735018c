"""With pruning on, a step's gradient is the hand-written weighted loss's gradient."""

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader, TensorDataset

from lightning_alignprune import (
    BatchLoss,
    DynamicPruningCallback,
    InfoBatch,
    Policy,
    PruningSchedule,
    Selection,
)
from tests.conftest import TinyModule, make_data, make_trainer


class FixedWeights(Policy):
    def __init__(self, weights):
        self.weights = weights

    def select(self, scores, context):
        return Selection(torch.ones(len(scores), dtype=torch.bool), self.weights)


def pruning(weights, **kwargs):
    return DynamicPruningCallback(
        score="loss",
        policy=FixedWeights(weights),
        schedule=PruningSchedule(stop_fraction=1.0),
        **kwargs,
    )


class HandWeighted(TinyModule):
    """The same training with the weights written into the loss by hand."""

    def __init__(self, weights, reduce="sample"):
        super().__init__()
        self.w, self.reduce = weights, reduce

    def training_step(self, batch, batch_idx):
        x, y, index = batch
        losses = F.cross_entropy(self(x), y, reduction="none")
        if self.trainer.current_epoch == 0:
            return losses.mean()
        w = self.w[index].to(losses.dtype)
        return losses.mean() * w.mean() if self.reduce == "batch" else (losses * w).mean()


class Stock(TinyModule):
    def training_step(self, batch, batch_idx):
        x, y, _ = batch
        return self.loss(self(x), y)


class ReturnsSampleLoss(TinyModule):
    def training_step(self, batch, batch_idx):
        x, y, _ = batch
        losses = -torch.log_softmax(self(x), 1).gather(1, y[:, None]).squeeze(1)
        return {"loss": losses.mean(), "sample_loss": losses}


def fit(module, double=True, **kwargs):
    data = make_data(64)
    x, y = data.tensors
    dataset = TensorDataset(x.double() if double else x, y, torch.arange(64))
    trainer = make_trainer(
        *kwargs.pop("callbacks", ()), max_epochs=3, precision="64-true" if double else 32, **kwargs
    )
    torch.manual_seed(0)
    for layer in module.net:
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()
    trainer.fit(module, DataLoader(dataset, 8))
    return torch.cat([p.detach().flatten().double() for p in module.parameters()])


@pytest.mark.parametrize("module", [Stock, lambda: Stock(loss="module"), ReturnsSampleLoss])
@pytest.mark.parametrize("kwargs", [{}, {"accumulate_grad_batches": 2}, {"gradient_clip_val": 0.1}])
def test_training_equals_a_hand_weighted_module(module, kwargs):
    weights = torch.rand(64) * 3
    ours = fit(module(), callbacks=[pruning(weights)], **kwargs)
    by_hand = fit(HandWeighted(weights), **kwargs)
    torch.testing.assert_close(ours, by_hand, rtol=0, atol=1e-6)
    unweighted = fit(Stock(), **kwargs)
    assert (ours - unweighted).abs().max() > 1e-3, "the weights did nothing"


class TappedInside(TinyModule):
    """Returns losses that are made with torch loss functions of B rows each."""

    def __init__(self, how):
        super().__init__()
        self.how = how

    def training_step(self, batch, batch_idx):
        x, y, _ = batch
        logits = self(x)
        losses = F.cross_entropy(logits, y, reduction="none")
        if self.how == "beside a mean":  # the loss does not pass through them
            return {"loss": F.cross_entropy(logits, y), "sample_loss": losses.detach()}
        if self.how == "one by one":  # 8 elements of each sample, in a batch of 8
            ones = torch.ones(8, 1)
            losses = torch.stack([F.mse_loss(ones * one, 0 * ones).sqrt() for one in losses])
        return {"loss": losses.mean(), "sample_loss": losses}


@pytest.mark.parametrize("how", ["elements", "one by one", "beside a mean"])
def test_returned_losses_are_weighted_once_whatever_they_are_made_of(how):
    weights = torch.rand(64) * 3
    callback = pruning(weights, keep_history=True)
    ours = fit(TappedInside(how), callbacks=[callback])
    torch.testing.assert_close(ours, fit(HandWeighted(weights)), rtol=0, atol=1e-6)


def test_a_loss_that_is_not_made_of_the_returned_losses_cannot_be_weighted():
    class Apart(TinyModule):
        def training_step(self, batch, batch_idx):
            x, y, _ = batch
            log_p = torch.log_softmax(self(x), 1).gather(1, y[:, None]).squeeze(1)
            return {"loss": -log_p.mean(), "sample_loss": log_p.square()}

    with pytest.raises(MisconfigurationException, match="one that the loss is not made of"):
        fit(Apart(), callbacks=[pruning(torch.rand(64))])


def test_batch_loss_weights_the_batch_by_its_mean_weight():
    weights = torch.rand(64) * 3
    ours = fit(Stock(), callbacks=[pruning(weights, signal=BatchLoss())])
    torch.testing.assert_close(ours, fit(HandWeighted(weights, "batch")), rtol=0, atol=1e-6)


def test_weights_are_gone_in_the_finish():
    seen = []

    class Watch(Stock):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            x, y, _ = batch
            with torch.no_grad():
                seen.append(
                    (self.trainer.current_epoch, (loss - F.cross_entropy(self(x), y)).item())
                )
            return loss

    callback = DynamicPruningCallback(score="loss", policy=InfoBatch(0.5))
    data = make_data(64)
    dataset = TensorDataset(*data.tensors, torch.arange(64))
    make_trainer(callback, max_epochs=10).fit(Watch(), DataLoader(dataset, 8, shuffle=True))
    by_epoch = {e: [d for epoch, d in seen if epoch == e] for e in range(10)}
    assert any(abs(d) > 1e-4 for d in by_epoch[7]), "epoch 7 is weighted"
    # 10 * 0.875 is no integer: the public sampler keeps its weights here.
    assert len(by_epoch[8]) == len(by_epoch[9]) == 8
    assert all(d == 0.0 for d in by_epoch[8] + by_epoch[9])
