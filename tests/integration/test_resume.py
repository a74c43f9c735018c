"""Interrupted equals uninterrupted: same selections, same weights, bit for bit."""

import os
import random
import time
from functools import partial
from typing import ClassVar

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader

from lightning_alignprune import (
    BatchLoss,
    CalibratedLoss,
    DynamicAlignment,
    DynamicPruningCallback,
    InfoBatch,
    MixtureCut,
    PruningSchedule,
    ReferenceRank,
)
from tests.conftest import TinyModule, assert_identical, make_data, make_trainer, weights_of
from tests.integration.forked import end_group, run_forked, start_forked

EPOCHS = 6
ALL_POINTS = bool(os.environ.get("ALL_RESUME_POINTS"))  # as `make test-all` does
pytestmark = pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended")


class SaveEverywhere(Checkpoint):
    """Write a checkpoint after every batch, after validation and at every epoch end."""

    def __init__(self, folder):
        self.folder, self.paths = folder, []

    def _save(self, trainer, moment):
        path = self.folder / f"{len(self.paths):03d}-{moment}-{trainer.current_epoch}.ckpt"
        trainer.save_checkpoint(path)
        self.paths.append(path)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        # Half-accumulated gradients are in no checkpoint of Lightning's.
        is_last = batch_idx + 1 == trainer.num_training_batches
        odd = (batch_idx + 1) % trainer.accumulate_grad_batches and not is_last
        self._save(trainer, "odd" if odd else "last" if is_last else "batch")

    def on_validation_end(self, trainer, *args):
        if not trainer.sanity_checking:
            self._save(trainer, "validation")

    def on_train_epoch_end(self, trainer, *args):
        self._save(trainer, "epoch")


class Orders(pl.Callback):
    """Note which samples each epoch was to train on, and the seed of the order."""

    seeds: ClassVar[list[int]] = []

    def __init__(self):
        self.by_epoch = {}

    def on_train_batch_end(self, trainer, *args):
        sampler = trainer.callbacks[0]._session.sampler
        self.by_epoch[trainer.current_epoch] = sampler.order.clone()
        self.seeds.append(sampler.seed)


class Module(TinyModule):
    def __init__(self, dropout=0.0, logs=False):
        super().__init__(batch_norm=True, dropout=dropout, logs=logs)

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        total = int(self.trainer.estimated_stepping_batches)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.5, total_steps=total)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }


def make_callback(kind="alignment", **kwargs):
    schedule = PruningSchedule(stop_fraction=0.84)
    if kind == "batch loss":
        signal = BatchLoss(bias_correction=True)
        return DynamicPruningCallback("loss", InfoBatch(0.7), signal, schedule, **kwargs)
    reference = make_data(16, seed=3, noise=0.0)
    if kind == "ranks":
        schedule = PruningSchedule(1, finish="selected")
        policy = MixtureCut(patience=0, readmit=0.2)
        parts = ReferenceRank(), policy, CalibratedLoss(), schedule, reference
        return DynamicPruningCallback(*parts, **kwargs)
    score = DynamicAlignment(window=4, min_observations=2)
    return DynamicPruningCallback(
        score, InfoBatch(0.7), schedule=schedule, reference=reference, **kwargs
    )


def run(
    loader,
    val_loader,
    *extra,
    kind="alignment",
    dropout=0.0,
    logs=False,
    ckpt_path=None,
    rng=False,
    **kw,
):
    pl.seed_everything(11, verbose=False)
    module, orders = Module(dropout, logs), Orders()
    callback = make_callback(kind, restore_rng=rng)
    if ckpt_path is not None:
        torch.rand(1000)  # another process would not stand where the first one stood
    trainer = make_trainer(callback, orders, *extra, max_epochs=EPOCHS, **kw)
    trainer.fit(module, loader, val_loader, ckpt_path=ckpt_path)
    return weights_of(module), orders.by_epoch, callback


def same_run(whole, resumed):
    assert_identical(whole[0], resumed[0])
    for epoch, order in resumed[1].items():
        assert torch.equal(order, whole[1][epoch]), f"epoch {epoch} trained on other samples"
    bank, other = whole[2].trajectories, resumed[2].trajectories
    assert bank.epochs == other.epochs
    for row, theirs in zip(bank.rows, other.rows, strict=True):
        assert torch.equal(row.nan_to_num(-1), theirs.nan_to_num(-1))
    torch.testing.assert_close(bank.reference, other.reference, equal_nan=True, rtol=0, atol=0)


