"""Measure what ranks tell each other in an epoch: bytes, collectives and seconds, over gloo.

    python examples/benchmarks/ddp_exchange.py --ranks 2 4 --json docs/results/ddp_exchange.json

Two ways to let all ranks know every loss: as the public InfoBatch does it, which gathers indices
and losses at each training step in one float tensor (our own few lines of that), and our exchange
at the epoch end. Then whole epoch ends, in which an epoch is closed, scored and selected from: with
losses replicated, and in the fixed partition, where no loss travels. Bytes are what one rank
hands to a collective; the barriers that Lightning puts before each sum count as collectives.
"""

import argparse
import json
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor

from lightning_alignprune import DynamicAlignment, InfoBatch, PruningSchedule, SampleLoss, SeTa
from lightning_alignprune.pruner import Pruner
from lightning_alignprune.trainer_access.ranks import PARTITIONS, Partition, RankExchange

COLLECTIVES = ("all_reduce", "all_gather", "barrier")
SEED = 3


class Counter:
    """Count the calls of torch.distributed and the bytes this rank hands to them."""

    def __init__(self) -> None:
        self.calls = self.bytes = 0
        for name in COLLECTIVES:
            setattr(dist, name, self._counted(name, getattr(dist, name)))

    def _counted(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            if name != "barrier":
                sent = args[1] if name == "all_gather" else args[0]
                self.bytes += sent.numel() * sent.element_size()
            return original(*args, **kwargs)

        return call

    def measure(self, run: Callable[[], Any], repeats: int) -> dict[str, float]:
        """Median seconds of the slowest rank; calls and bytes of the last repeat."""
        times = []
        for _ in range(repeats + 1):
            dist.barrier()
            self.calls = self.bytes = 0
            start = time.perf_counter()
            run()
            seconds = torch.tensor(time.perf_counter() - start)
            calls, sent = self.calls, self.bytes
            dist.all_reduce(seconds, op=dist.ReduceOp.MAX)
            times.append(float(seconds))
        return {
            "collectives": calls,
            "bytes_per_rank": sent,
            "seconds": statistics.median(times[1:]),
        }


def exchange_of(partition: Partition) -> RankExchange:
    """Return the package's exchange on Lightning's own strategy, without a whole Trainer."""
    ranks = dist.get_world_size()
    strategy = DDPStrategy(
        parallel_devices=[torch.device("cpu")] * ranks, cluster_environment=LightningEnvironment()
    )
    trainer: Any = SimpleNamespace(strategy=strategy, world_size=ranks, global_rank=dist.get_rank())
    return RankExchange(trainer, partition)


def gather_at_every_step(order: Tensor, losses: Tensor, scores: Tensor, batch_size: int) -> None:
    """Do what the public InfoBatch does in its update."""
    for start in range(0, len(order), batch_size):
        part = order[start : start + batch_size]
        sent = torch.stack([part.float(), losses[part]])
        received = [torch.empty_like(sent) for _ in range(dist.get_world_size())]
        dist.all_gather(received, sent)
        indices, values = torch.cat(received, 1)
        scores[indices.long()] = values


def make_pruner(args: argparse.Namespace, policy: Any, exchange: RankExchange) -> Pruner:
    shard = exchange.shard(args.samples)
    pruner = Pruner(
        args.samples,
        SampleLoss(),
        DynamicAlignment(args.window),
        policy,
        PruningSchedule(),
        SEED,
        shard=shard,
    )
    for epoch in range(args.window):
        losses = torch.rand(args.samples, generator=torch.Generator().manual_seed(epoch))
        pruner.trajectories.running = losses[shard.rank :: shard.num_ranks].clone()
        pruner.close_epoch(epoch, torch.tensor(1.0 / (1 + epoch)))
    return pruner


def bank_bytes(pruner: Pruner) -> int:
    tensors = [*pruner.trajectories.rows, pruner.trajectories.running, pruner.indices]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def whole_epoch_end(pruner: Pruner, exchange: RankExchange, order: Tensor) -> Callable[[], None]:
    losses = pruner.trajectories.rows[0].clone()
    epochs = iter(range(pruner.trajectories.epochs[-1] + 1, 1_000))

    def run() -> None:
        epoch, running = next(epochs), losses
        if pruner.shard.is_whole:
            running, _ = exchange.merged(losses, order, is_sharded=True)
        pruner.trajectories.running = running
        pruner.close_epoch(epoch, torch.tensor(0.5))
        pruner.decide(epoch + 1, 0.5)
        pruner.metrics()

    return run


def measure_rank(rank: int, ranks: int, store: str, args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
    counter, result = Counter(), {}
    generator = torch.Generator().manual_seed(SEED)
    losses = torch.rand(args.samples, generator=generator)
    shuffled = torch.randperm(args.samples, generator=generator)
    order = shuffled[: args.samples // ranks * ranks][rank::ranks].contiguous()
    running = torch.full((args.samples,), torch.nan)
    running[order] = losses[order]

    scores = torch.zeros(args.samples)
    result["gathered at every step"] = counter.measure(
        lambda: gather_at_every_step(order, losses, scores, args.batch), max(1, args.repeats // 3)
    )
    exchange = exchange_of("replicated")
    result["exchanged at the epoch end"] = counter.measure(
        lambda: exchange.merged(running, order, is_sharded=True), args.repeats
    )
    policies = {"InfoBatch": InfoBatch(), "SeTa": SeTa()}
    partitions: tuple[Partition, ...] = ("fixed", "replicated")
    for partition in partitions:
        exchange = exchange_of(partition)
        for name, policy in policies.items():
            pruner = make_pruner(args, policy, exchange)
            key = f"{partition}, DAS and {name}"
            run = whole_epoch_end(pruner, exchange, order)
            result[key] = counter.measure(run, args.repeats)
            if partition == "fixed" and name == "InfoBatch":
                result["fixed, state gathered for a checkpoint"] = counter.measure(
                    pruner.state_dict, max(1, args.repeats // 3)
                )
    if rank == 0:
        Path(f"{store}.json").write_text(json.dumps(result))
    dist.destroy_process_group()


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def measure_memory(
    rank: int, ranks: int, store: str, args: argparse.Namespace, partition: Partition
) -> None:
    """Fill a bank in a fresh process; write down its size and by how much the process grew."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
    exchange = exchange_of(partition)
    dist.barrier()
    before = resident_bytes()
    pruner = make_pruner(args, InfoBatch(), exchange)
    found = {"bank_bytes": bank_bytes(pruner), "process_grew_by_bytes": resident_bytes() - before}
    if rank == 0:
        Path(f"{store}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def on_ranks(work: Callable[..., None], ranks: int, *rest: Any) -> Any:
    """Run ``work`` on fresh processes and return what rank 0 wrote down."""
    with tempfile.TemporaryDirectory() as folder:
        store = f"{folder}/store"
        mp.spawn(work, (ranks, store, *rest), nprocs=ranks)
        return json.loads(Path(f"{store}.json").read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--samples", type=int, default=1_281_167)
    parser.add_argument("--batch", type=int, default=128, help="per rank")
    parser.add_argument("--window", type=int, default=25)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="OUT")
    args = parser.parse_args()
    report: dict[str, Any] = {"torch": torch.__version__, **vars(args), "json": str(args.json)}
    for ranks in args.ranks:
        costs = on_ranks(measure_rank, ranks, args)
        memory = {name: on_ranks(measure_memory, ranks, args, name) for name in PARTITIONS}
        report[f"{ranks} ranks"] = {"costs": costs, "memory_per_rank": memory}
        print(f"{ranks} ranks, {args.samples:,} samples")
        print("  collectives      MB/rank   seconds")
        for name, cost in costs.items():
            megabytes = cost["bytes_per_rank"] / 1e6
            print(f"  {cost['collectives']:11} {megabytes:12.3f} {cost['seconds']:9.4f}  {name}")
        for name, used in memory.items():
            bank, grown = (value / 1e6 for value in used.values())
            print(f"  bank {bank:.1f} MB per rank, process grew by {grown:.0f} MB: {name}")
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
