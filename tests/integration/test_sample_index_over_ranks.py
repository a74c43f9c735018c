"""Several ranks read their batches' own indices and decide alike."""

from functools import partial

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Checkpoint
from torch.utils.data import BatchSampler, DataLoader, Sampler

from tests.conftest import make_trainer
from tests.integration.forked import run_forked, run_ranks
from tests.integration.ranked_fits import same
from tests.integration.test_sample_index import (
    ByLength,
    Indexed,
    Module,
    SaveAtBatch,
    make_callback,
    sort_items,
    two_crops,
)

EPOCHS, NUM_SAMPLES = 4, 62


class Buckets(BatchSampler):
    """Sorts what its sampler draws in pools of three batches, as many libraries do."""

    def __iter__(self):
        drawn = list(self.sampler)
        for start in range(0, len(drawn), 3 * self.batch_size):
            pool = sorted(drawn[start : start + 3 * self.batch_size])
            yield from BatchSampler(pool, self.batch_size, False)


class OwnShare(Sampler):
    """Deals its batches out over ranks by itself, unevenly."""

    def __init__(self, rank):
        self.rank, self.batches = rank, ByLength(torch.arange(NUM_SAMPLES), 4)

    def __len__(self):
        return 8

    def __iter__(self):
        return iter(list(self.batches)[self.rank :: 2])


def loader_of(kind, rank):
    data = Indexed(NUM_SAMPLES)
    if kind == "lightning's buckets":
        order = torch.utils.data.RandomSampler(data)
        return DataLoader(data, batch_sampler=Buckets(order, 4, False), collate_fn=two_crops)
    if kind == "own batches":
        return DataLoader(data, batch_sampler=OwnShare(rank), collate_fn=sort_items)
    collate = sort_items if kind == "sorted" else two_crops
    return DataLoader(data, 4, shuffle=True, collate_fn=collate)


class Writes(Checkpoint):
    """Note what a rank trained on; write it and what it recorded at the end."""

    def __init__(self, folder):
        self.folder, self.trained, self.decided = folder, {}, []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.trained.setdefault(trainer.current_epoch, []).append(batch["index"].tolist())

    def on_train_epoch_end(self, trainer, pl_module):
        selection = trainer.callbacks[0].decision.selection
        self.decided.append(None if selection is None else selection.kept.clone())

    def on_train_end(self, trainer, pl_module):
        data = Indexed(NUM_SAMPLES).data.tensors
        with torch.no_grad():
            views = [pl_module(x) for x in (data[0], -data[0])]
            losses = [F.cross_entropy(view, data[1], reduction="none") for view in views]
        result = {
            "rows": list(trainer.callbacks[0].trajectories.rows),
            "trained": self.trained,
            "decided": self.decided,
            "losses": losses,
        }
        torch.save(result, self.folder / f"rank{trainer.global_rank}.pt")


def fit_rank(folder, kind, ckpt=None, saves_to=None, partition="replicated", lr=0.0):
    torch.set_num_threads(1)
    pl.seed_everything(5, verbose=False)
    trainer = make_trainer(
        make_callback(partition=partition),
        *([SaveAtBatch(saves_to, 2, 0)] if saves_to else []),
        Writes(folder),
        max_epochs=EPOCHS,
        devices=2,
        strategy="ddp",
        use_distributed_sampler=kind != "own batches",
    )
    module = Module(lr)
    trainer.fit(module, loader_of(kind, trainer.global_rank), ckpt_path=ckpt)


def fit(folder, *args, **kwargs):
    folder.mkdir(exist_ok=True)
    work = partial(run_ranks, partial(fit_rank, folder, *args, **kwargs), 2)
    run_forked(work, folder / "log.txt")
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("kind", ["sorted", "crops", "lightning's buckets", "own batches"])
def test_ranks_record_every_ranks_rows_and_decide_alike(tmp_path, kind):
    first, other = fit(tmp_path, kind)
    has_crops = kind in ("crops", "lightning's buckets")
    expected = torch.stack(first["losses"][: 1 + has_crops]).mean(0)
    for epoch in range(EPOCHS):
        assert same(first["rows"][epoch], other["rows"][epoch])
        assert first["decided"][epoch] is not None or epoch == EPOCHS - 1
        assert same(first["decided"][epoch], other["decided"][epoch])
        batches = [result["trained"][epoch] for result in (first, other)]
        assert len(batches[0]) == len(batches[1])
        seen = ~first["rows"][epoch].isnan()
        trained = {i for rank in batches for batch in rank for i in batch}
        assert seen.nonzero().flatten().tolist() == sorted(trained)
        torch.testing.assert_close(first["rows"][epoch][seen], expected[seen])
    assert len(first["trained"][2]) < len(first["trained"][0])


def test_a_fixed_partition(tmp_path):
    results = fit(tmp_path, "sorted", partition="fixed")
    for rank, result in enumerate(results):
        expected = result["losses"][0][rank::2]
        for row in result["rows"]:
            seen = ~row.isnan()
            torch.testing.assert_close(row[seen], expected[seen])
        assert not seen.all()


def test_own_batches_in_a_fixed_partition_are_refused(tmp_path):
    with pytest.raises(AssertionError, match=r"no sampler of your own with partition='fixed'"):
        fit(tmp_path, "own batches", partition="fixed")


@pytest.mark.parametrize(
    ("kind", "partition"),
    [("crops", "replicated"), ("crops", "fixed"), ("own batches", "replicated")],
)
def test_resume_in_mid_epoch(tmp_path, kind, partition):
    path = tmp_path / "mid.ckpt"
    whole = fit(tmp_path / "whole", kind, saves_to=path, partition=partition, lr=0.1)
    rest = fit(tmp_path / "rest", kind, ckpt=path, partition=partition, lr=0.1)
    for a, b in zip(whole, rest, strict=True):
        assert all(same(x, y) for x, y in zip(a["rows"], b["rows"], strict=True))
        assert a["trained"][3] == b["trained"][3]
