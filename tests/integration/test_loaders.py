"""Every way a train loader may come, and every Trainer setting about it."""

import time
from datetime import timedelta

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import BatchSizeFinder, EarlyStopping, LearningRateFinder
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from lightning_alignprune import DynamicPruningCallback, InfoBatch, PruningSchedule
from tests.conftest import EpochLog, TinyModule, make_data, make_trainer
from tests.integration.test_epoch_lengths import SHARES, expected_batches, pruning


def all_of(kwargs):
    return DynamicPruningCallback("loss", InfoBatch(0.6), keep_history=True, **kwargs)


def check_pruned(callback, log, trainer):
    """It pruned, every planned batch ran, and what ran is what was recorded."""
    assert log.planned == log.batches
    assert min(log.batches) < log.batches[0]
    assert trainer.global_step == sum(log.batches)


@pytest.mark.parametrize("where", ["argument", "datamodule", "module"])
@pytest.mark.parametrize("num_workers", [0, 1])
def test_where_the_loader_comes_from(where, num_workers):
    def loader(self=None):
        return DataLoader(make_data(), 8, shuffle=True, num_workers=num_workers)

    log, callback = EpochLog(), all_of({})
    trainer = make_trainer(log, callback, max_epochs=6)
    if where == "argument":
        trainer.fit(TinyModule(), loader())
    elif where == "module":
        trainer.fit(type("WithLoader", (TinyModule,), {"train_dataloader": loader})())
    else:
        data = type("Data", (pl.LightningDataModule,), {"train_dataloader": loader})()
        trainer.fit(TinyModule(), datamodule=data)
    check_pruned(callback, log, trainer)


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("num_workers", [0, 1])
def test_reload_dataloaders_every_n_epochs(every, num_workers, val_loader):
    class Data(pl.LightningDataModule):
        calls = 0

        def train_dataloader(self):
            self.calls += 1
            return DataLoader(make_data(), 8, shuffle=True, num_workers=num_workers)

        def val_dataloader(self):
            return val_loader

    log, data = EpochLog(), Data()
    trainer = make_trainer(log, pruning(), max_epochs=12, reload_dataloaders_every_n_epochs=every)
    trainer.fit(TinyModule(), datamodule=data)
    assert data.calls == 12 // every
    assert log.batches == expected_batches(SHARES)
    assert log.validated == list(range(12))


def test_fast_dev_run(val_loader, reference):
    log = EpochLog()
    callback = DynamicPruningCallback(reference=reference)
    trainer = make_trainer(log, callback, fast_dev_run=3)
    trainer.fit(TinyModule(), DataLoader(make_data(), 8), val_loader)
    assert log.batches == [3]
    assert int((~callback.trajectories.rows[0].isnan()).sum()) == 24


def test_max_steps_in_the_middle_of_an_epoch():
    log = EpochLog()
    trainer = make_trainer(log, pruning(), max_epochs=12, max_steps=30)
    trainer.fit(TinyModule(), DataLoader(make_data(), 8))
    assert trainer.global_step == 30
    assert sum(log.batches) == 30


def test_max_steps_alone_ends_pruning_by_steps():
    log = EpochLog()
    callback = DynamicPruningCallback(
        "loss", InfoBatch(0.9), schedule=PruningSchedule(stop_fraction=0.7)
    )
    trainer = make_trainer(log, callback, max_epochs=-1, max_steps=130)
    trainer.fit(TinyModule(), DataLoader(make_data(), 8))
    assert trainer.global_step == 130
    assert min(log.planned) < 13
    # An epoch that might end after 70 % of the steps is whole again.
    steps = torch.tensor(log.batches).cumsum(0)
    for epoch in range(1, len(log.planned)):
        if steps[epoch - 1] + 13 > 0.7 * 130:
            assert log.planned[epoch] == 13


def test_early_stopping_and_time_based_validation(val_loader):
    class Slow(TinyModule):
        def training_step(self, batch, batch_idx):
            time.sleep(0.01)
            return super().training_step(batch, batch_idx)

    if _trainer_takes_timedelta():  # Lightning 2.6
        log = EpochLog()
        trainer = make_trainer(
            log, pruning(), max_epochs=6, val_check_interval=timedelta(seconds=0.1)
        )
        trainer.fit(Slow(), DataLoader(make_data(), 8), val_loader)
        assert len(log.validated) >= 3
    log = EpochLog()
    stop = EarlyStopping("val_loss", patience=1, min_delta=100.0)
    trainer = make_trainer(log, pruning(), stop, max_epochs=12)
    trainer.fit(TinyModule(), DataLoader(make_data(), 8), val_loader)
    assert len(log.batches) == 2


def _trainer_takes_timedelta():
    try:
        make_trainer(val_check_interval=timedelta(seconds=1))
    except Exception:
        return False
    return True