CASES = {
    "plain": {"logs": True},
    "accumulate": {"accumulate_grad_batches": 2},
    "two validations": {"val_check_interval": 0.5},
    "limited": {"limit_train_batches": 5},
    "batch loss": {"kind": "batch loss"},
    "ranks": {"kind": "ranks"},
    "dropout": {"dropout": 0.3, "rng": True},
}


@pytest.mark.parametrize("case", CASES)
def test_resume_from_every_moment(case, tmp_path, val_loader):
    kwargs = CASES[case]
    loader = DataLoader(make_data(60), 8, shuffle=True)
    save = SaveEverywhere(tmp_path)
    whole = run(loader, val_loader, save, **kwargs)
    assert {"batch", "last", "validation", "epoch"} <= {p.name.split("-")[1] for p in save.paths}
    assert len({len(order) for order in whole[1].values()}) > 1, "nothing was pruned"
    # Every moment of the slow suite; in the default one a third of them, other ones each case.
    start = list(CASES).index(case) % 3
    paths = save.paths[:-1]  # the last one has nothing left to resume
    if kwargs.get("accumulate_grad_batches"):
        paths = [p for p in paths if "odd" not in p.name]
    for path in paths if ALL_POINTS else paths[start::3]:
        try:
            resumed = run(loader, val_loader, ckpt_path=path, **kwargs)
            same_run(whole, resumed)
        except Exception as error:
            raise AssertionError(f"resumed from {path.name}") from error


@pytest.mark.parametrize("persistent", [False, True])
def test_resume_with_workers(tmp_path, val_loader, persistent):
    loader = DataLoader(
        make_data(60), 8, shuffle=True, num_workers=2, persistent_workers=persistent
    )
    save = SaveEverywhere(tmp_path)
    whole = run(loader, None, save)
    for path in save.paths[5 :: 9 if ALL_POINTS else 14]:
        same_run(whole, run(loader, None, ckpt_path=path))


def test_resume_without_validation_and_without_shuffle(tmp_path):
    loader = DataLoader(make_data(60), 8)
    save = SaveEverywhere(tmp_path)
    whole = run(loader, None, save)
    for path in save.paths[1::4]:
        same_run(whole, run(loader, None, ckpt_path=path))


def test_resume_with_validation_as_reference(tmp_path, val_loader):
    def fit(ckpt_path=None, *extra):
        pl.seed_everything(1, verbose=False)
        callback = DynamicPruningCallback(
            DynamicAlignment(window=4, min_observations=2), reference="validation"
        )
        module, orders = Module(), Orders()
        trainer = make_trainer(callback, orders, *extra, max_epochs=EPOCHS)
        trainer.fit(
            module, DataLoader(make_data(60), 8, shuffle=True), val_loader, ckpt_path=ckpt_path
        )
        return weights_of(module), orders.by_epoch, callback

    save = SaveEverywhere(tmp_path)
    whole = fit(None, save)
    for path in save.paths[:-1] if ALL_POINTS else save.paths[:-1:3]:
        if "last" not in path.name:
            same_run(whole, fit(path))
        else:
            # Lightning never runs the validation that was due: that epoch has no reference loss.
            epoch = int(path.stem.split("-")[-1])
            callback = fit(path)[2]
            missing = callback.trajectories.reference.isnan()
            assert [e for e, m in zip(callback.trajectories.epochs, missing, strict=True) if m] in (
                [epoch],
                [],
            )


def test_checkpoints_hold_tensors_and_primitives_only(tmp_path, val_loader):
    save = SaveEverywhere(tmp_path)
    run(DataLoader(make_data(60), 8, shuffle=True), val_loader, save, rng=True)
    for path in save.paths[::7]:
        state = torch.load(path, weights_only=True)["callbacks"]["DynamicPruningCallback"]
        assert state["version"] == 1


@pytest.fixture
def checkpoint(tmp_path, val_loader):
    save = SaveEverywhere(tmp_path)
    run(DataLoader(make_data(60), 8, shuffle=True), val_loader, save)
    return save.paths[20]


def resume(checkpoint, callback=None, data=None, max_epochs=EPOCHS):
    trainer = make_trainer(callback or make_callback(), Orders(), max_epochs=max_epochs)
    loader = DataLoader(data or make_data(60), 8, shuffle=True)
    trainer.fit(Module(), loader, ckpt_path=checkpoint)
    return trainer


def test_another_dataset_length_is_refused(checkpoint):
    with pytest.raises(MisconfigurationException, match=r"state of 64 samples, got 60"):
        resume(checkpoint, data=make_data(64))


def test_another_policy_or_score_is_refused(checkpoint):
    with pytest.raises(
        MisconfigurationException, match="score=DynamicAlignment, got score=LastLoss"
    ):
        resume(checkpoint, DynamicPruningCallback("loss", schedule=PruningSchedule()))


