"""Draw the figures of the page on ranks among the reference from the results of `run_table.py`.

    python examples/benchmarks/robust_figures.py --results docs/results/news_lr_0.01.jsonl \
        --small docs/results/news_reference_200.jsonl docs/results/news_reference_20.jsonl \
        --out docs/figures

Each point is the mean over seeds; bars reach from the lowest to the highest seed. With --data, the
folder of 20 Newsgroups, it also trains for the figure of what the signals see.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib

matplotlib.use("Agg")
import lightning.pytorch as pl
import matplotlib.pyplot as plt
from _table.methods import ABLATIONS
from _table.tasks import NEWS, parts_of, unchanged
from sklearn.metrics import roc_auc_score
from torch.utils.data import DataLoader

from lightning_alignprune import (
    CalibratedLoss,
    DynamicPruningCallback,
    InfoBatch,
    ReferenceRank,
    SampleLoss,
)
from lightning_alignprune.models import Classifier, OptimizerConfig

Results = dict[tuple[str, str], list[dict[str, Any]]]

NOISES = (
    "clean",
    "symmetric 0.2",
    "symmetric 0.5",
    "symmetric 0.8",
    "pairflip 0.2",
    "pairflip 0.45",
)
ROWS = {
    "full": ("full training", "0.45", "o"),
    "stopped": ("stopped at the best reference loss", "tab:blue", "v"),
    "calibrated": ("calibrated at test time", "tab:cyan", "^"),
    "alignprune": ("AlignPrune, paper's settings", "tab:orange", "s"),
    "ranks": ("ranks among the reference", "tab:red", "D"),
    "oracle": ("noise oracle", "tab:green", "*"),
}


def read(paths: Iterable[Path]) -> Results:
    results: Results = defaultdict(list)
    for path in paths:
        for line in path.read_text().splitlines():
            run = json.loads(line)
            results[run["config"]["noise"], run["config"]["method"]].append(run)
    return results


def values(results: Results, noise: str, row: str) -> tuple[list[float], list[float]]:
    """Return accuracies and shares of passes of a row, over seeds."""
    runs = results.get((noise, "full" if row in ("stopped", "calibrated") else row), [])
    if row == "oracle" and noise == "clean":
        runs = results.get((noise, "full"), [])
    if row == "stopped":
        passes = [(r["best_reference_epoch"] + 1) / r["config"]["recipe"]["epochs"] for r in runs]
        return [r["accuracy_best_reference"] for r in runs], passes
    key = "accuracy_calibrated" if row == "calibrated" else "accuracy_last"
    known = [r for r in runs if r.get(key) is not None]
    return [r[key] for r in known], [r["passes"] for r in known]


def draw_noises(results: Results, path: Path) -> None:
    """Accuracy and passes of each row at each noise."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), sharey=True, width_ratios=(3, 2))
    noises = [noise for noise in NOISES if results.get((noise, "full"))]
    named = set()
    for i, (row, (name, colour, marker)) in enumerate(ROWS.items()):
        for at, noise in enumerate(noises):
            accuracy, passes = values(results, noise, row)
            if not accuracy:
                continue
            mean, x = fmean(accuracy), at + 0.12 * (i - (len(ROWS) - 1) / 2)
            label = None if row in named else name
            named.add(row)
            left.plot([x, x], [min(accuracy), max(accuracy)], color=colour, lw=1)
            left.plot(x, mean, marker, color=colour, label=label, ms=6)
            if row in ("stopped", "alignprune", "ranks", "oracle"):
                right.plot(fmean(passes), mean, marker, color=colour, ms=6)
    left.set_xticks(range(len(noises)), [noise.replace(" ", "\n") for noise in noises])
    left.set_ylabel("test accuracy, last epoch (%)")
    left.set_title("20 Newsgroups")
    right.axvline(0.5, color="0.8", lw=1, zorder=0)
    right.set_xlabel("share of sample passes")
    right.set_title("what it took")
    right.set_xlim(0, 1.02)
    for axis in (left, right):
        axis.grid(axis="y", color="0.92")
        axis.set_axisbelow(True)
    figure.legend(loc="lower center", ncols=3, frameon=False, fontsize=9)
    figure.tight_layout(rect=(0, 0.12, 1, 1))
    save(figure, path)


def draw_reference_sizes(by_size: dict[int, Results], path: Path) -> None:
    """How ranks do with fewer clean labels."""
    noises = [n for n in NOISES if all(r.get((n, "ranks")) for r in by_size.values())]
    figure, axes = plt.subplots(1, len(noises), figsize=(2.0 * len(noises), 3.2), sharey=True)
    sizes = sorted(by_size)
    for axis, noise in zip(axes, noises, strict=True):
        for row in ("full", "stopped", "ranks"):
            name, colour, marker = ROWS[row]
            every = [values(by_size[size], noise, row)[0] for size in sizes]
            axis.plot(sizes, [fmean(v) for v in every], marker=marker, color=colour, label=name)
            for size, seeds in zip(sizes, every, strict=True):
                axis.plot([size, size], [min(seeds), max(seeds)], color=colour, lw=1)
        axis.set_xscale("log")
        axis.set_xticks(sizes, [str(size) for size in sizes])
        axis.minorticks_off()
        axis.set_title(noise, fontsize=10)
        axis.grid(axis="y", color="0.92")
    axes[0].set_ylabel("test accuracy, last epoch (%)")
    figure.supxlabel("clean reference samples", fontsize=10, y=0.1)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=3, frameon=False, fontsize=9)
    figure.tight_layout(rect=(0, 0.1, 1, 1))
    save(figure, path)


