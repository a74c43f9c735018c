"""Other callbacks and loggers run beside it, and see epochs as they are."""

from datetime import timedelta

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import (
    EarlyStopping,
    GradientAccumulationScheduler,
    LearningRateMonitor,
    ModelCheckpoint,
    RichProgressBar,
    StochasticWeightAveraging,
    ThroughputMonitor,
    Timer,
)
from torch.utils.data import DataLoader

from tests.conftest import EpochLog, TinyModule, make_data, make_trainer
from tests.integration.test_epoch_lengths import SHARES, expected_batches, pruning

BATCHES = expected_batches(SHARES)


def fit(*callbacks, module=None, **kwargs):
    log = EpochLog()
    trainer = make_trainer(pruning(), *callbacks, log, max_epochs=12, **kwargs)
    trainer.fit(
        module or TinyModule(),
        DataLoader(make_data(), 8, shuffle=True),
        DataLoader(make_data(24, seed=1, noise=0.0), 8),
    )
    assert log.batches == BATCHES
    assert log.validated == list(range(12))
    return trainer


def test_monitoring_callbacks(tmp_path):
    best = ModelCheckpoint(tmp_path, monitor="val_loss", save_last=True)
    by_share = ModelCheckpoint(tmp_path / "s", monitor="pruning/kept_fraction", mode="min")
    stop = EarlyStopping("pruning/pruned_share_so_far", patience=20)
    timer = Timer(timedelta(hours=1))
    logger = pl.loggers.CSVLogger(tmp_path)
    monitor = LearningRateMonitor("step")
    trainer = fit(best, by_share, stop, timer, monitor, logger=logger, log_every_n_steps=1)
    assert best.best_model_score is not None
    assert by_share.best_model_score == pytest.approx(0.6)
    assert timer.time_elapsed() > 0
    assert len(monitor.lrs["lr-SGD"]) == trainer.global_step
    columns = (tmp_path / "lightning_logs/version_0/metrics.csv").read_text().splitlines()[0]
    assert "pruning/kept_fraction" in columns


def test_tensorboard(tmp_path):
    logger = pl.loggers.TensorBoardLogger(tmp_path)
    fit(logger=logger, log_every_n_steps=1)
    assert list(tmp_path.rglob("events.out.tfevents*"))


def test_gradient_accumulation_scheduler():
    trainer = fit(GradientAccumulationScheduler({0: 1, 4: 2, 8: 4}))
    wanted = [-(-n // (1 if e < 4 else 2 if e < 8 else 4)) for e, n in enumerate(BATCHES)]
    assert trainer.global_step == sum(wanted)


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.filterwarnings("ignore:.*swa.*", "ignore:Swapping scheduler")
def test_stochastic_weight_averaging(batch_norm):
    log = EpochLog()
    swa = StochasticWeightAveraging(swa_lrs=0.05, swa_epoch_start=8)
    trainer = make_trainer(pruning([*SHARES, 1.0]), swa, log, max_epochs=12)
    trainer.fit(TinyModule(batch_norm=batch_norm), DataLoader(make_data(), 8, shuffle=True))
    # With BatchNorm it appends an epoch without optimizer steps to set the running statistics.
    assert log.batches[:12] == BATCHES
    assert trainer.global_step == sum(BATCHES) + batch_norm, "its own step, as without pruning"


def test_weight_averaging():
    module = pytest.importorskip("lightning.pytorch.callbacks.weight_averaging", reason="2.6")
    fit(module.EMAWeightAveraging())


@pytest.mark.filterwarnings("ignore:When using the `ThroughputMonitor`")
def test_throughput_monitor(tmp_path):
    monitor = ThroughputMonitor(batch_size_fn=lambda batch: len(batch[0]), window_size=5)
    # Whole batches only: Lightning 2.5.0's monitor trips over a shorter last one by itself.
    trainer = make_trainer(
        pruning(),
        monitor,
        max_epochs=12,
        logger=pl.loggers.CSVLogger(tmp_path),
        log_every_n_steps=1,
    )
    trainer.fit(TinyModule(), DataLoader(make_data(), 8, shuffle=True, drop_last=True))


def test_rich_progress_bar_totals():
    totals = []

    class Bar(RichProgressBar):
        def on_train_epoch_end(self, trainer, pl_module):
            task = self.progress.tasks[self.train_progress_bar_id]
            totals.append((task.total, task.completed))
            super().on_train_epoch_end(trainer, pl_module)

    fit(Bar(), enable_progress_bar=True)
    assert totals == [(n, n) for n in BATCHES]


def test_barebones():
    trainer = pl.Trainer(
        barebones=True, max_epochs=3, accelerator="cpu", callbacks=[pruning()], devices=1
    )

    class Quiet(TinyModule):
        def training_step(self, batch, batch_idx):
            return self.loss(self(batch[0]), batch[1])

    with pytest.warns(UserWarning, match="barebones"):
        trainer.fit(Quiet(), DataLoader(make_data(), 8))
    assert trainer.global_step == sum(BATCHES[:3])


def test_a_callback_that_reads_the_selection():
    kept = []

    class Watch(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            selection = trainer.callbacks[0].decision.selection
            kept.append(100 if selection is None else int(selection.kept.sum()))

    fit(Watch())
    assert kept[:-1] == [round(share * 100) for share in SHARES[1:]]
    assert torch.tensor(kept).float().mean() < 100
