"""Epochs of any length are ordinary epochs: validation, checkpoints, bars and steps stay right."""

import math

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, TQDMProgressBar

from lightning_alignprune import DynamicPruningCallback, Policy, PruningSchedule, Selection
from tests.conftest import EpochLog, TinyModule, make_trainer

SHARES = [1.0, 0.8, 0.6, 0.7, 0.6, 0.9, 0.61, 0.6, 0.75, 0.62, 1.0, 1.0]


class FollowShares(Policy):
    """Keep the given share of the samples in each epoch, from the front."""

    def __init__(self, shares):
        self.shares = shares

    def select(self, scores, context):
        num_kept = round(self.shares[context.epoch] * len(scores))
        return Selection(torch.arange(len(scores)) < num_kept)


def pruning(shares=SHARES, **kwargs):
    return DynamicPruningCallback(
        score="loss",
        policy=FollowShares(shares),
        schedule=PruningSchedule(stop_fraction=1.0),
        **kwargs,
    )


def expected_batches(shares, num_samples=100, batch_size=8):
    kept = [round(share * num_samples) for share in shares]
    # A pruned epoch does not end in a batch of one sample.
    kept = [k - 1 if k < num_samples and k % batch_size == 1 else k for k in kept]
    return [math.ceil(k / batch_size) for k in kept]


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("shuffle", [False, True])
def test_validation_checkpoints_and_steps_while_epochs_shrink_and_grow(
    train_loader, val_loader, tmp_path, num_workers, shuffle
):
    log = EpochLog()
    checkpoint = ModelCheckpoint(tmp_path, monitor="val_loss", save_top_k=-1)
    trainer = make_trainer(log, pruning(), checkpoint, max_epochs=12, num_sanity_val_steps=1)
    loader = train_loader(shuffle=shuffle, num_workers=num_workers)
    if num_workers:
        loader = train_loader(
            shuffle=shuffle, num_workers=num_workers, persistent_workers=True, prefetch_factor=3
        )
    trainer.fit(TinyModule(), loader, val_loader)
    assert log.batches == expected_batches(SHARES)
    assert log.planned == log.batches
    assert log.seen_by_epoch_end == log.batches
    assert log.validated == list(range(12))
    assert trainer.global_step == sum(log.batches)
    assert len(checkpoint.best_k_models) == 12
    assert len(loader) == 13, "the user's loader was changed"


@pytest.mark.parametrize(
    ("interval", "num_validations"),
    [(0.5, 2), (1.0, 1), (0.25, 4), (5, None), (13, 1), (10, 1)],
)
def test_val_check_interval(train_loader, val_loader, interval, num_validations):
    log = EpochLog()
    trainer = make_trainer(log, pruning(), max_epochs=12, val_check_interval=interval)
    trainer.fit(TinyModule(), train_loader(), val_loader)
    for epoch, batches in enumerate(expected_batches(SHARES)):
        wanted = num_validations
        if isinstance(interval, float):
            wanted = batches // max(1, int(batches * interval))
        elif wanted is None:
            wanted = batches // min(interval, batches)
        assert log.validated.count(epoch) == wanted, f"epoch {epoch} of {batches} batches"


def test_val_check_interval_over_epochs(train_loader, val_loader):
    log = EpochLog()
    trainer = make_trainer(
        log, pruning(), max_epochs=12, val_check_interval=20, check_val_every_n_epoch=None
    )
    trainer.fit(TinyModule(), train_loader(), val_loader)
    assert len(log.validated) == sum(expected_batches(SHARES)) // 20


@pytest.mark.parametrize("limit", [4, 9, 20, 0.5, 1.0])
def test_limit_train_batches(train_loader, val_loader, limit):
    log = EpochLog()
    trainer = make_trainer(log, pruning(), max_epochs=12, limit_train_batches=limit)
    trainer.fit(TinyModule(), train_loader(), val_loader)
    wanted = [
        min(n, limit) if isinstance(limit, int) else max(1, int(n * limit))
        for n in expected_batches(SHARES)
    ]
    assert log.batches == wanted
    assert log.validated == list(range(12))


@pytest.mark.parametrize("accumulate", [2, 4])
def test_accumulation_steps_at_the_end_of_short_epochs(train_loader, val_loader, accumulate):
    log = EpochLog()
    trainer = make_trainer(log, pruning(), max_epochs=12, accumulate_grad_batches=accumulate)
    trainer.fit(TinyModule(), train_loader(), val_loader)
    assert trainer.global_step == sum(math.ceil(n / accumulate) for n in log.batches)


@pytest.mark.parametrize("bar_first", [True, False])
def test_progress_bar_totals(train_loader, val_loader, bar_first):
    totals = []

    class Bar(TQDMProgressBar):
        def on_train_epoch_end(self, trainer, pl_module):
            totals.append((self.train_progress_bar.total, self.train_progress_bar.n))
            super().on_train_epoch_end(trainer, pl_module)

    callbacks = [Bar(), pruning()] if bar_first else [pruning(), Bar()]
    trainer = make_trainer(*callbacks, max_epochs=12, enable_progress_bar=True)
    trainer.fit(TinyModule(), train_loader(), val_loader)
    assert totals == [(n, n) for n in expected_batches(SHARES)]
    assert "pruning/kept_fraction" in trainer.progress_bar_metrics


def test_early_stopping_sees_fresh_metrics(train_loader, val_loader):
    log = EpochLog()

    class Improving(TinyModule):
        def validation_step(self, batch, batch_idx):
            self.log("val_loss", 1.0 / (1 + self.trainer.current_epoch))

    stop = EarlyStopping("val_loss", patience=1)
    trainer = make_trainer(log, pruning(), stop, max_epochs=12)
    trainer.fit(Improving(), train_loader(), val_loader)
    assert len(log.batches) == 12, "stopped by a frozen metric"


def test_logged_metrics(train_loader, val_loader, reference, tmp_path):
    logger = pl.loggers.CSVLogger(tmp_path)
    callback = DynamicPruningCallback(reference=reference)
    trainer = make_trainer(callback, max_epochs=9, logger=logger, log_every_n_steps=1)
    trainer.fit(TinyModule(logs=True), train_loader(), val_loader)
    assert "train_loss" in trainer.callback_metrics
    names = {key for key in trainer.callback_metrics if key.startswith("pruning/")}
    wanted = [
        "kept_fraction",
        "num_kept",
        "pruned_share_so_far",
        "reference_loss",
        "scoring_seconds",
    ]
    assert names == {f"pruning/{name}" for name in [*wanted, "score_mean"]}
    num_trained = sum(int((~row.isnan()).sum()) for row in callback.trajectories.rows)
    share = trainer.callback_metrics["pruning/pruned_share_so_far"].item()
    assert share == pytest.approx(1 - num_trained / 900, abs=1e-6)