@pytest.mark.parametrize(
    ("sampler", "num_drawn"),
    [
        (lambda: WeightedRandomSampler(torch.arange(1.0, 101.0), 80), 80),
        (lambda: SubsetRandomSampler(range(20, 70)), 50),
        (lambda: RandomSampler(range(100), replacement=True, num_samples=60), 60),
        (lambda: RandomSampler(range(100), num_samples=40), 40),
    ],
)
def test_pruning_applies_to_what_a_users_sampler_would_draw(sampler, num_drawn):
    class Even(pl.Callback):
        def __init__(self):
            self.drawn = []

        def on_train_epoch_end(self, trainer, pl_module):
            order = callback._session.sampler.order
            self.drawn.append(order)

    watch, log = Even(), EpochLog()
    callback = all_of({})
    trainer = make_trainer(callback, watch, log, max_epochs=6)
    trainer.fit(TinyModule(), DataLoader(make_data(), 8, sampler=sampler()))
    assert len(watch.drawn[0]) == num_drawn
    assert min(map(len, watch.drawn)) < num_drawn
    for epoch, order in enumerate(watch.drawn):
        row = callback.trajectories.rows[epoch]
        assert torch.equal(order.unique(), (~row.isnan()).nonzero().flatten())


def test_a_sampler_subclass_of_the_users_is_kept():
    class Reversed(SequentialSampler):
        def __iter__(self):
            return iter(range(len(self.data_source) - 1, -1, -1))

    callback = all_of({})
    data = make_data()
    trainer = make_trainer(callback, max_epochs=1)
    trainer.fit(TinyModule(), DataLoader(data, 8, sampler=Reversed(data)))
    assert callback._pruner is not None


def refused(match, loader):
    trainer = make_trainer(DynamicPruningCallback("loss"))
    with pytest.raises(MisconfigurationException, match=match):
        trainer.fit(TinyModule(), loader)
    assert trainer.global_step == 0


def test_custom_batch_samplers_are_refused():
    class Own(BatchSampler):
        pass

    data = make_data()
    refused(
        "plain torch BatchSampler, got .*Own.*Pass batch_size",
        DataLoader(data, batch_sampler=Own(SequentialSampler(data), 8, False)),
    )


@pytest.mark.filterwarnings("ignore:.*set_vital.*")
def test_stateful_loader_is_refused():
    from torchdata.stateful_dataloader import StatefulDataLoader

    refused("StatefulDataLoader", StatefulDataLoader(make_data(), 8))


def test_a_loader_subclass_with_a_constructor_of_its_own():
    class Loader(DataLoader):
        def __init__(self, secret, data):
            assert secret == 42
            super().__init__(data, batch_size=8, shuffle=True)

    log, callback = EpochLog(), all_of({})
    trainer = make_trainer(log, callback, max_epochs=6)
    trainer.fit(TinyModule(), Loader(42, make_data()))
    check_pruned(callback, log, trainer)


def test_hugging_face_dataset():
    import datasets

    x, y = make_data().tensors
    data = datasets.Dataset.from_dict({"x": x.tolist(), "y": y.tolist()}).with_format("torch")

    class Dicts(TinyModule):
        def training_step(self, batch, batch_idx):
            return self.loss(self(batch["x"]), batch["y"])

    log, callback = EpochLog(), all_of({})
    trainer = make_trainer(log, callback, max_epochs=6)
    trainer.fit(Dicts(), DataLoader(data, 8, shuffle=True))
    check_pruned(callback, log, trainer)


@pytest.mark.filterwarnings("ignore:.*lr_find.*")
@pytest.mark.filterwarnings("ignore:LR finder stopped early")
def test_learning_rate_finder_runs_on_everything_before(val_loader):
    class Module(TinyModule):
        lr = 0.1

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=self.lr)

    log = EpochLog()
    trainer = make_trainer(pruning(), LearningRateFinder(num_training_steps=20), log, max_epochs=12)
    trainer.fit(Module(), DataLoader(make_data(), 8), val_loader)
    assert log.batches == expected_batches(SHARES)
    assert log.validated == list(range(12))


def test_batch_size_finder(val_loader):
    class Data(pl.LightningDataModule):
        batch_size = 2

        def train_dataloader(self):
            return DataLoader(make_data(), self.batch_size, shuffle=True)

        def val_dataloader(self):
            return val_loader

    log = EpochLog()
    finder = BatchSizeFinder(mode="power", steps_per_trial=1, max_trials=2)
    trainer = make_trainer(pruning(), finder, log, max_epochs=12)
    data = Data()
    trainer.fit(TinyModule(), datamodule=data)
    assert data.batch_size > 2
    assert log.batches == expected_batches(SHARES, batch_size=data.batch_size)
