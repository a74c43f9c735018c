"""Samplers of the user's on two ranks: who trains what, and that no rank runs ahead."""

import os
from functools import partial

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DistributedSampler, Sampler

from lightning_alignprune import DynamicPruningCallback, InfoBatch
from tests.integration.ranked_fits import EPOCHS, fit

NUM_SAMPLES = 40


class OneExchangeBefore(pl.Callback):
    """What the ranks draw is exchanged before an epoch begins; after that nothing is."""

    def on_train_epoch_start(self, trainer, pl_module):
        recorder = trainer.callbacks[-1]
        recorder.num_calls = sum(recorder.calls)


def callback(share):
    return DynamicPruningCallback("loss", InfoBatch(share), keep_history=True)


class Backwards(DistributedSampler):
    """A subclass that knows its rank from torch, as torch's own does."""

    def __init__(self):
        self.rank_of_process = int(os.environ["RANK"])
        super().__init__(range(NUM_SAMPLES), num_replicas=2, rank=self.rank_of_process, seed=3)

    def __iter__(self):
        return iter(list(super().__iter__())[::-1])


class Halves(Sampler):
    """No DistributedSampler, but it shards: each rank has a half of the set, for its cache."""

    def __init__(self):
        rank = int(os.environ["RANK"])
        self.own = list(range(rank * NUM_SAMPLES // 2, (rank + 1) * NUM_SAMPLES // 2))

    def __len__(self):
        return len(self.own)

    def __iter__(self):
        return iter([self.own[i] for i in torch.randperm(len(self.own))])


def drawn_by(rank, epoch):
    sampler = DistributedSampler(range(NUM_SAMPLES), num_replicas=2, rank=rank, seed=3)
    sampler.set_epoch(epoch)
    return list(sampler)[::-1]


@pytest.mark.parametrize("injects", [True, False])
def test_a_subclass_of_distributed_sampler_decides_what_each_rank_trains(tmp_path, injects):
    made = {"num_samples": NUM_SAMPLES, "sampler": Backwards, "use_distributed_sampler": injects}
    results = fit(tmp_path, 2, extra=[OneExchangeBefore], callback=partial(callback, 0.0), **made)
    for epoch in range(EPOCHS):
        for rank, result in enumerate(results):
            assert result["shards"][epoch].tolist() == drawn_by(rank, epoch)


def test_a_sampler_that_shards_by_itself_keeps_its_parts(tmp_path):
    made = {"num_samples": NUM_SAMPLES, "sampler": Halves, "use_distributed_sampler": False}
    results = fit(tmp_path, 2, extra=[OneExchangeBefore], callback=partial(callback, 0.0), **made)
    for epoch in range(EPOCHS):
        first, second = (result["shards"][epoch] for result in results)
        assert first.sort().values.tolist() == list(range(20))
        assert second.sort().values.tolist() == list(range(20, 40))
        assert not results[0]["rows"][epoch].isnan().any()
        assert torch.equal(results[0]["rows"][epoch], results[1]["rows"][epoch])


@pytest.mark.parametrize(("kind", "injects"), [(Backwards, True), (Halves, False)])
def test_pruned_samples_are_left_out_of_what_all_ranks_draw(tmp_path, kind, injects):
    made = {"num_samples": NUM_SAMPLES, "sampler": kind, "use_distributed_sampler": injects}
    results = fit(tmp_path, 2, extra=[OneExchangeBefore], callback=partial(callback, 0.6), **made)
    pruned = 0
    for epoch, kept in enumerate([None, *results[0]["kept"][:-1]]):
        shards = [result["shards"][epoch] for result in results]
        assert len(shards[0]) == len(shards[1])
        union = torch.cat(shards)
        assert len(union.unique()) == len(union)
        wanted = torch.ones(NUM_SAMPLES, dtype=torch.bool) if kept is None else kept
        assert wanted[union].all()
        assert int(wanted.sum()) - len(union) < 4
        pruned += kept is not None and not kept.all()
    assert pruned
    assert results[0]["batches"] == results[1]["batches"]
