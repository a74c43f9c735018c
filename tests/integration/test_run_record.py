"""What a run writes down of its epochs, with a Trainer."""

import time

import lightning.pytorch as pl
import pytest
from lightning.pytorch.callbacks import Checkpoint
from torch.utils.data import DataLoader

from lightning_alignprune import DynamicPruningCallback, InfoBatch
from tests.conftest import TinyModule, make_data, make_trainer


class Slow(TinyModule):
    def training_step(self, batch, batch_idx):
        time.sleep(0.01)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx):
        time.sleep(0.05)


class SaveInMidEpoch(Checkpoint):
    def __init__(self, path):
        self.path = path

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.current_epoch == 4 and batch_idx == 2:
            trainer.save_checkpoint(self.path)


class Walls(pl.Callback):
    """Note how long epochs take with all that is in them."""

    def __init__(self):
        self.seconds = []

    def on_train_epoch_start(self, trainer, module):
        self.seconds.append(-time.perf_counter())

    def on_train_epoch_end(self, trainer, module):
        self.seconds[-1] += time.perf_counter()


def fit(*extra, **kwargs):
    pl.seed_everything(1, verbose=False)
    callback = DynamicPruningCallback("loss", InfoBatch(0.9, "none"))
    trainer = make_trainer(callback, *extra, max_epochs=5)
    trainer.fit(Slow(), DataLoader(make_data(80), 8), DataLoader(make_data(80), 8), **kwargs)
    return callback._pruner.record


def test_passes_and_seconds_of_a_run():
    record = fit()
    full, *pruned = record.epochs[:4]
    assert [e.epoch for e in record.epochs] == [0, 1, 2, 3, 4]
    assert [full.num_trained, full.kept_fraction, full.is_full] == [80, 1.0, True]
    assert all(e.num_trained == round(80 * e.kept_fraction) < 80 for e in pruned)
    assert record.passes_saved == sum(80 - e.num_trained for e in record.epochs)
    assert all(e.overhead_seconds > 0 for e in record.epochs)
    assert record.seconds_saved is not None


def test_seconds_are_those_of_steps_and_not_of_validation():
    walls = Walls()
    for each, wall in zip(fit(walls).epochs, walls.seconds, strict=True):
        assert 0.01 <= each.seconds <= wall - 0.5, "ten validation steps of 0.05"


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch")
def test_a_resumed_run_has_the_epochs_before(tmp_path):
    path = tmp_path / "mid.ckpt"
    whole = fit(SaveInMidEpoch(path))
    resumed = fit(ckpt_path=path)
    for before, after in zip(whole.epochs, resumed.epochs, strict=True):
        assert before[:4] == after[:4]
        assert after.seconds > 0
    assert [e.seconds for e in whole.epochs[:4]] == [e.seconds for e in resumed.epochs[:4]]
