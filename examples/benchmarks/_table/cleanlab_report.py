"""The tables of `audit_against_cleanlab.py`: one row a method, one column a noise."""

from collections.abc import Callable
from statistics import fmean

from _table.report import NONE, Result, Row, pipes

METHODS = {
    "audit": "audit, {num_clean:,} clean samples",
    "audit_few": "audit, {few} clean samples",
    "audit_without": "audit without clean samples",
    "cleanlab": "cleanlab",
    "cleanlab_with": "cleanlab, {num_clean:,} clean samples too",
}
"""Key of each row, and its name."""


def tables(results: list[Result]) -> str:
    """Format what was said of the labels and what it took.

    Args:
        results: The runs of `audit_against_cleanlab.py`; those of one noise are averaged.
    """
    results = sorted(results, key=lambda run: run["noise_rate"] > 0)  # clean labels first
    noisy = [run for run in results if run["noise_rate"]]
    parts = [
        ("Precision / recall at each tool's own threshold, in percent", noisy, _threshold),
        ("AUROC of the label quality, wrong against right labels", noisy, _auroc),
        ("Right labels called issues, in percent", results, _right_called_issue),
        ("CPU seconds on one thread", results, _seconds),
    ]
    return "\n\n".join(f"**{title}**\n\n{_table(runs, cell)}" for title, runs, cell in parts)


def _table(results: list[Result], cell: Callable[[list[Result]], str]) -> str:
    columns = list(dict.fromkeys(map(_column, results)))
    rows: list[Row] = [("", *columns)]
    for method, name in METHODS.items():
        runs = [run for run in results if run["config"]["method"] == method]
        of_noise = ([run for run in runs if _column(run) == column] for column in columns)
        rows.append((name.format(**runs[0]), *map(cell, of_noise)))
    return pipes(rows)


def _column(run: Result) -> str:
    task = {"news": "texts", "cifar10n": "images"}[run["config"]["table"]]
    return f"{task}, {run['config']['noise']}"


def _threshold(runs: list[Result]) -> str:
    return f"{_mean(runs, 'precision', 0, 100)} / {_mean(runs, 'recall', 0, 100)}"


def _auroc(runs: list[Result]) -> str:
    return _mean(runs, "auroc", 2)


def _right_called_issue(runs: list[Result]) -> str:
    return _mean(runs, "right_called_issue", 1, 100)


def _seconds(runs: list[Result]) -> str:
    return _mean(runs, "cpu_seconds", 0)


def _mean(runs: list[Result], key: str, digits: int, scale: float = 1.0) -> str:
    known = [scale * run[key] for run in runs if run[key] is not None]
    return f"{fmean(known):.{digits}f}" if known else NONE
