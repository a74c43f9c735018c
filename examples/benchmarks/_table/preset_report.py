"""The preset's own table: every row at every noise, and how the preset came by its result."""

from statistics import fmean

from _table.methods import ALL_METHODS, AUGMENTED, METHODS
from _table.report import CALIBRATED, NONE, STOPPED, Result, Row, mean_and_sd, pipes, runs_of

Column = tuple[str, list[Result], str]
"""Title, results, noise."""

LEFT_OUT = ("gated_mean",)
"""Rows that one noise alone has."""


def preset_table(columns: list[Column], preset: str = "robust") -> str:
    """Put the columns side by side: accuracy of the last epoch, then what the preset did.

    ``preset`` is its row. Its part of the oracle's gain is taken over the seeds that it, full
    training and the oracle have in common.
    """
    rows: list[Row] = []
    for method, row in METHODS.items():
        name = row.name
        if method not in LEFT_OUT:
            rows.append(_accuracies(f"**{name}**" if method == preset else name, columns, method))
        if method == "full":
            rows.append(_accuracies(STOPPED, columns, method, "accuracy_best_reference"))
            rows.append(_accuracies(CALIBRATED, columns, method, "accuracy_calibrated"))
            rows.append(_accuracies(ALL_METHODS["ema"].name, columns, "ema"))
        if method == preset:
            rows += [_accuracies(row.name, columns, name) for name, row in AUGMENTED.items()]
    rows += [
        ("*passes of the preset*", *(_mean(column, preset, "passes", 2) for column in columns)),
        ("*its part of the oracle's gain over full*", *(_part_of_gain(c, preset) for c in columns)),
        ("*AUROC of its score*", *(_mean(column, preset, "auroc", 2) for column in columns)),
        (
            "*wrong among kept*",
            *(_percent(column, preset, "wrong_among_kept") for column in columns),
        ),
        ("*right labels kept*", *(_percent(column, preset, "right_kept") for column in columns)),
    ]
    header = ("", *(title for title, _, _ in columns))
    return pipes([header, *(row for row in rows if set(row[1:]) != {NONE})])


def _accuracies(name: str, columns: list[Column], method: str, key: str = "accuracy_last") -> Row:
    cells = (
        mean_and_sd([run.get(key) for run in runs_of(results, noise, method)], 1)
        for _, results, noise in columns
    )
    return (name, *cells)


def _values(column: Column, preset: str, key: str) -> list[float]:
    _, results, noise = column
    runs = runs_of(results, noise, preset)
    return [run[key] for run in runs if run[key] is not None]


def _mean(column: Column, preset: str, key: str, digits: int) -> str:
    values = _values(column, preset, key)
    return f"{fmean(values):.{digits}f}" if values else NONE


def _percent(column: Column, preset: str, key: str) -> str:
    values = _values(column, preset, key)
    return f"{100 * fmean(values):.0f} %" if values else NONE


def _part_of_gain(column: Column, preset: str) -> str:
    _, results, noise = column
    by_seed = [
        {run["config"]["seed"]: run["accuracy_last"] for run in runs_of(results, noise, method)}
        for method in ("full", preset, "oracle")
    ]
    seeds = set.intersection(*(set(runs) for runs in by_seed))
    if not seeds:
        return NONE
    full, ours, oracle = (fmean(runs[seed] for seed in seeds) for runs in by_seed)
    return f"{100 * (ours - full) / (oracle - full):.0f} %"
