"""Fit on several ranks, and write down what each did."""

from functools import partial

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Checkpoint
from torch.utils.data import DataLoader

from lightning_alignprune import (
    DynamicAlignment,
    DynamicPruningCallback,
    InfoBatch,
    PruningSchedule,
)
from tests.conftest import EpochLog, TinyModule, make_data, make_trainer, weights_of
from tests.integration.forked import run_forked, run_ranks

EPOCHS = 6


class Recorder(Checkpoint):
    """Keep what a rank trained on and decided; count its collectives; write it all at the end.

    A ``Checkpoint`` only to come last, after the decision of the epoch.
    """

    def __init__(self, folder, log):
        self.folder, self.log_of_epochs = folder, log
        self.shards, self.kept, self.calls = [], [], []
        self.num_calls = self.num_merges = 0
        self.has_trained = False

    def on_train_start(self, trainer, pl_module):
        exchange = trainer.callbacks[0]._session._fit.exchange
        for name in ("all_reduce", "merged"):
            original = getattr(exchange, name)

            def counted(*args, _original=original):
                self.num_calls += 1
                self.num_merges += _original.__name__ == "merged"
                return _original(*args)

            setattr(exchange, name, counted)

    def on_train_batch_end(self, trainer, *args):
        if not self.has_trained:
            assert self.num_calls <= 1, "the verdict of the self-check"
            self.has_trained, self.num_calls = True, 0
        assert self.num_calls == sum(self.calls), "a collective on the batch path"

    def on_train_epoch_end(self, trainer, pl_module):
        callback = trainer.callbacks[0]
        self.shards.append(callback._session.sampler.order.clone())
        selection = callback.decision.selection
        self.kept.append(None if selection is None else selection.kept.clone())
        self.calls.append(self.num_calls - sum(self.calls))

    def on_train_end(self, trainer, pl_module):
        callback = trainer.callbacks[0]
        result = {
            "shards": self.shards,
            "kept": self.kept,
            "calls": self.calls,
            "num_merges": self.num_merges,
            "weights": weights_of(trainer.lightning_module),
            "rows": list(callback.trajectories.rows),
            "reference": callback.trajectories.reference,
            "scores": callback.score.compute(callback.trajectories),
            "batches": self.log_of_epochs.batches,
            "validated": self.log_of_epochs.validated,
            "metrics": {
                k: v
                for k, v in trainer.callback_metrics.items()
                if k.startswith("pruning/") and "seconds" not in k
            },
        }
        torch.save(result, self.folder / f"rank{trainer.global_rank}.pt")


def make_callback(policy=None, **kwargs):
    settings = {
        "schedule": PruningSchedule(stop_fraction=0.84),
        "reference": make_data(37, seed=3, noise=0.0),
        "keep_history": True,
    }
    return DynamicPruningCallback(
        kwargs.pop("score", None) or DynamicAlignment(window=4, min_observations=2),
        policy or InfoBatch(0.6),
        **(settings | kwargs),
    )


def fit_rank(
    folder,
    ranks,
    num_samples=62,
    shuffle=True,
    sampler=None,
    ckpt=None,
    extra=(),
    batch_norm=False,
    make_module=TinyModule,
    nodes=1,
    callback=make_callback,
    strategy="ddp",
    **kwargs,
):
    """Fit as one of ``ranks`` processes with a global batch of 8."""
    torch.set_num_threads(1)
    pl.seed_everything(5, verbose=False)
    own = sampler() if sampler else None
    data = make_data(num_samples)
    loader = DataLoader(data, 8 // ranks, shuffle=shuffle and own is None, sampler=own)
    log = EpochLog()
    callbacks = [callback(), log, *(make() for make in extra), Recorder(folder, log)]
    trainer = make_trainer(
        *callbacks,
        max_epochs=EPOCHS,
        devices=ranks // nodes,
        num_nodes=nodes,
        strategy=strategy if ranks > 1 else "auto",
        **kwargs,
    )
    val_loader = DataLoader(make_data(20, seed=9), 5)
    trainer.fit(make_module(batch_norm=batch_norm), loader, val_loader, ckpt_path=ckpt)


def fit(folder, ranks, **kwargs):
    """Fit on ``ranks`` processes; return what each rank wrote."""
    folder.mkdir(exist_ok=True)
    work = partial(fit_rank, folder, ranks, **kwargs)
    if ranks > 1:
        work = partial(run_ranks, work, ranks, kwargs.get("nodes", 1))
    run_forked(work, folder / "log.txt")
    return [torch.load(folder / f"rank{r}.pt", weights_only=True) for r in range(ranks)]


def same(a, b):
    if a is None or b is None:
        return a is b
    return torch.equal(a.nan_to_num(-9.0), b.nan_to_num(-9.0))


class SaveAt(Checkpoint):
    def __init__(self, path, epoch):
        self.path, self.epoch = path, epoch

    def on_train_epoch_end(self, trainer, pl_module):
        if trainer.current_epoch == self.epoch:
            trainer.save_checkpoint(self.path)


class SaveInMidEpoch(Checkpoint):
    def __init__(self, path):
        self.path = path

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.current_epoch == 3 and batch_idx == 2:
            trainer.save_checkpoint(self.path)
            recorder = trainer.callbacks[-1]
            recorder.num_calls = sum(recorder.calls)  # a checkpoint may exchange
