"""Epochs too small for a batch: padded as in Lightning, or the whole decision is taken back."""

import csv
from functools import partial
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader, SubsetRandomSampler

from lightning_alignprune import DynamicPruningCallback, InfoBatch, PruningSchedule, Selection
from lightning_alignprune.policies import Policy
from tests.conftest import TinyModule, make_data, make_trainer
from tests.integration.ranked_fits import fit


class KeepsFew(Policy):
    """Keeps the first samples only, at ten times their weight."""

    def __init__(self, num_kept=3):
        self.num_kept = num_kept

    @property
    def weighs_samples(self):
        return True

    def select(self, scores, context):
        kept = context.indices < self.num_kept
        return Selection(kept, torch.where(kept, 10.0, 1.0))


class Watch(pl.Callback):
    def __init__(self):
        self.sizes, self.weights, self.logged = {}, [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.sizes.setdefault(trainer.current_epoch, []).append(len(batch[0]))
        self.weights.append(trainer.callbacks[0]._session._recorder._weights)

    def on_train_epoch_end(self, trainer, pl_module):
        self.logged.append(trainer.callback_metrics.get("pruning/kept_fraction"))


def run(loader, policy):
    callback = DynamicPruningCallback("loss", policy, schedule=PruningSchedule(1, 1.0))
    watch = Watch()
    make_trainer(callback, watch, max_epochs=3).fit(TinyModule(), loader)
    return callback, watch


def test_too_few_for_a_batch_takes_weights_and_metrics_back_too():
    loader = DataLoader(make_data(20), 16, shuffle=True, drop_last=True)
    with pytest.warns(UserWarning, match=r"KeepsFew kept 3 sample\(s\) for epoch \d, too few"):
        callback, watch = run(loader, KeepsFew())
    assert watch.sizes == {0: [16], 1: [16], 2: [16]}
    assert watch.weights == [None] * 3
    assert [float(value) for value in watch.logged if value is not None] == [1.0] * 3
    assert callback.decision.is_fallback


def test_kept_samples_that_a_users_sampler_does_not_draw_take_the_weights_back():
    loader = DataLoader(make_data(20), 4, sampler=SubsetRandomSampler(range(10, 20)))
    with pytest.warns(UserWarning, match="nothing kept would be drawn"):
        callback, watch = run(loader, KeepsFew())
    assert watch.sizes == {0: [4, 4, 2], 1: [4, 4, 2], 2: [4, 4, 2]}
    assert watch.weights == [None] * 9
    assert callback.decision.selection is None


def test_what_a_users_sampler_takes_back_is_logged_as_such(tmp_path):
    loader = DataLoader(make_data(20), 4, sampler=SubsetRandomSampler(range(10, 20)))
    callback = DynamicPruningCallback("loss", KeepsFew(), schedule=PruningSchedule(1, 1.0))
    watch, logger = AtEpochStart(), CSVLogger(tmp_path)
    trainer = make_trainer(callback, watch, max_epochs=3, logger=logger, enable_progress_bar=True)
    with pytest.warns(UserWarning, match="nothing kept would be drawn"):
        trainer.fit(TinyModule(), loader)
    assert watch.seen == [{}, *[{"kept_fraction": 1.0, "num_kept": 20.0}] * 2]
    assert watch.shown == [1.0] * 3
    rows = csv.DictReader((Path(logger.log_dir) / "metrics.csv").read_text().splitlines())
    by_epoch = {row["epoch"]: row for row in rows if row["pruning/kept_fraction"]}
    assert [float(by_epoch[e]["pruning/kept_fraction"]) for e in "01"] == [1.0] * 2


class AtEpochStart(pl.Callback):
    """What the values say that the epoch trains on."""

    def __init__(self):
        self.seen, self.shown = [], []

    def on_train_epoch_start(self, trainer, pl_module):
        names = ("kept_fraction", "num_kept")
        values = {name: trainer.callback_metrics.get(f"pruning/{name}") for name in names}
        self.seen.append(
            {name: float(value) for name, value in values.items() if value is not None}
        )
        self.shown.append(trainer.progress_bar_metrics.get("pruning/kept_fraction"))


def plain(share):
    return DynamicPruningCallback("loss", InfoBatch(share), keep_history=True)


@pytest.mark.parametrize("num_samples", [1])
def test_fewer_samples_than_ranks_are_repeated(tmp_path, num_samples):
    results = fit(tmp_path, 2, num_samples=num_samples, callback=partial(plain, 0.6))
    for result in results:
        assert [shard.tolist() for shard in result["shards"]] == [[0]] * 6
        assert result["batches"] == [1] * 6
        assert not torch.stack(result["rows"]).isnan().any()
