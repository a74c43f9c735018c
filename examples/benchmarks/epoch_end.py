"""Time what pruning costs at an epoch's end and per step, beside the public samplers.

    python examples/benchmarks/epoch_end.py --samples 50000 1281167 --peer ../BLS
    python examples/benchmarks/epoch_end.py --samples 1281167 --more-methods

``--peer`` names a checkout of github.com/mrazhou/BLS, whose ``seta.py`` holds the public InfoBatch,
SeTa and BLS. Their ``prune`` and ``update`` are called directly on prepared scores, as their
samplers do not work on current PyTorch. All runs of a size share data and process and take turns.
"""

import argparse
import contextlib
import importlib.util
import io
import json
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lightning_alignprune import (
    ELR,
    SOP,
    BatchLook,
    DivBS,
    DynamicAlignment,
    GeneralizedCrossEntropy,
    InfoBatch,
    LastLoss,
    LossSinceStart,
    PruningSchedule,
    SampleLoss,
    SelectiveBackprop,
    SymmetricCrossEntropy,
)
from lightning_alignprune.functional import (
    alignment,
    infobatch_selection,
    next_subset,
    orderdp_selection,
    repb_selection,
    window_selection,
)
from lightning_alignprune.pruner import Pruner

BATCH, STEPS = 128, 2_000
PAUSE = 0.1  # the threads of torch and scikit-learn go on spinning for a moment after their work


