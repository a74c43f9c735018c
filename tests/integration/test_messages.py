"""Refusals name the cause, and what they advise works."""

import re

import pytest
import torch.nn.functional as F
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning_utilities.core import rank_zero
from torch.utils.data import DataLoader, Dataset, Subset, default_collate

from lightning_alignprune import BatchLoss, DynamicPruningCallback, InfoBatch
from tests.conftest import TinyModule, make_data, make_trainer


def fit(module, loader, callback):
    make_trainer(callback, max_epochs=3).fit(module, loader)
    return callback


class TakesTheIterator(TinyModule):
    num_steps = 0

    def training_step(self, dataloader_iter):
        self.num_steps += 1
        batch, batch_idx, _ = next(dataloader_iter)
        return super().training_step(batch, batch_idx)


@pytest.mark.filterwarnings("ignore:You are using the .dataloader_iter. step")
def test_a_step_that_takes_the_iterator_is_refused_before_the_first(train_loader):
    module = TakesTheIterator()
    with pytest.raises(
        MisconfigurationException, match=r"got training_step\(self, dataloader_iter"
    ):
        fit(module, train_loader(), DynamicPruningCallback("loss"))
    assert module.num_steps == 0
    fit(TinyModule(), train_loader(), DynamicPruningCallback("loss"))  # takes the batch


PROGRAM = """
import pytorch_lightning as pl
import torch
from torch.nn.functional import cross_entropy

class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(6, 3)

    def training_step(self, batch, batch_idx):
        return cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
trainer = pl.Trainer(accelerator="cpu", max_epochs=1, callbacks=[callback], **quiet)
trainer.fit(Module(), loader)
"""


def test_a_trainer_of_the_other_package_is_named_and_the_way_out_works(train_loader, monkeypatch):
    monkeypatch.setattr(rank_zero, "log", rank_zero.log)  # the import below puts its own there
    pytest.importorskip("pytorch_lightning")
    callback = DynamicPruningCallback("loss")
    names = {"callback": callback, "loader": train_loader()}
    with pytest.raises(
        MisconfigurationException, match=r"got one of pytorch_lightning, whose"
    ) as refused:
        exec(PROGRAM, dict(names))
    written, said = re.search(r"Write `(.*)` wherever it says `(.*)`", str(refused.value)).groups()
    cured = re.sub(f"^{said}.*$", written, PROGRAM, flags=re.MULTILINE)
    assert cured != PROGRAM
    exec(cured, dict(names))
    assert callback.trajectories.epochs == [0]


class Manual(TinyModule):
    """Two losses by hand, as a GAN has them; nothing is returned."""

    def __init__(self, returns=False):
        super().__init__()
        self.automatic_optimization = False
        self.returns = returns

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.param_groups[0]["lr"] = 0.01
        losses = (self(batch[0]) - F.one_hot(batch[1], 3)).square().sum(1)
        optimizer.zero_grad()
        self.manual_backward(losses.mean())
        optimizer.step()
        return {"loss": losses.mean().detach(), "sample_loss": losses} if self.returns else None


@pytest.mark.parametrize("signal", ["SampleLoss", BatchLoss()])
def test_the_way_out_under_manual_optimisation_works(train_loader, signal):
    advice = r'Return \{"loss": loss, "sample_loss": losses\}.* InfoBatch\(rescale=.none.\)'
    with pytest.raises(MisconfigurationException, match=advice) as refused:
        fit(Manual(), train_loader(), DynamicPruningCallback("loss", signal=signal))
    assert "signal=BatchLoss" not in str(refused.value)
    callback = DynamicPruningCallback("loss", InfoBatch(rescale="none"))
    fit(Manual(returns=True), train_loader(), callback)
    assert callback.trajectories.epochs
    weighs = DynamicPruningCallback("loss")
    with pytest.raises(MisconfigurationException, match=r"manual optimisation\. Use a policy"):
        fit(Manual(returns=True), train_loader(), weighs)


class WithBroken(Dataset):
    def __init__(self):
        self.data = make_data(40)

    def __len__(self):
        return 40

    def __getitem__(self, index):
        return None if index == 3 else self.data[index]


def drop_broken(items):
    return default_collate([item for item in items if item is not None])


class ReturnsLosses(TinyModule):
    def training_step(self, batch, batch_idx):
        losses = F.cross_entropy(self(batch[0]), batch[1], reduction="none")
        return {"loss": losses.mean(), "sample_loss": losses}


@pytest.mark.parametrize("make", [TinyModule, ReturnsLosses])
def test_a_collate_function_that_drops_rows_is_named_with_both_counts(make):
    loader = DataLoader(WithBroken(), 8, collate_fn=drop_broken)
    with pytest.raises(
        MisconfigurationException, match=r"a batch of 8 rows.*got 7 rows"
    ) as refused:
        fit(make(), loader, DynamicPruningCallback("loss"))
    assert "Subset" in str(refused.value)
    whole = Subset(WithBroken(), [index for index in range(40) if index != 3])
    callback = fit(make(), DataLoader(whole, 8), DynamicPruningCallback("loss"))
    assert callback.trajectories.epochs
