"""Draw the overview of the page on the comparison: accuracy over passes, a panel per noise.

    python examples/benchmarks/comparison_figure.py --results docs/results/comparison_news.jsonl \
        --out docs/figures/comparison_news.png

Each point is a method, the mean over its seeds; the passes of a warm-up count. Named are some of
the methods of each panel.
"""

import argparse
import json
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from _table.comparison_report import GROUPS, NOISES, cell_of
from _table.methods import COMPARISON
from _table.report import Result, runs_of

STYLES = {
    "all samples": ("0.35", "o"),
    "coresets": ("tab:purple", "s"),
    "within a batch": ("tab:brown", "P"),
    "every epoch anew": ("tab:blue", "v"),
    "AlignPrune": ("tab:orange", "D"),
    "other losses": ("tab:cyan", "^"),
    "ours": ("tab:red", "X"),
    "who knows": ("tab:green", "*"),
}
NAMED = ("full", "equal_length", "infobatch", "alignprune", "robust", "oracle")
BEST_IS_NAMED = ("coresets", "other losses", "ours")
SHORT = {
    "equal_length": "half as long",
    "alignprune": "AlignPrune",
    "ranks": "ranks alone",
    "robust": "robust preset",
    "robust_pseudo": "robust, no reference",
    "oracle": "noise oracle",
}
Point = tuple[float, float, str]
"""Passes, accuracy, method."""


def points(
    results: list[Result], noise: str, methods: tuple[str, ...], pruned: float
) -> list[Point]:
    """Return a point for each method that was run."""
    found = []
    for method in methods:
        runs = runs_of(results, noise, *cell_of(method, pruned))
        if runs:
            passes = fmean(run["passes"] + run.get("warmup_passes", 0) for run in runs)
            found.append((passes, fmean(run["accuracy_last"] for run in runs), method))
    return found


def name_points(axis: Any, named: list[Point], colours: dict[str, str]) -> None:
    """Write the names beside the panel, as high as their points as far as there is room."""
    low, high = axis.get_ylim()
    gap = (high - low) / 17
    heights = [accuracy for _, accuracy, _ in sorted(named, key=lambda point: point[1])]
    for i in range(1, len(heights)):
        heights[i] = max(heights[i], heights[i - 1] + gap)
    over = max(0.0, heights[-1] - high)
    heights[-1] -= over
    for i in range(len(heights) - 2, -1, -1):
        heights[i] = min(heights[i], heights[i + 1] - gap)
    for (x, y, method), height in zip(sorted(named, key=lambda p: p[1]), heights, strict=True):
        axis.annotate(
            SHORT.get(method, COMPARISON[method].name),
            (x, y),
            (1.08, height),
            color=colours[method],
            fontsize=8,
            va="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "shrinkA": 0,
                "relpos": (0, 0.5),
                "color": colours[method],
                "lw": 0.4,
                "alpha": 0.6,
            },
        )


def draw_panel(axis: Any, results: list[Result], noise: str, pruned: float) -> None:
    """One noise: every method, and full training stopped early as a line."""
    named, colours = [], {}
    for group, methods in GROUPS.items():
        colour, marker = STYLES[group]
        found = points(results, noise, methods, pruned)
        if not found:
            continue
        axis.plot(*zip(*[p[:2] for p in found], strict=True), marker, color=colour, ms=5, alpha=0.8)
        best = max(found, key=lambda point: point[1]) if group in BEST_IS_NAMED else None
        named += [point for point in found if point is best or point[2] in NAMED]
        colours.update(dict.fromkeys(methods, colour))
    stopped = [run["accuracy_best_reference"] for run in runs_of(results, noise, "full")]
    axis.axhline(fmean(stopped), color="0.35", lw=0.8, ls="--", zorder=0)
    axis.margins(y=0.08)
    axis.set(title=noise, xlim=(0.2, 1.05))
    axis.title.set_fontsize(10)
    axis.grid(color="0.94")
    axis.set_axisbelow(True)
    name_points(axis, named, colours)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pruned", type=float, default=0.5, help="share of the passes pruned")
    args = parser.parse_args()
    results = [json.loads(line) for line in args.results.read_text().splitlines()]
    figure, axes = plt.subplots(2, 2, figsize=(10, 7.6), sharex=True)
    for axis, noise in zip(axes.flat, NOISES, strict=True):
        draw_panel(axis, results, noise, args.pruned)
    handles = [
        plt.Line2D([], [], color=colour, marker=marker, ls="", label=group)
        for group, (colour, marker) in STYLES.items()
    ]
    handles.append(
        plt.Line2D([], [], color="0.35", ls="--", lw=0.8, label="full training, stopped early")
    )
    figure.legend(handles=handles, loc="lower center", ncols=5, frameon=False, fontsize=8.5)
    figure.supxlabel("sample passes, full training = 1", fontsize=10, y=0.075)
    figure.supylabel("test accuracy, last epoch (%)", fontsize=10)
    figure.subplots_adjust(0.07, 0.14, 0.86, 0.95, wspace=0.45, hspace=0.15)
    figure.savefig(args.out, dpi=120)
    print(args.out)


if __name__ == "__main__":
    main()
