"""Strategies other than DDP under torchrun: launched by Lightning, sharded, or refused by name."""

import socket
import subprocess
import sys
from functools import partial

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import (
    DeepSpeedStrategy,
    FSDPStrategy,
    ModelParallelStrategy,
    XLAStrategy,
)
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader

from lightning_alignprune.fit.preflight import check_trainer
from tests.conftest import TinyModule, make_data, make_trainer
from tests.integration.forked import run_forked, run_ranks, spawn_from_server
from tests.integration.ranked_fits import EPOCHS, SaveAt, fit, fit_rank, make_callback, same
from tests.integration.test_ddp import check_ranks


def fit_launched(folder, strategy, partition, from_server):
    """Fit as a script does, where Lightning starts the processes; then look at this process."""
    if from_server:
        spawn_from_server()
    torch.set_num_threads(1)
    pl.seed_everything(5, verbose=False)
    callback = make_callback(partition=partition)
    saving = ModelCheckpoint(folder, save_last=True, save_top_k=0)
    trainer = make_trainer(callback, saving, max_epochs=4, devices=2, strategy=strategy)
    trainer.fit(TinyModule(), DataLoader(make_data(62), 4, shuffle=True))
    with pytest.raises(RuntimeError, match="ddp_spawn or ddp_fork look in a checkpoint"):
        _ = callback.trajectories
    assert "pruning/kept_fraction" in trainer.callback_metrics


@pytest.mark.parametrize(
    ("strategy", "partition", "from_server"),
    [
        ("ddp_spawn", "replicated", True),
        pytest.param("ddp_spawn", "replicated", False, marks=pytest.mark.slow),
        ("ddp_fork", "fixed", False),
    ],
)
def test_processes_that_lightning_starts(tmp_path, strategy, partition, from_server):
    work = partial(fit_launched, tmp_path, strategy, partition, from_server)
    run_forked(work, tmp_path / "log.txt")
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)["callbacks"]
    rows = state["DynamicPruningCallback"]["trajectories"]["rows"]
    assert [int((~row.isnan()).sum()) for row in rows[:2]] == [62, 62]
    assert int((~rows[2].isnan()).sum()) < 55
    # The state is as good as any: a run on one process goes on from it.
    fit(tmp_path / "alone", 1, ckpt=tmp_path / "last.ckpt")
    alone = torch.load(tmp_path / "alone" / "rank0.pt", weights_only=True)
    assert all(same(row, other) for row, other in zip(rows, alone["rows"], strict=False))


class Sharded(TinyModule):
    def configure_model(self):
        for part in self.net:
            if any(True for _ in part.parameters()):
                fully_shard(part, mesh=self.device_mesh["data_parallel"])
        fully_shard(self.net, mesh=self.device_mesh["data_parallel"])


FSDP2 = partial(ModelParallelStrategy, data_parallel_size=2, tensor_parallel_size=1)


needs_cpu_fsdp2 = pytest.mark.skipif(
    torch.__version__ < "2.7", reason="fully_shard of torch 2.6 calls GPU streams"
)


def fit_fsdp2(folder, **kwargs):
    results = fit(folder, 2, make_module=Sharded, strategy=FSDP2(), **kwargs)
    for result in results:
        result["weights"] = {}  # each rank has its part
    return results


@needs_cpu_fsdp2
def test_fsdp2_decides_as_ddp_does(tmp_path):
    ddp = fit(tmp_path / "ddp", 2)
    sharded = fit_fsdp2(tmp_path / "sharded")
    check_ranks(sharded)
    for a, b in zip(ddp, sharded, strict=True):
        assert all(same(x, y) for x, y in zip(a["kept"], b["kept"], strict=True))
        for row, other in zip(a["rows"], b["rows"], strict=True):
            torch.testing.assert_close(row, other, equal_nan=True)
        torch.testing.assert_close(a["reference"], b["reference"])


@needs_cpu_fsdp2
def test_fsdp2_with_a_fixed_partition_resumes(tmp_path):
    path = tmp_path / "sharded.ckpt"  # a folder, as ModelParallelStrategy saves by default
    fixed = partial(make_callback, partition="fixed")
    whole = fit_fsdp2(tmp_path / "whole", callback=fixed, extra=[partial(SaveAt, path, 2)])
    resumed = fit_fsdp2(tmp_path / "resumed", callback=fixed, ckpt=path)
    for a, b in zip(whole, resumed, strict=True):
        assert len(b["kept"]) == EPOCHS - 3
        assert all(same(x, y) for x, y in zip(a["kept"][3:], b["kept"], strict=True))
        assert all(same(x, y) for x, y in zip(a["rows"], b["rows"], strict=True))


def fit_with_tensor_parallelism(folder):
    strategy = ModelParallelStrategy(data_parallel_size=1, tensor_parallel_size=2)
    text = "tensor_parallel_size=1 in ModelParallelStrategy, got 1 data-parallel of 2"
    with pytest.raises(MisconfigurationException, match=text):
        fit_rank(folder, 2, make_module=Sharded, strategy=strategy)


def test_tensor_parallelism_is_refused(tmp_path):
    work = partial(fit_with_tensor_parallelism, tmp_path)
    run_forked(partial(run_ranks, work, 2), tmp_path / "log.txt")


@pytest.mark.parametrize("strategy", [FSDPStrategy, DeepSpeedStrategy, XLAStrategy])
def test_other_strategies_are_refused_by_name(strategy):
    # These start on a GPU or TPU only; the check sees no more than their type, and comes first.
    trainer = make_trainer()
    trainer._accelerator_connector.strategy = strategy.__new__(strategy)
    with pytest.raises(MisconfigurationException, match=f"FSDP2, got {strategy.__name__}, which"):
        check_trainer(trainer)


@pytest.mark.slow
def test_torchrun_on_two_nodes(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    line = "-m torch.distributed.run --nnodes=2 --nproc-per-node=1 --rdzv-id=test"
    line += f" --rdzv-backend=c10d --rdzv-endpoint=127.0.0.1:{port}"
    line += f" -m tests.integration.torchrun_script {tmp_path}"
    agents = [subprocess.Popen([sys.executable, *line.split()]) for _ in range(2)]
    try:
        assert [agent.wait(timeout=150) for agent in agents] == [0, 0]
    finally:
        for agent in agents:
            agent.kill()
    check_ranks([torch.load(tmp_path / f"rank{r}.pt", weights_only=True) for r in range(2)])
