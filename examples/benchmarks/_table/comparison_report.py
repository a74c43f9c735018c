"""The tables of the comparison: all methods at all noises, and the paper's ranks beside ours."""

from collections.abc import Callable, Sequence
from statistics import fmean

from scipy.stats import rankdata, spearmanr

from _table import comparison
from _table.methods import ALL_METHODS, COMPARISON
from _table.report import NONE, Result, Row, mean_and_sd, pipes, runs_of

Cell = tuple[str, float | None]
"""Method, and the share that it is to prune."""

NOISES = ("clean", "symmetric 0.2", "symmetric 0.5", "pairflip 0.45")
GROUPS = {
    "all samples": ("full", "equal_length", *comparison.AVERAGED),
    "coresets": tuple(comparison.STATIC),
    "within a batch": tuple(comparison.IN_BATCH),
    "every epoch anew": (*comparison.DYNAMIC, "infobatch", "seta"),
    "AlignPrune": ("alignprune", "alignprune_seta", *comparison.PARTS_OF_ALIGNPRUNE),
    "other losses": tuple(comparison.LOSSES),
    "ours": ("ranks", "robust", "robust_pseudo"),
    "who knows": ("oracle",),
}
"""Which rows belong together; "who knows" the wrong labels is no method."""

PAPER = {
    # CIFAR-100N, ResNet-18, 50 % pruned: clean, symmetric 0.2, symmetric 0.5, asymmetric 0.4.
    "full": (78.2, 71.4, 58.6, 63.3),
    "static_random": (72.1, 64.0, 47.2, 54.6),
    "small_loss": (65.8, 64.9, None, 58.8),
    "margin": (71.2, 44.7, 11.0, None),
    "forgetting": (69.8, 68.4, 60.4, 60.7),
    "grand": (64.0, 28.6, 4.1, 18.2),
    "moderate": (68.7, 52.7, 22.3, 41.0),
    "ssp": (70.6, 52.9, 31.1, 47.5),
    "prune4rel": (69.1, 58.2, 32.7, 45.3),
    "dyn_unc": (74.1, 71.4, 61.7, 66.5),
    "dual": (74.6, 71.3, 61.9, 62.9),
    "divbs": (77.1, 63.8, None, 56.7),
    "dynamic_random": (75.3, 70.4, 59.5, 64.8),
    "ies": (75.5, 62.7, 50.2, 54.8),
    "infobatch": (77.7, 71.3, 60.5, 65.2),
    "seta": (77.5, 70.7, 60.0, 64.5),
    "alignprune": (78.5, 71.6, 62.0, 68.6),
    "alignprune_seta": (78.4, 71.2, 61.0, 66.0),
}
"""Tables 1 and B of the AlignPrune paper; None where the number could not be read."""


def cell_of(method: str, pruned: float | None) -> Cell:
    """Say which runs stand for a method at a share; None is the whole length."""
    return method, pruned if ALL_METHODS[method].can_prune else None


def comparison_table(results: list[Result], pruned: float, key: str) -> str:
    """Every method at every noise.

    Args:
        results: The runs.
        pruned: Which share; rows without one are there as they are.
        key: ``"accuracy_last"`` or ``"accuracy_best_reference"``.
    """

    def row(cell: Cell) -> Row:
        by_noise = [runs_of(results, noise, *cell) for noise in NOISES]
        values = [mean_and_sd([run[key] for run in runs], 1) for runs in by_noise]
        return _row(cell, [run for runs in by_noise for run in runs], values)

    return _grouped(("", "passes", *NOISES), row, pruned)


def one_noise_table(results: list[Result], noise: str, pruned: float) -> str:
    """Every method at one noise: accuracies, and what a method made of the labels."""

    def row(cell: Cell) -> Row:
        runs = runs_of(results, noise, *cell)
        keys = ("accuracy_last", "accuracy_best_reference")
        accuracies = [mean_and_sd([run[key] for run in runs], 1) for key in keys]
        wrong = [
            100 * run["wrong_among_kept"] for run in runs if run["wrong_among_kept"] is not None
        ]
        share = f"{fmean(wrong):.0f} %" if wrong else NONE
        return _row(cell, runs, [*accuracies, mean_and_sd([r["auroc"] for r in runs], 2), share])

    titles = ("last epoch", "best reference loss", "AUROC", "wrong among kept")
    return _grouped(("", "passes", *titles), row, pruned)


