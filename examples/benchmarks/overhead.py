"""What the callback costs where nothing is pruned: an epoch with it over one without it.

    python examples/benchmarks/overhead.py --json overhead.json

A small CNN on random images, on the CPU. One process; epochs with and without the callback
alternate in pairs, and the median of the pairs' ratios is reported. Recording, the loss tap and the
epoch end are included; the reference pass is not: any clean evaluation would cost the same.
"""

import argparse
import json
import logging
import statistics
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from _table.quiet import quiet_trainer
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.data import DataLoader, TensorDataset
from tqdm import tqdm
from typing_extensions import override

from lightning_alignprune import (
    DynamicPruningCallback,
    InfoBatch,
    LossTrajectories,
    PrunedSampler,
    SampleLoss,
)
from lightning_alignprune.fit.step_recorder import StepRecorder


class SmallCnn(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels_in, channels in ((3, 32), (32, 64), (64, 64)):
            layers += [
                nn.Conv2d(channels_in, channels, 3, padding=1, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ]
        self.net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 16, 10))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)


class EpochSeconds(pl.Callback):
    """CPU seconds of each epoch, from its first batch to the end of all epoch-end hooks.

    CPU time, not wall time: on a shared machine a few milliseconds a step drown in the latter.
    """

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.started = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.started = time.process_time()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.seconds.append(time.process_time() - self.started)


def one_fit(loader: DataLoader[Any], with_callback: bool) -> float:
    """CPU seconds of the second epoch of a fresh fit of two."""
    timer = EpochSeconds()
    callbacks: list[pl.Callback] = [timer]
    if with_callback:
        callbacks.insert(0, DynamicPruningCallback("loss", InfoBatch(0.0)))
    torch.manual_seed(0)
    trainer = quiet_trainer(2, callbacks)
    trainer.fit(SmallCnn(), loader)
    return timer.seconds[1]


class _Empty(TorchFunctionMode):
    """Hand every torch call on: the least that any tap costs."""

    @override
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def step_microseconds(repeats: int = 400) -> dict[str, float]:
    """CPU microseconds that the tap and the recording add to one step of the small CNN.

    Tiny batches keep the network's own time and its noise small; the cost of the tap does
    not depend on the batch size but on the number of torch calls. Medians of calls in turn.
    """
    net, batch_size, num_samples = SmallCnn(), 4, 50_000
    batch = (torch.randn(batch_size, 3, 32, 32), torch.randint(10, (batch_size,)))
    sampler = PrunedSampler(num_samples, batch_size=batch_size)
    bank = LossTrajectories(num_samples)
    weights = torch.rand(num_samples) + 0.5

    def plain(step: int) -> None:
        net.training_step(batch, step)

    def recorder() -> StepRecorder:
        return StepRecorder(SampleLoss(), module=net)

    def recorded(recorder: StepRecorder, with_weights: Tensor | None, step: int) -> None:
        recorder.arm(sampler, step, with_weights, bank.device)
        recorder.run(net.training_step, batch, step)
        values = recorder.collect()
        assert values is not None
        bank.record(values.indices, values.values)

    def in_empty_mode(step: int) -> None:
        with _Empty():
            plain(step)

    kinds: dict[str, Any] = {
        "plain": plain,
        "empty mode": in_empty_mode,
        "recorded": partial(recorded, recorder(), None),
        "recorded and weighted": partial(recorded, recorder(), weights),
    }
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    for step in range(repeats):
        for name, run in kinds.items():
            started = time.perf_counter()
            run(step)
            seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(values) * 1e6 for name, values in seconds.items()}
    return {
        "empty mode": medians["empty mode"] - medians["plain"],
        "recorded": medians["recorded"] - medians["plain"],
        "recorded and weighted": medians["recorded and weighted"] - medians["plain"],
        "plain step": medians["plain"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--pairs", type=int, default=25)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    data = TensorDataset(torch.randn(args.samples, 3, 32, 32), torch.randint(10, (args.samples,)))
    loader = DataLoader(data, args.batch_size)
    one_fit(loader, True)
    ratios, plain = [], []
    for pair in tqdm(range(args.pairs), unit="pair"):
        order = (False, True) if pair % 2 else (True, False)
        seconds = {with_callback: one_fit(loader, with_callback) for with_callback in order}
        ratios.append(seconds[True] / seconds[False])
        plain.append(seconds[False])
    result = {
        "samples": args.samples,
        "batch_size": args.batch_size,
        "threads": args.threads,
        "torch": torch.__version__,
        "lightning": pl.__version__,
        "plain_cpu_seconds_per_epoch": statistics.median(plain),
        "ratio_median": statistics.median(ratios),
        "ratio_quartiles": statistics.quantiles(ratios, n=4),
        "extra_microseconds_per_step": step_microseconds(),
    }
    print(json.dumps(result, indent=1))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
