"""Step-interval schedules end at their final value although fewer batches ran."""

import math

import lightning.pytorch as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import lr_scheduler as lr

from lightning_alignprune import DynamicPruningCallback, InfoBatch
from lightning_alignprune.fit.lr_alignment import num_scheduler_steps
from tests.conftest import TinyModule, make_trainer
from tests.integration.test_epoch_lengths import pruning

EPOCHS = 8
SHARES = [1.0, 0.6, 0.3, 0.5, 0.9, 0.4, 0.7, 1.0]

SCHEDULES = {
    "onecycle": lambda opt, n: lr.OneCycleLR(opt, max_lr=1.0, total_steps=n),
    "cosine": lr.CosineAnnealingLR,
    "lambda": lambda opt, n: lr.LambdaLR(opt, lambda step: 1 - step / (n + 1)),
    "exponential": lambda opt, n: lr.ExponentialLR(opt, 0.98),
    "warm restarts": lambda opt, n: lr.CosineAnnealingWarmRestarts(opt, 10),
    "warm-up, then cosine": lambda opt, n: lr.SequentialLR(
        opt,
        [lr.LinearLR(opt, 0.1, total_iters=n // 4), lr.CosineAnnealingLR(opt, n - n // 4)],
        [n // 4],
    ),
}


class Scheduled(TinyModule):
    def __init__(self, make, interval="step", frequency=1):
        super().__init__()
        self.make, self.interval, self.frequency = make, interval, frequency

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        total = math.ceil(self.trainer.estimated_stepping_batches / self.frequency)
        scheduler = self.make(optimizer, total)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {
                "scheduler": scheduler,
                "interval": self.interval,
                "frequency": self.frequency,
            },
        }


class LrAtEpochEnd(pl.Callback):
    def __init__(self):
        self.values, self.by_batch = [], []

    def on_train_batch_end(self, trainer, *args):
        self.by_batch.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_epoch_end(self, trainer, *args):
        self.values.append(trainer.optimizers[0].param_groups[0]["lr"])


def fit(loader, make, callbacks=(), interval="step", frequency=1, **kwargs):
    log = LrAtEpochEnd()
    # Behind the pruning callback: it must see the aligned value, as checkpoints do.
    trainer = make_trainer(*callbacks, log, max_epochs=EPOCHS, **kwargs)
    module = Scheduled(make, interval, frequency)
    trainer.fit(module, loader)
    assert "lr_scheduler_step" not in module.__dict__
    return log, trainer


@pytest.mark.filterwarnings("ignore:The epoch parameter in")  # SequentialLR itself, torch 2.6
@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(("accumulate", "frequency"), [(1, 1), (3, 1), (1, 2), (2, 3)])
def test_same_rate_as_full_training_at_every_epoch_end(train_loader, name, accumulate, frequency):
    make = SCHEDULES[name]
    kwargs = {"frequency": frequency, "accumulate_grad_batches": accumulate}
    full, _ = fit(train_loader(), make, **kwargs)
    pruned, _ = fit(train_loader(), make, [pruning(SHARES)], **kwargs)
    assert pruned.values == full.values, "bit for bit"
    assert len(pruned.by_batch) < len(full.by_batch)
    assert len(set(pruned.by_batch)) > EPOCHS, "it moves within epochs too"


def test_without_pruning_every_batch_has_lightnings_own_rate(train_loader):
    make = SCHEDULES["onecycle"]
    full, _ = fit(train_loader(), make, accumulate_grad_batches=3)
    ours, _ = fit(train_loader(), make, [pruning([1.0] * EPOCHS)], accumulate_grad_batches=3)
    assert ours.by_batch == full.by_batch


def test_the_switch(train_loader):
    full, _ = fit(train_loader(), SCHEDULES["cosine"])
    off, _ = fit(train_loader(), SCHEDULES["cosine"], [pruning(SHARES, align_lr_schedules=False)])
    assert off.values[-1] > 10 * max(full.values[-1], 1e-3), "stops half-way, as asked"


def test_epoch_schedules_and_plateau_are_untouched(train_loader, val_loader):
    full, _ = fit(train_loader(), lambda o, n: lr.StepLR(o, 2), interval="epoch")
    pruned, _ = fit(
        train_loader(), lambda o, n: lr.StepLR(o, 2), [pruning(SHARES)], interval="epoch"
    )
    assert pruned.values == full.values

    class Plateau(TinyModule):
        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
            plateau = lr.ReduceLROnPlateau(optimizer, patience=0, threshold=10.0)
            config = {"scheduler": plateau, "monitor": "val_loss", "interval": "epoch"}
            return {"optimizer": optimizer, "lr_scheduler": config}

    log = LrAtEpochEnd()
    trainer = make_trainer(pruning(SHARES), log, max_epochs=EPOCHS)
    trainer.fit(Plateau(), train_loader(), val_loader)
    assert trainer.lr_scheduler_configs[0].scheduler.num_bad_epochs >= 0
    assert len(set(log.values)) > 2, "it reduced"


def test_max_steps_is_its_own_clock(train_loader):
    log, trainer = fit(train_loader(), SCHEDULES["cosine"], [pruning(SHARES)], max_steps=20)
    assert trainer.global_step == 20
    assert log.by_batch[-1] == pytest.approx(0.0, abs=1e-9)


def test_an_overridden_lr_scheduler_step_is_left_alone_with_a_warning(train_loader):
    class Own(Scheduled):
        def lr_scheduler_step(self, scheduler, metric):
            scheduler.step()

    trainer = make_trainer(pruning(SHARES), max_epochs=3)
    with pytest.warns(UserWarning, match="overrides lr_scheduler_step"):
        trainer.fit(Own(SCHEDULES["cosine"]), train_loader())


@given(full=st.integers(1, 40), accumulate=st.integers(1, 7), frequency=st.integers(1, 4))
def test_step_count_is_lightnings(full, accumulate, frequency):
    steps = 0
    for batch in range(1, full + 1):
        stepped = batch % accumulate == 0 or batch == full
        steps += stepped and batch % frequency == 0
        assert num_scheduler_steps(batch, full, accumulate, frequency) == steps


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended")
@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("name", ["onecycle", "lambda"])
def test_a_mid_epoch_checkpoint_of_a_run_without_the_callback(
    train_loader, tmp_path, name, accumulate
):
    loader, path = train_loader(shuffle=False), tmp_path / "plain.ckpt"

    class SaveInMidEpoch(pl.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            if trainer.current_epoch == 2 and batch_idx == 5:
                trainer.save_checkpoint(path)

    make, settings = SCHEDULES[name], {"accumulate_grad_batches": accumulate}
    whole, _ = fit(loader, make, [SaveInMidEpoch()], **settings)
    log = LrAtEpochEnd()
    callback = DynamicPruningCallback("loss", InfoBatch(0.0))
    trainer = make_trainer(callback, log, max_epochs=EPOCHS, **settings)
    trainer.fit(Scheduled(make), loader, ckpt_path=path)
    assert log.values == whole.values[-len(log.values) :]
    assert len(log.values) == EPOCHS - 2