def _grouped(header: Row, row: Callable[[Cell], Row], pruned: float) -> str:
    rows = [header]
    for group, methods in GROUPS.items():
        body = [row(cell_of(method, pruned)) for method in methods]
        if any(body):
            rows.append((f"**{group}**", *[""] * (len(header) - 1)))
        rows += [found for found in body if found]
    return pipes(rows)


def _row(cell: Cell, runs: list[Result], values: Sequence[str]) -> Row:
    """Return a method's name, passes and values; nothing where it was not run."""
    if not runs:
        return ()
    passes = f"{fmean(run['passes'] for run in runs):.2f}"
    if "warmup_passes" in runs[0]:
        passes += f" + {runs[0]['warmup_passes']:.2f}"
    return (COMPARISON[cell[0]].name, passes, *values)


def ranks_table(results: list[Result], pruned: float) -> str:
    """Rank the methods that both have within each noise, 1 the best: the paper's, then ours."""
    columns = [_ranks(results, pruned, at) for at in range(len(NOISES))]
    rows: list[Row] = [("paper / here", *NOISES)]
    for method in PAPER:
        cells = [_pair(ranks.get(method)) for ranks in columns]
        rows.append((COMPARISON[method].name, *cells))
    agreement = [_agreement(ranks) for ranks in columns]
    return pipes([*rows, ("*agreement (Spearman)*", *agreement)])


def _ranks(results: list[Result], pruned: float, at: int) -> dict[str, tuple[float, float]]:
    """Return the two ranks of each method with both numbers at a noise."""
    pairs = {}
    for method, numbers in PAPER.items():
        runs = runs_of(results, NOISES[at], *cell_of(method, pruned))
        theirs = numbers[at]
        if runs and theirs is not None:
            pairs[method] = theirs, fmean(run["accuracy_last"] for run in runs)
    ranks = [rankdata([-pair[side] for pair in pairs.values()], "min") for side in (0, 1)]
    return dict(zip(pairs, zip(*ranks, strict=True), strict=True))


def _pair(ranks: tuple[float, float] | None) -> str:
    return NONE if ranks is None else f"{ranks[0]:.0f} / {ranks[1]:.0f}"


def _agreement(ranks: dict[str, tuple[float, float]]) -> str:
    if len(ranks) < 3:
        return NONE
    return f"{spearmanr(*zip(*ranks.values(), strict=True)).statistic:+.2f}"


def parts_table(results: list[Result], pruned: float | None) -> str:
    """AlignPrune with one choice changed: gain over full training of equal length, same seeds."""
    rows: list[Row] = [("gain over full training", *NOISES, "AUROC", "wrong kept")]
    for method in ("infobatch", "alignprune", *comparison.PARTS_OF_ALIGNPRUNE, "robust", "oracle"):
        cell = cell_of(method, pruned)
        gains = [_gain(results, noise, cell, pruned) for noise in NOISES]
        if set(gains) == {NONE}:
            continue
        seen = runs_of(results, "symmetric 0.5", *cell)
        auroc = mean_and_sd([run["auroc"] for run in seen], 2)
        wrong = [100 * run["wrong_among_kept"] for run in seen if run["wrong_among_kept"]]
        share = f"{fmean(wrong):.0f} %" if wrong else NONE
        rows.append((COMPARISON[method].name, *gains, auroc, share))
    return pipes(rows)


def _gain(results: list[Result], noise: str, cell: Cell, pruned: float | None) -> str:
    full = "full" if pruned is None else "equal_length"
    base = {
        run["config"]["seed"]: run["accuracy_last"] for run in runs_of(results, noise, full, pruned)
    }
    gains: list[float | None] = [
        run["accuracy_last"] - base[run["config"]["seed"]]
        for run in runs_of(results, noise, *cell)
        if run["config"]["seed"] in base
    ]
    return mean_and_sd(gains, 1, sign="+")
