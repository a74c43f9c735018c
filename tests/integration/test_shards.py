"""Shares of several ranks: decisions and states are those of one process."""

import copy
from functools import partial

import pytest
import torch
import torch.distributed as dist

from lightning_alignprune import (
    IES,
    RS2,
    UCB,
    BatchLoss,
    DynamicAlignment,
    DynamicRandom,
    EpsilonGreedy,
    InfoBatch,
    LastLoss,
    LossSinceStart,
    MeanLoss,
    MixtureCut,
    OrderDP,
    PruningSchedule,
    RePB,
    SeTa,
    StaticSubset,
)
from lightning_alignprune.policies import POLICIES
from lightning_alignprune.pruner import Pruner
from lightning_alignprune.state.shard import Shard
from tests.in_two_shards import in_lockstep
from tests.integration.forked import run_forked, run_ranks

N, EPOCHS = 203, 11
CASES = [
    (DynamicAlignment(5, min_observations=3), InfoBatch(0.6)),
    (DynamicAlignment(5, min_observations=3, gate="reference"), SeTa(4, 0.5, 0.2)),
    (LastLoss(), InfoBatch(0.5, rescale="none")),
    (MeanLoss(), SeTa(5)),
    (LastLoss(), DynamicRandom(0.3)),
    (LastLoss(), StaticSubset(0.3)),
    (LastLoss(), StaticSubset(indices=[*range(0, N, 3), 5])),
    (LastLoss(), IES(0.4, revisit_epochs=2)),
    (LastLoss(), EpsilonGreedy(0.4, 0.3)),
    (DynamicAlignment(5, min_observations=3), UCB(0.4)),
    (MeanLoss(5, gate="reference"), MixtureCut(patience=1)),
    (DynamicAlignment(5, min_observations=3), RePB(0.5)),
    (LossSinceStart(), OrderDP(0.7, 0.6)),
    (LastLoss(), RS2(0.6)),
]


def all_reduce(value):
    total = value.clone()
    dist.all_reduce(total)
    return total


def make(score, policy, shard=None, dtype="float32"):
    schedule = PruningSchedule(stop_fraction=0.8, finish="partial")
    policy = copy.deepcopy(policy)  # it keeps averages of its own
    return Pruner(N, BatchLoss(), score, policy, schedule, 3, dtype=dtype, shard=shard)


def run_epoch(pruner, epoch):
    """Record what the epoch trains on, of losses that depend on sample and epoch only."""
    generator = torch.Generator().manual_seed(epoch)
    losses = torch.randn(N, generator=generator).exp() / (1 + epoch) + torch.arange(N) / N
    losses[::17] = torch.nan
    selection, indices = pruner.decision.selection, pruner.indices
    kept = slice(None) if selection is None else selection.kept
    pruner.trajectories.record(torch.arange(len(indices))[kept], losses[indices[kept]])
    pruner.close_epoch(epoch, torch.tensor(1.0 / (1 + epoch % 6)))
    pruner.decide(epoch + 1, (epoch + 2) / EPOCHS)


def same(a, b):
    if not isinstance(a, torch.Tensor):
        return type(a) is type(b) and (
            a == pytest.approx(b, nan_ok=True) if isinstance(a, float) else a == b
        )
    if not a.is_floating_point():
        return torch.equal(a, b)
    return torch.equal(a.isnan(), b.isnan()) and torch.allclose(a.nan_to_num(), b.nan_to_num())


def flat(state, path=""):
    items = state.items() if isinstance(state, dict) else enumerate(state)
    for key, value in items:
        if isinstance(value, (dict, list)):
            yield from flat(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def check_state(state, expected):
    state, expected = dict(flat(state)), dict(flat(expected))
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        assert same(state[name], value), name


def compare(shard, score, policy, dtype):
    whole, mine = make(score, policy, None, dtype), make(score, policy, shard, dtype)
    num_pruned = 0
    for epoch in range(EPOCHS - 1):
        run_epoch(whole, epoch)
        run_epoch(mine, epoch)
        ours, theirs = mine.decision.selection, whole.decision.selection
        assert (ours is None) == (theirs is None), (type(policy), epoch)
        for name in ("kept", "weights"):
            expected = getattr(theirs, name, None)
            if expected is not None:
                assert same(getattr(ours, name), expected[mine.indices]), (type(policy), epoch)
        num_pruned += theirs is not None
        metrics = mine.metrics()
        assert 0 <= metrics.pop("left_out_fraction") < 1
        for name, value in whole.metrics().items():
            assert float(metrics[name]) == pytest.approx(float(value)), name
        if epoch % 3 == 0:  # it holds what the epochs before have left behind
            state = mine.state_dict()
            if shard.rank == 0:
                check_state(state, whole.state_dict())
        if epoch == 4:  # a resume from what one process saved, with the shards cut out of it
            mine = make(score, policy, shard, dtype)
            mine.load_state_dict(whole.state_dict())
            assert mine.trajectories.rows[0].untyped_storage().nbytes() < 4 * N
    assert num_pruned > 1, type(policy)


def compare_all(shard):
    for score, policy in CASES:
        compare(shard, score, policy, "float32")
    compare(shard, *CASES[0], "bfloat16")


def compare_over_processes():
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    compare_all(Shard(N, dist.get_world_size(), dist.get_rank(), all_reduce))


def test_decisions_and_states_are_those_of_one_process(tmp_path):
    able = {name for name, made in POLICIES.items() if made.works_on_shares}
    # PosteriorCut reads what LabelOdds alone records: test_label_posterior.py
    assert {type(policy).__name__ for _, policy in CASES} == able - {"PosteriorCut"}
    run_forked(partial(run_ranks, compare_over_processes, 2), tmp_path / "log")


def test_decisions_and_states_of_four_shards_are_those_of_the_whole():
    # In lockstep instead of over a process group, whose thousands of sums take twenty seconds.
    in_lockstep(lambda rank, reduce: compare_all(Shard(N, 4, rank, reduce)), 4)


def gather_everything():
    dist.init_process_group("gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    shard = Shard(11, ranks, rank, all_reduce)
    for dtype in (torch.bool, torch.int32, torch.int64, torch.float16, torch.bfloat16):
        values = torch.arange(11).to(dtype)
        state = shard.gathered({"a": [values[shard.indices()]], "b": torch.zeros(12), "c": 3})
        assert state["c"] == 3
        assert torch.equal(state["b"], torch.zeros(12))
        if rank == 0:
            assert state["a"][0].dtype == dtype
            assert torch.equal(state["a"][0], values)
        assert torch.equal(shard.own(values), values[rank::ranks])
    assert shard.counts(torch.tensor(rank * 10)) == [10 * r for r in range(ranks)]


def test_states_of_every_dtype_are_gathered_in_pieces(tmp_path):
    run_forked(partial(run_ranks, gather_in_pieces, 4), tmp_path / "log")


def gather_in_pieces():
    import lightning_alignprune.state.shard as module

    module._PIECE = 8  # two rows of four ranks at a time, of the three that there are
    gather_everything()
