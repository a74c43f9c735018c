r"""Time what each coreset method computes when the warm-up is over, on drawn values.

    python examples/benchmarks/coreset_scores.py --out docs/results/coreset_scores.json

Timed is the package's own code: the score of all samples and the choice of 30 % of them. The passes
that a method looks at, warm-up and scoring pass, are training and inference as ever and not timed.
Features lie around one direction per class, as those of a trained network's last layer do.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_alignprune.coreset import (
    DUAL,
    SSP,
    CoresetMethod,
    DynUnc,
    Evidence,
    Forgetting,
    Moderate,
    Prune4ReL,
    SeenBatch,
    SmallLoss,
)
from lightning_alignprune.functional import (
    error_norm,
    last_layer_gradient_norm,
    probability_margin,
)

IMAGENET = 1_281_167
CLASSES, SIZE, EPOCHS, BATCH, KEPT = 1000, 512, 30, 256, 0.3
SPREAD = 0.2  # of a feature around its class: cosines within a class 0.8 to 0.95, mostly
SLOW = 20.0  # seconds from which one measurement is enough

METHODS: dict[str, CoresetMethod] = {
    "choice by a score of the pass (SmallL, Margin, EL2N, GraNd)": SmallLoss(),
    "the same, balanced": SmallLoss(balanced=True),
    "Forgetting": Forgetting(),
    "DynUnc": DynUnc(),
    "DUAL": DUAL(),
    "DUAL, Beta sampling": DUAL(sampling="beta"),
    "Moderate": Moderate(),
    "SSP": SSP(),
    "Prune4ReL": Prune4ReL(),
}


def clustered(labels: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Draw non-negative features around one direction per class, shape (N, size)."""
    centres = torch.randn(int(labels.max()) + 1, size, generator=generator).relu_()
    features = torch.empty(len(labels), size)
    for rows, of_rows in zip(features.split(BATCH), labels.split(BATCH), strict=True):
        torch.randn(rows.shape, generator=generator, out=rows)
        rows.mul_(SPREAD).add_(centres[of_rows]).relu_()
    return features


def evidence(method: CoresetMethod, num_samples: int, classes: int, size: int) -> Evidence:
    """Draw what a warm-up would have found, as far as the method looks at it."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(classes, (num_samples,), generator=generator)
    rows = []
    if method.needs_rows:
        rows = [torch.rand(num_samples, generator=generator) for _ in range(EPOCHS)]
        rows = [row.round_() for row in rows] if isinstance(method, Forgetting) else rows
    values = torch.rand(num_samples, generator=generator).clamp_min_(0.01)
    features = clustered(labels, size, generator) if method.keeps_features else None
    return Evidence(num_samples, rows, values, labels, features)


def timed(run: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Median seconds, and CPU seconds, which are the same however busy the cores are."""
    wall, cpu = [], []
    while len(wall) < repeats and (not wall or wall[0] < SLOW):
        start, cpu_start = time.perf_counter(), time.process_time()
        run()
        wall.append(time.perf_counter() - start)
        cpu.append(time.process_time() - cpu_start)
    return {"seconds": statistics.median(wall), "cpu_seconds": statistics.median(cpu)}


def peak_gib() -> float:
    """Most memory that this process held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def choose(name: str, num_samples: int, classes: int, size: int, threads: int) -> dict[str, float]:
    """Time one method in a process of its own, so that its peak of memory is its own."""
    torch.set_num_threads(threads)
    method = METHODS[name]
    found = evidence(method, num_samples, classes, size)
    before, count = peak_gib(), round(KEPT * num_samples)
    result = timed(lambda: method.choose(found, count), repeats=3)
    return result | {"gib_of_evidence": before, "gib_beside_it": peak_gib() - before}


def per_batch(classes: int, size: int, threads: int) -> dict[str, float]:
    """Microseconds that the scoring pass spends on the score of a batch."""
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(BATCH, classes, generator=generator)
    labels = torch.randint(classes, (BATCH,), generator=generator)
    seen = SeenBatch(torch.rand(BATCH), logits.softmax(1), labels, torch.rand(BATCH, size))
    probabilities, features = logits.softmax(1), seen.features
    assert features is not None
    runs = {
        "Margin": lambda: probability_margin(probabilities),
        "EL2N": lambda: error_norm(probabilities, labels),
        "GraNd": lambda: last_layer_gradient_norm(probabilities, labels, features),
    }
    return {name: 1e6 * timed(run, 200)["cpu_seconds"] for name, run in runs.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, nargs="+", default=[IMAGENET])
    parser.add_argument("--classes", type=int, default=CLASSES)
    parser.add_argument("--size", type=int, default=SIZE, help="of the features")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=[*METHODS])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="JSON; what is there already stays")
    args = parser.parse_args()
    report: dict[str, Any] = {}
    if args.out and args.out.exists():
        report = json.loads(args.out.read_text())
    report["set"] = {name: getattr(args, name) for name in ("classes", "size", "threads")}
    report["set"] |= {"epochs": EPOCHS, "kept": KEPT, "spread": SPREAD, "batch": BATCH}
    report["machine"] = {"torch": torch.__version__, "cpu": platform.machine()}
    report["machine"]["cores"] = os.cpu_count()
    with get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        report["microseconds per batch"] = pool.apply(
            per_batch, (args.classes, args.size, args.threads)
        )
        for num_samples in args.samples:
            part = report.setdefault(str(num_samples), {})
            for name in args.methods:
                given = (name, num_samples, args.classes, args.size, args.threads)
                part[name] = pool.apply(choose, given)
                print(f"{num_samples:,}  {name}: {part[name]}", flush=True)
                if args.out:
                    args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
