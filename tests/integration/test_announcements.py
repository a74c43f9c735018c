"""What a run says, once each: its plan, its first cut, and what that saved."""

import logging
import re

import lightning.pytorch as pl
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader

from lightning_alignprune import (
    DynamicPruningCallback,
    InfoBatch,
    MeanLoss,
    PruningSchedule,
)
from tests.conftest import TinyModule, make_data, make_trainer

EPOCHS = 24


class Data(pl.LightningDataModule):
    def train_dataloader(self):
        return DataLoader(make_data(200), batch_size=10, shuffle=True)

    def reference_dataloader(self):
        return DataLoader(make_data(60, 1, 0.0), batch_size=20)


@pytest.fixture
def said(caplog):
    """What the callback has said so far."""
    caplog.set_level(logging.INFO)
    name = "DynamicPruningCallback: "
    return lambda: [
        record.getMessage().removeprefix(name)
        for record in caplog.records
        if record.levelno == logging.INFO and record.getMessage().startswith(name)
    ]


class BegunError(Exception):
    """Training began, by when the plan has been said."""


class Stops(TinyModule):
    def on_train_epoch_start(self):
        raise BegunError


def fit(callback, module=None, data=None, max_epochs=EPOCHS, **trainer):
    made = make_trainer(callback, max_epochs=max_epochs, **trainer)
    made.fit(module or TinyModule(), data or Data())
    return made


def test_a_run_says_its_plan_its_first_cut_and_what_it_saved(said):
    callback = DynamicPruningCallback.alignprune(window=5)
    trainer = fit(callback)
    begin, first_cut, end = said()
    assert begin == (
        "AlignPrune on InfoBatch; reference: 60 samples of the DataModule; "
        "pruning from epoch 4 at the earliest; last 3 epochs full."
    )
    cut = re.fullmatch(
        r"first cut: epoch (\d+) trains on (\d+) of 200 samples \((\d+) %\)\.", first_cut
    )
    record = callback._started().record
    first = next(e for e in record.epochs if not e.is_full)
    assert (first.epoch, round(200 * first.kept_fraction)) == (int(cut[1]), int(cut[2]))
    saved, possible = re.match(r"saved (\d+) of (\d+) passes", end).groups()
    assert int(saved) == record.passes_saved > 0
    assert int(possible) == EPOCHS * 200
    assert "seconds" in end
    assert end.endswith('Next, on this callback: report("report.html") for a page about the run.')
    assert trainer.global_step < EPOCHS * 20


@pytest.mark.parametrize(
    ("callback", "expected"),
    [
        (
            DynamicPruningCallback.infobatch,
            "InfoBatch; pruning from epoch 1 at the earliest; last 3 epochs full.",
        ),
        (
            DynamicPruningCallback.seta,
            "SeTa; pruning from epoch 1 at the earliest; last 3 epochs on a random share.",
        ),
        (
            lambda: DynamicPruningCallback.bls(schedule=PruningSchedule(stop_fraction=1.0)),
            "BLS on InfoBatch; pruning from epoch 1 at the earliest.",
        ),
        (
            lambda: DynamicPruningCallback.robust(reference=make_data(30, 1, 0.0)),
            "by LabelPosterior of LabelOdds; reference: 30 samples given; ",
        ),
        (
            lambda: DynamicPruningCallback.robust(reference="pseudo"),
            "by MeanLoss; reference: training samples chosen by PseudoClean; ",
        ),
        (
            lambda: DynamicPruningCallback.infobatch(prune_probability=0.0),
            "InfoBatch; nothing is left out of an epoch.",
        ),
    ],
)
def test_the_plan_names_method_reference_and_finish(callback, expected, said):
    with pytest.raises(BegunError):
        fit(callback(), Stops())
    assert expected in said()[0]


def test_a_score_that_judges_labels_names_the_list_of_issues(said):
    callback = DynamicPruningCallback(MeanLoss(), InfoBatch(0.0))
    fit(callback, max_epochs=3, data=Data())
    begin, end = said()  # nothing was cut
    assert end.startswith("nothing was left out. Next, on this callback: label_issues()")
    assert begin.startswith("InfoBatch by MeanLoss; ")


def test_a_quiet_run_says_nothing(said):
    fit(DynamicPruningCallback.infobatch(verbose=False), max_epochs=4)
    assert said() == []


def test_a_run_that_goes_on_does_not_say_its_first_cut_again(said, tmp_path):
    trainer = fit(DynamicPruningCallback.infobatch(), max_epochs=4)
    trainer.save_checkpoint(tmp_path / "four.ckpt")
    num_before = len(said())
    again = make_trainer(DynamicPruningCallback.infobatch(), max_epochs=6)
    again.fit(TinyModule(), Data(), ckpt_path=tmp_path / "four.ckpt")
    assert not [text for text in said()[num_before:] if text.startswith("first cut")]


class Bar(pl.Callback):
    """Notes what the bar shows, after a step and at the end of each epoch."""

    def __init__(self):
        self.within, self.at_end = [], []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if batch_idx == 1:
            self.within.append(float(trainer.progress_bar_metrics["pruning/kept_fraction"]))

    def on_train_epoch_end(self, trainer, module):
        self.at_end.append(float(trainer.progress_bar_metrics["pruning/kept_fraction"]))


def test_the_bar_shows_the_epochs_own_share():
    callback, bar = DynamicPruningCallback.infobatch(), Bar()
    make_trainer(callback, bar, max_epochs=8).fit(TinyModule(), Data())
    own = [e.kept_fraction for e in callback._started().record.epochs]
    assert min(own) < 0.9
    assert bar.within == pytest.approx(own)
    assert bar.at_end == pytest.approx(own)


def test_the_bar_costs_no_read_of_the_device_in_a_step():
    reads = []

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is torch.ops.aten._local_scalar_dense.default:
                reads.append(func)
            return func(*args, **(kwargs or {}))

    class Watch(pl.Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            if trainer.current_epoch == 1 and batch_idx == 1:
                self.mode = Count().__enter__()

        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            if trainer.current_epoch == 1 and batch_idx == 3:
                self.mode.__exit__(None, None, None)

    trainer = make_trainer(DynamicPruningCallback.infobatch(), Watch(), max_epochs=3)
    trainer.fit(TinyModule(), DataLoader(make_data(64), 8))
    assert not reads