def draw_ablations(results: Results, path: Path) -> None:
    """Ranks with one part changed, minus ranks as they are, same seeds."""
    noises = [n for n in NOISES if any(results.get((n, method)) for method in ABLATIONS)]
    figure, axes = plt.subplots(1, len(noises), figsize=(3 * len(noises) + 2.4, 3.6), sharey=True)
    names = [method.name.removeprefix("ranks, ") for method in ABLATIONS.values()]
    for axis, noise in zip(axes, noises, strict=True):
        base = {r["config"]["seed"]: r for r in results[noise, "ranks"]}
        for at, method in enumerate(ABLATIONS):
            runs = [r for r in results.get((noise, method), []) if r["config"]["seed"] in base]
            gains = [r["accuracy_last"] - base[r["config"]["seed"]]["accuracy_last"] for r in runs]
            if gains:
                axis.barh(at, fmean(gains), color="tab:red" if fmean(gains) < 0 else "tab:green")
                axis.plot(gains, [at] * len(gains), ".", color="k", ms=4)
        axis.axvline(0, color="k", lw=0.8)
        axis.set_title(noise, fontsize=10)
        axis.grid(axis="x", color="0.92")
        axis.set_axisbelow(True)
    axes[0].set_yticks(range(len(names)), names)
    axes[0].invert_yaxis()
    figure.supxlabel("points of test accuracy gained by the change (scales differ)", fontsize=10)
    figure.tight_layout()
    save(figure, path)


def draw_ranks(data_dir: Path, path: Path) -> None:
    """Ranks of right and wrong labels among the reference, plain and calibrated, one real run."""
    figure, axes = plt.subplots(2, 2, figsize=(10, 5), sharex=True, layout="constrained")
    pool = NEWS.load(data_dir)
    for line, noise in zip(axes, ("symmetric 0.5", "pairflip 0.45"), strict=True):
        parts = parts_of(NEWS, pool, NEWS.recipe, NEWS.noises[noise](0, data_dir), 0)
        for axis, signal in zip(line, (SampleLoss(), CalibratedLoss()), strict=True):
            pl.seed_everything(0, verbose=False)
            clean = DataLoader(parts.reference, len(parts.reference), collate_fn=unchanged)
            # InfoBatch that prunes nothing: look only.
            callback = DynamicPruningCallback(
                ReferenceRank(), InfoBatch(0.0), signal, reference=clean
            )
            trainer = pl.Trainer(
                max_epochs=25,
                accelerator="cpu",
                callbacks=[callback],
                logger=False,
                enable_checkpointing=False,
                enable_model_summary=False,
                limit_val_batches=0,
            )
            optimizer = OptimizerConfig("sgd", lr=0.01, momentum=0.9)
            module = Classifier(NEWS.network(), NEWS.num_classes, optimizer=optimizer)
            trainer.fit(module, DataLoader(parts.train, 256, shuffle=True, collate_fn=unchanged))
            ranks = -callback.score.compute(callback.trajectories)
            groups = [ranks[~parts.is_wrong].numpy(), ranks[parts.is_wrong].numpy()]
            auroc = roc_auc_score(parts.is_wrong, ranks)
            axis.hist(
                groups, 50, range=(0, 1), stacked=True, color=["tab:blue", "tab:orange"],
                label=["right labels", "wrong labels"],
            )  # fmt: skip
            axis.set_title(f"{noise}, {type(signal).__name__}, AUROC {auroc:.2f}", fontsize=10)
    axes[0][0].legend(frameon=False)
    figure.supxlabel("mean rank of the loss among the clean reference's", fontsize=10)
    figure.supylabel("samples", fontsize=10)
    save(figure, path)


def save(figure: Any, path: Path) -> None:
    figure.savefig(path, dpi=120)
    plt.close(figure)
    print(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--results", type=Path, nargs="+", required=True)
    parser.add_argument("--small", type=Path, nargs="*", default=[], help="smaller references")
    parser.add_argument("--data", type=Path, help="folder of 20 Newsgroups: draw the ranks too")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    results = read(args.results)
    draw_noises(results, args.out / "robust_noises.png")
    if any(results.get((noise, method)) for noise in NOISES for method in ABLATIONS):
        draw_ablations(results, args.out / "robust_ablations.png")
    by_size = {1000: results}
    for path in args.small:
        found = read([path])
        run = next(iter(found.values()))[0]
        by_size[run["config"]["recipe"]["reference_size"]] = found
    if args.data:
        draw_ranks(args.data, args.out / "robust_ranks.png")
    if len(by_size) > 1:
        draw_reference_sizes(by_size, args.out / "robust_reference_sizes.png")


if __name__ == "__main__":
    main()
