"""A checkpoint written while a batch is under way resumes with that batch, to the bit."""

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import OnExceptionCheckpoint
from torch.utils.data import DataLoader

from lightning_alignprune import DynamicPruningCallback, InfoBatch
from tests.conftest import TinyModule, make_data, make_trainer
from tests.integration import test_resume

pytestmark = test_resume.pytestmark
EPOCH = 1
MOMENTS = (
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_after_backward",
    "on_train_batch_end",
)


def run(*args, **kwargs):
    """Run as elsewhere; leave out what a forward pass changes, since it is made again."""
    weights, orders, callback = test_resume.run(*args, **kwargs)
    trained = {k: v for k, v in weights.items() if "running" not in k and "tracked" not in k}
    return trained, orders, callback


class SavesAt(pl.Callback):
    """Save at a moment of a batch."""

    def __init__(self, moment, batch, path):
        self.batch, self.path, self.is_saved = batch, path, False
        setattr(self, moment, self._save)

    def _save(self, trainer, *args):
        ready = trainer.fit_loop.epoch_loop.batch_progress.current.ready
        if not self.is_saved and trainer.current_epoch == EPOCH and ready == self.batch:
            self.is_saved = True
            trainer.save_checkpoint(self.path)


class Raises(pl.Callback):
    def __init__(self, batch):
        self.batch = batch

    def on_before_zero_grad(self, trainer, *args):
        ready = trainer.fit_loop.epoch_loop.batch_progress.current.ready
        if trainer.current_epoch == EPOCH and ready == self.batch:
            raise RuntimeError("preempted")


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("num_samples", [64, 60])
def test_saved_inside_the_last_batch(tmp_path, val_loader, moment, num_samples):
    loader = DataLoader(make_data(num_samples), 8, shuffle=True)
    kwargs = {"kind": "batch loss", "dropout": 0.3, "rng": True, "num_sanity_val_steps": 1}
    whole = run(loader, val_loader, **kwargs)
    last = -(-len(whole[1][EPOCH]) // 8)
    for batch in (2, last):
        path = tmp_path / f"{batch}.ckpt"
        saver = SavesAt(moment, batch, path)
        test_resume.same_run(whole, run(loader, val_loader, saver, **kwargs))
        assert saver.is_saved
        test_resume.same_run(whole, run(loader, val_loader, ckpt_path=path, **kwargs))


@pytest.mark.filterwarnings(
    "ignore:.*no last checkpoint available", "ignore:.*was called without a model"
)
def test_an_exception_in_the_last_batch(tmp_path):
    loader = DataLoader(make_data(64), 8, shuffle=True)
    kwargs = {"kind": "batch loss", "dropout": 0.3, "rng": True}
    whole = run(loader, None, **kwargs)
    last = -(-len(whole[1][EPOCH]) // 8)
    keeper = OnExceptionCheckpoint(tmp_path, filename="stopped")
    with pytest.raises(RuntimeError, match="preempted"):
        run(loader, None, Raises(last), keeper, **kwargs)
    test_resume.same_run(whole, run(loader, None, ckpt_path=tmp_path / "stopped.ckpt", **kwargs))


class SavesAfterItsStep(TinyModule):
    """Counts the optimizer's steps and the forward passes; may save between a step and its end."""

    def __init__(self, path=None, batch=None):
        super().__init__(batch_norm=True)
        self.path, self.batch = path, batch

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters())

    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure=None):
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        if (epoch, batch_idx) == (EPOCH, self.batch):
            self.trainer.save_checkpoint(self.path)

    def counts(self):
        adam = self.optimizers().optimizer.state[self.net[0].weight]
        return int(adam["step"]), int(self.net[1].num_batches_tracked)


@pytest.mark.parametrize("is_with_us", [False, True], ids=["plain", "pruned"])
@pytest.mark.parametrize("moment", ["on_after_backward", "after the step"])
def test_what_a_batch_had_changed_by_then_is_changed_twice_as_in_lightning(
    tmp_path, moment, is_with_us
):
    """Lightning counts a batch when it is over, and makes it again: not exact, and not ours."""
    path, counts = tmp_path / "saved.ckpt", []
    is_after = moment == "after the step"
    for ckpt_path in (None, path):
        module = SavesAfterItsStep(path, 2 if is_after and ckpt_path is None else None)
        extra = [] if is_after or ckpt_path else [SavesAt(moment, 3, path)]
        ours = [DynamicPruningCallback("loss", InfoBatch(0.0))] if is_with_us else []
        trainer = make_trainer(*ours, *extra, max_epochs=3)
        trainer.fit(module, DataLoader(make_data(40), 8, shuffle=True), ckpt_path=ckpt_path)
        counts.append(module.counts())
    assert counts == [(15, 15), (15 + is_after, 16)]
