r"""Time what the robust preset adds: the fit of the map, the score, the cut, and one step.

    python examples/benchmarks/robust_epoch_end.py --samples 50000 1281167 \
        --out docs/results/robust_epoch_end.json

Losses are drawn, half of the labels being wrong; what is timed is the package's own code on them.
Medians of several runs that take turns.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_alignprune import (
    CalibratedLoss,
    DynamicAlignment,
    InfoBatch,
    LabelOdds,
    LabelPosterior,
    LossTrajectories,
    MixtureCut,
    PosteriorCut,
    ReferenceRank,
    SampleLoss,
    SelectionContext,
)
from lightning_alignprune.functional import calibrate, reference_rank
from lightning_alignprune.functional.selection import Selection
from lightning_alignprune.signals import LossRanks, ReferenceSamples
from lightning_alignprune.signals._loss_ranks import RankAverages
from lightning_alignprune.tap.tapped_step import TappedCall, TappedStep

WINDOW, CLASSES, REFERENCE, BATCH = 10, 20, 1000, 128


def medians(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Milliseconds of each, in turn, so that a slow moment of the machine hits all alike."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def drawn(num_samples: int) -> LossTrajectories:
    """Ten epochs of losses; the second half of the samples has wrong labels."""
    generator = torch.Generator().manual_seed(0)
    bank = LossTrajectories(num_samples, WINDOW)
    indices = torch.arange(num_samples)
    for epoch in range(WINDOW):
        reference = torch.rand(REFERENCE, generator=generator) * 2
        losses = torch.rand(num_samples, generator=generator) * 2
        losses[num_samples // 2 :] += 1.5
        bank.record(indices, losses)
        bank.close_epoch(epoch, reference.mean(), reference_samples=reference)
    return bank


def added(losses: Tensor, reference: Tensor) -> None:
    averages = RankAverages()
    averages.follow(reference)
    averages.add(losses)


def epoch_end(num_samples: int, repeats: int) -> dict[str, float]:
    bank = drawn(num_samples)
    ranked, aligned = ReferenceRank(WINDOW, gate="none"), DynamicAlignment(WINDOW)
    scores, of_reference = ranked.compute(bank), ranked.compute_reference(bank)
    plain = aligned.compute(bank)
    labels = torch.arange(num_samples) % CLASSES

    def context(**about: Any) -> SelectionContext:
        return SelectionContext(20, 0, 0, torch.arange(num_samples), bank, **about)

    half = num_samples // 2
    reference = bank.view().reference_rows[-1]
    assert reference is not None
    ranks = LossRanks(
        reference_rank(bank.rows[-1], reference), reference_rank(reference, reference)
    )

    def posterior(
        right: float, epochs_since_best: int = 0, first: bool = False
    ) -> Callable[[], Selection]:
        """Cut where wrong labels are right with that probability, 0.2 being too soft to tell."""
        given = torch.full((num_samples,), 0.98)
        given[half:] = right
        found = {"loss_ranks": ranks, "noise_share": 0.5, "estimates_since_peak": 2}
        about = context(labels=labels, epochs_since_best=epochs_since_best, **found)
        policy = PosteriorCut()
        policy.select(given, about)
        return lambda: (PosteriorCut() if first else policy).select(given, about)

    about = {"reference_scores": of_reference, "labels": labels, "epochs_since_best": 5}
    return medians(
        {
            "LabelPosterior": lambda: LabelPosterior().compute(bank),
            "PosteriorCut": posterior(0.02),
            "PosteriorCut, ranks too": posterior(0.2, epochs_since_best=10),
            "PosteriorCut, its first cut": posterior(0.02, first=True),
            "ranks of the epoch": lambda: added(bank.rows[-1], reference),
            "ReferenceRank": lambda: ranked.compute(bank),
            "MixtureCut with a reference": lambda: MixtureCut().select(scores, context(**about)),
            "MixtureCut, two Gaussians": lambda: MixtureCut().select(scores, context()),
            "DynamicAlignment": lambda: aligned.compute(bank),
            "InfoBatch": lambda: InfoBatch().select(plain, context()),
        },
        repeats,
    )


def steps(repeats: int) -> dict[str, float]:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(REFERENCE, CLASSES, generator=generator)
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator).squeeze(1)
    moved = torch.where(torch.rand(REFERENCE, generator=generator) < 0.4, (labels + 1) % 20, labels)
    signal, odds = CalibratedLoss(), LabelOdds()
    losses = F.cross_entropy(logits, moved, reduction="none")
    for each in (signal, odds):
        each.follow_reference(ReferenceSamples(losses, logits, moved))
    mean = losses[:BATCH].mean()
    call = TappedCall(losses[:BATCH], mean, "mean", logits[:BATCH], labels[:BATCH])
    step = TappedStep(BATCH, mean, [call])
    return medians(
        {
            f"fit of the map, {REFERENCE} samples, {CLASSES} classes": lambda: calibrate(
                logits, moved
            ),
            f"fit of the map, 200 samples, {CLASSES} classes": lambda: calibrate(
                logits[:200], moved[:200]
            ),
            f"LabelOdds of a batch of {BATCH}": lambda: odds.read(step, False),
            f"LabelOdds of a batch of {BATCH}, with notes": lambda: odds.read(step, True),
            f"CalibratedLoss of a batch of {BATCH}": lambda: signal.read(step, False),
            f"CalibratedLoss of a batch of {BATCH}, with notes": lambda: signal.read(step, True),
            f"SampleLoss of a batch of {BATCH}": lambda: SampleLoss().values(step),
        },
        repeats,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--samples", type=int, nargs="+", default=[50_000, 1_281_167])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    result: dict[str, Any] = {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": args.threads,
        "milliseconds": {str(n): epoch_end(n, args.repeats) for n in args.samples},
        "milliseconds_once": steps(args.repeats),
    }
    for title, times in [*result["milliseconds"].items(), ("", result["milliseconds_once"])]:
        print(f"\n{int(title):,} samples, window {WINDOW}" if title else "\nper epoch or step")
        for name, value in times.items():
            print(f"  {name:<45} {value:10.2f} ms")
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