def test_the_seed_of_the_checkpoint_counts(checkpoint):
    callback = make_callback(seed=99)
    resume(checkpoint, callback)
    assert not callback._session.is_running
    assert callback.state_dict()["seed"] == 11
    assert Orders.seeds[-1] == 11


def test_another_window_is_applied(checkpoint):
    score = DynamicAlignment(window=2, min_observations=2)
    callback = DynamicPruningCallback(score, reference=make_data(16, seed=3))
    resume(checkpoint, callback)
    assert callback.trajectories.epochs == [4, 5]


def test_a_newer_state_is_refused(checkpoint):
    content = torch.load(checkpoint, weights_only=True)
    content["callbacks"]["DynamicPruningCallback"]["version"] = 99
    torch.save(content, checkpoint)
    with pytest.raises(MisconfigurationException, match="version 1 or older, got 99"):
        resume(checkpoint)


def test_a_checkpoint_from_a_run_without_the_callback(tmp_path, val_loader):
    trainer = make_trainer(max_epochs=3)
    trainer.fit(Module(), DataLoader(make_data(60), 8, shuffle=True), val_loader)
    trainer.save_checkpoint(tmp_path / "plain.ckpt")
    callback = make_callback()
    content = torch.load(tmp_path / "plain.ckpt", weights_only=False)
    content["lr_schedulers"] = []  # its schedule was made for three epochs
    torch.save(content, tmp_path / "plain.ckpt")

    class Constant(Module):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)

    trainer = make_trainer(callback, max_epochs=EPOCHS)
    trainer.fit(
        Constant(), DataLoader(make_data(60), 8, shuffle=True), ckpt_path=tmp_path / "plain.ckpt"
    )
    assert callback.trajectories.epochs == [3, 4, 5], "it begins to record where it came in"


def test_a_callback_in_a_new_trainer_begins_anew(val_loader):
    loader = DataLoader(make_data(60), 8, shuffle=True)
    callback = make_callback("batch loss")
    weights = []
    for _ in range(2):
        pl.seed_everything(2, verbose=False)
        module = Module()
        make_trainer(callback, max_epochs=EPOCHS).fit(module, loader)
        weights.append(weights_of(module))
    assert_identical(*weights)


def test_fit_twice_goes_on():
    loader = DataLoader(make_data(60), 8, shuffle=True)
    callback = make_callback()
    trainer = make_trainer(callback, max_epochs=3)
    module = TinyModule()
    trainer.fit(module, loader)
    trainer.fit_loop.max_epochs = 6
    trainer.fit(module, loader)
    assert callback.trajectories.epochs == [2, 3, 4, 5]
    assert trainer.global_step < 6 * 8


def train_and_save(folder, ckpt_path):
    torch.set_num_threads(1)
    loader = DataLoader(make_data(60), 8, shuffle=True)
    val_loader = DataLoader(make_data(24, seed=1, noise=0.0), batch_size=8)
    weights, orders, _ = run(loader, val_loader, SaveEverywhere(folder), ckpt_path=ckpt_path)
    torch.save((weights, orders), folder / "result.pt")


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("num_kills", [4, pytest.param(200, marks=pytest.mark.slow)])
def test_killed_at_random_moments(tmp_path, num_kills):
    (tmp_path / "whole").mkdir()
    run_forked(partial(train_and_save, tmp_path / "whole", None), tmp_path / "log")
    whole = torch.load(tmp_path / "whole" / "result.pt", weights_only=True)
    rng = random.Random(0)
    for kill in range(num_kills):
        folder, again = tmp_path / str(kill), tmp_path / f"{kill}-resumed"
        folder.mkdir()
        again.mkdir()
        process = start_forked(partial(train_and_save, folder, None), tmp_path / "log")
        # Wait until it is in the run, then a random while.
        deadline = time.monotonic() + 60
        while not any(folder.glob("*.ckpt")) and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(rng.random() * 0.5)
        end_group(process)
        newest = _newest_whole_checkpoint(folder)
        run_forked(partial(train_and_save, again, newest), tmp_path / "log")
        weights, orders = torch.load(again / "result.pt", weights_only=True)
        assert_identical(whole[0], weights)
        for epoch, order in orders.items():
            assert torch.equal(order, whole[1][epoch])


def _newest_whole_checkpoint(folder):
    """A kill may leave the file that was being written cut short."""
    for path in sorted(folder.glob("*.ckpt"), reverse=True):
        try:
            torch.load(path, weights_only=True)
        except Exception:
            continue
        return path
    raise AssertionError("killed before the first checkpoint")