def resident_gib() -> float:
    """Memory this process holds now; 0 where /proc is missing."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0.0
    return pages * 4096 / 2**30


class PeakMemory:
    """Watch the resident memory from a second thread."""

    def __enter__(self) -> "PeakMemory":
        self.start = self.peak = resident_gib()
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def _watch(self) -> None:
        while not self.done.wait(0.002):
            self.peak = max(self.peak, resident_gib())

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.thread.join()

    @property
    def extra(self) -> float:
        return self.peak - self.start


def seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        run()
    return time.perf_counter() - start


def medians(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Run all in turn, again and again, so that a slow moment of the machine hits all alike."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats + 1):
        for name, run in runs.items():
            time.sleep(PAUSE)
            times[name].append(seconds(run))
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def load_peer(folder: Path) -> Any:
    spec = importlib.util.spec_from_file_location("peer_seta", folder / "seta.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_pruner(num_samples: int, window: int, dtype: str) -> Pruner:
    """Fill a bank with falling, noisy trajectories, one epoch short of a full window."""
    pruner = Pruner(
        num_samples,
        SampleLoss(),
        DynamicAlignment(window),
        InfoBatch(),
        PruningSchedule(),
        dtype=dtype,  # type: ignore[arg-type]
    )
    generator = torch.Generator().manual_seed(0)
    for epoch in range(window):
        row = torch.rand(num_samples, generator=generator, out=pruner.trajectories.running)
        row.neg_().add_(1.0).log_().mul_(-2.3 / (1 + 0.2 * epoch))  # exponential, quickly drawn
        if epoch < window - 1:
            pruner.trajectories.close_epoch(epoch, torch.tensor(2.3 / (1 + epoch)))
    return pruner


def epoch_end(pruner: Pruner, window: int) -> dict[str, float]:
    """Close the epoch, score it and select, once, as a real run does."""
    with PeakMemory() as memory:
        cpu_before = time.process_time()
        took = seconds(
            lambda: (
                pruner.close_epoch(window - 1, torch.tensor(0.1)),
                pruner.decide(window, 0.5),
            )
        )
        cpu = time.process_time() - cpu_before  # the same however busy the cores are
    return {
        "close + DAS + InfoBatch selection, once": took,
        "its CPU seconds": cpu,
        "its peak extra GiB": memory.extra,
        "its peak RSS GiB": memory.peak,
    }


def per_step(pruner: Pruner, peer: Any | None) -> dict[str, float]:
    num_samples = pruner.trajectories.num_samples
    order = torch.randint(0, num_samples, (STEPS, BATCH))
    losses = torch.rand(STEPS, BATCH)
    weights = torch.ones(num_samples)

    def ours() -> None:
        for indices, values in zip(order, losses, strict=True):
            pruner.trajectories.record(indices, values)

    def ours_weighted() -> None:
        for indices, values in zip(order, losses, strict=True):
            pruner.trajectories.record(indices, values)
            (values * weights[indices]).mean()

    runs = {"record() per step": ours, "record() and weights per step": ours_weighted}
    if peer is not None:
        public = peer.InfoBatch(range(num_samples), 200)

        def theirs() -> None:
            for indices, values in zip(order, losses, strict=True):
                public.set_active_indices(indices)
                public.update(values)

        runs["public update per step"] = theirs
    return {name: value / STEPS for name, value in medians(runs, 5).items()}


def measure(args: argparse.Namespace, num_samples: int, peer: Any | None) -> dict[str, float]:
    pruner = make_pruner(num_samples, args.window, args.dtype)
    result = epoch_end(pruner, args.window)
    if args.epoch_end_only:
        return result
    result |= per_step(pruner, peer)
    bank, indices = pruner.trajectories, pruner.indices
    scores = LastLoss().compute(bank)
    rows, reference = bank.rows, bank.reference

    def das_and_selection() -> None:
        infobatch_selection(alignment(rows, reference), 0.5, indices, 0, 1)

    runs: dict[str, Callable[[], Any]] = {
        "InfoBatch selection": lambda: infobatch_selection(scores, 0.5, indices, 0, 1),
        "SeTa selection": lambda: window_selection(scores, 5, range(1, 5), 0.9, indices, 0, 1),
        "DAS + InfoBatch selection": das_and_selection,
    }
    if peer is not None:
        public = peer.InfoBatch(range(num_samples), 200)
        public.scores.copy_(scores)
        runs["public InfoBatch selection"] = public.prune
    result |= medians(runs, args.repeats if num_samples < 5_000_000 else 3)
    if peer is not None and num_samples <= args.peer_seta_max:
        public_seta = peer.SeTa(range(num_samples), 200, 0.1, 5, 0.9)
        public_seta.scores.copy_(scores)

        def their_seta() -> None:
            public_seta.iterations = 1
            public_seta.prune()

        pair = {"SeTa selection": runs["SeTa selection"], "public SeTa selection": their_seta}
        result |= medians(pair, args.peer_seta_repeats)
    return result


def more_methods(num_samples: int, repeats: int) -> dict[str, float]:
    """Time the policies, scores, losses and choices of the page on more methods."""
    pruner = make_pruner(num_samples, 4, "float32")
    bank, indices = pruner.trajectories, pruner.indices
    bank.keep_first = True
    bank.close_epoch(3)
    scores, draw = LastLoss().compute(bank), (indices, 0, 1)
    centered, was_trained = scores - scores.nanmean(), torch.rand(num_samples) < 0.5
    used, half = torch.rand(num_samples) < 0.3, num_samples // 2
    runs: dict[str, Callable[[], Any]] = {
        "InfoBatch selection": lambda: infobatch_selection(scores, 0.5, *draw),
        "RePB selection": lambda: repb_selection(centered, was_trained, 0.5, *draw),
        "OrderDP selection": lambda: orderdp_selection(scores, 0.75, 0.85, *draw),
        "RS2 selection": lambda: next_subset(used, half, *draw),
        "LossSinceStart score": lambda: LossSinceStart().compute(bank),
    }
    result = medians(runs, repeats)
    return result | per_batch_of_more(num_samples, repeats)


def per_batch_of_more(num_samples: int, repeats: int, classes: int = 100) -> dict[str, float]:
    """Time what losses and choices take of a batch: forward and backward, without a network."""
    logits = torch.randn(BATCH, classes, requires_grad=True)
    labels = torch.randint(0, classes, (BATCH,))
    indices = torch.randint(0, num_samples, (BATCH,))
    features = torch.randn(BATCH, 512)
    look = BatchLook(torch.rand(BATCH), indices, 0, 1, logits.detach(), labels, features)
    selective = SelectiveBackprop()
    selective.follow(torch.rand(1024))
    kept = {"ELR": ELR(num_samples, classes), "SOP": SOP(num_samples, classes)}

    def step(loss: Callable[[], torch.Tensor]) -> Callable[[], Any]:
        return lambda: [torch.autograd.grad(loss(), logits) for _ in range(100)]

    runs: dict[str, Callable[[], Any]] = {
        "cross-entropy": step(lambda: torch.nn.functional.cross_entropy(logits, labels)),
        "GCE": step(lambda: GeneralizedCrossEntropy()(logits, labels)),
        "SCE": step(lambda: SymmetricCrossEntropy()(logits, labels)),
        "ELR": step(lambda: kept["ELR"](logits, labels, indices=indices)),
        "SOP": step(lambda: kept["SOP"](logits, labels, indices=indices)),
        "DivBS, half": lambda: [DivBS().choose(look) for _ in range(100)],
        "SelectiveBackprop": lambda: [selective.choose(look) for _ in range(100)],
    }
    found = medians(runs, repeats)
    return {f"{name}, a batch of {BATCH}": value / 100 for name, value in found.items()}


def ratios(result: dict[str, float]) -> dict[str, float]:
    pairs = {
        "InfoBatch selection": "public InfoBatch selection",
        "SeTa selection": "public SeTa selection",
        "DAS + InfoBatch selection": "public InfoBatch selection",
        "record() per step": "public update per step",
        "record() and weights per step": "public update per step",
    }
    return {
        f"{ours} / {theirs}": result[ours] / result[theirs]
        for ours, theirs in pairs.items()
        if ours in result and theirs in result
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, nargs="+", default=[50_000, 1_281_167])
    parser.add_argument("--window", type=int, default=25)
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], default="float32")
    parser.add_argument("--peer", type=Path, help="checkout of github.com/mrazhou/BLS")
    parser.add_argument("--peer-seta-max", type=int, default=1_281_167)
    parser.add_argument("--peer-seta-repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2, help="1 where others use the cores too")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--epoch-end-only", action="store_true", help="for very large sets")
    parser.add_argument("--more-methods", action="store_true", help="those of that page, alone")
    parser.add_argument("--json", type=Path, metavar="OUT")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    peer = load_peer(args.peer) if args.peer else None
    report = {}
    for num_samples in args.samples:
        if args.more_methods:
            result = more_methods(num_samples, args.repeats)
        else:
            result = measure(args, num_samples, peer)
        report[str(num_samples)] = result | ratios(result)
        bank = "" if args.more_methods else f", window {args.window}, {args.dtype}"
        print(f"{num_samples:,} samples{bank}")
        for name, value in report[str(num_samples)].items():
            print(f"  {value:12.6f}  {name}")
    if args.json:
        args.json.write_text(json.dumps({"torch": torch.__version__, **report}, indent=1))


if __name__ == "__main__":
    main()
