"""``validate``, ``test`` and ``predict`` of a checkpoint touch nothing of a fit."""

import lightning.pytorch as pl
import pytest
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from lightning_alignprune import DynamicPruningCallback, InfoBatch, PruningSchedule
from tests.conftest import TinyModule, assert_identical, make_data, make_trainer, weights_of

pytestmark = pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path.")
STAGES = ("validate", "test", "predict")


class AllStages(TinyModule):
    def test_step(self, batch, batch_idx):
        self.validation_step(batch, batch_idx)

    def predict_step(self, batch, batch_idx):
        return self(batch[0])


def make_callback():
    schedule = PruningSchedule(1, 1.0)
    return DynamicPruningCallback("loss", InfoBatch(0.5), schedule=schedule, keep_history=True)


def look_at(stage, trainer, module, path):
    loader = DataLoader(make_data(24, seed=1), 8)
    getattr(trainer, stage)(module, loader, ckpt_path=path)


@pytest.fixture
def saved(tmp_path, train_loader):
    """A run of four epochs, with a checkpoint of each."""
    pl.seed_everything(1, verbose=False)
    checkpoint = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    module, callback = AllStages(), make_callback()
    trainer = make_trainer(callback, checkpoint, num_sanity_val_steps=0)
    trainer.fit(module, train_loader(shuffle=True))
    return trainer, module, callback, tmp_path / "epoch=0.ckpt"


@pytest.mark.parametrize("stage", STAGES)
def test_a_fit_that_goes_on_keeps_its_own(saved, stage, train_loader):
    trainer, module, callback, path = saved
    look_at(stage, trainer, module, path)
    trainer.fit_loop.max_epochs = 6
    trainer.fit(module, train_loader(shuffle=True))
    assert callback.trajectories.epochs == list(range(6))


@pytest.mark.parametrize("stage", STAGES)
def test_a_fit_from_scratch_begins_from_scratch(saved, stage, train_loader):
    path, weights = saved[3], []
    for looks in (False, True):
        pl.seed_everything(3, verbose=False)
        module, callback = AllStages(), make_callback()
        trainer = make_trainer(callback)
        if looks:
            look_at(stage, make_trainer(callback), AllStages(), path)
            pl.seed_everything(3, verbose=False)
            module = AllStages()
        trainer.fit(module, train_loader(shuffle=True))
        assert callback.trajectories.epochs == [0, 1, 2, 3]
        weights.append(weights_of(module))
    assert_identical(*weights)


def test_what_a_fit_found_is_still_saved_after_looking_at_another_checkpoint(saved, tmp_path):
    trainer, module, callback, path = saved
    before = callback.state_dict()["num_trained"]
    look_at("validate", trainer, module, path)
    assert callback.state_dict()["num_trained"] == before


def test_a_resume_after_looking_takes_the_fits_state(saved, train_loader):
    module, callback = AllStages(), make_callback()
    look_at("validate", make_trainer(callback), module, saved[3])
    trainer = make_trainer(callback)
    trainer.fit(module, train_loader(shuffle=True), ckpt_path=saved[3])
    assert callback.trajectories.epochs == [0, 1, 2, 3]
