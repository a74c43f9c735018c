"""Turn results into tables: mean and standard deviation over seeds, beside the paper's numbers."""

from statistics import fmean, median, stdev
from typing import Any

from _table.methods import ALL_METHODS
from _table.tasks import Task

Result = dict[str, Any]
Row = tuple[str, ...]

HEADER: Row = (
    "method",
    "seeds",
    "last epoch",
    "best reference loss",
    "passes",
    "seconds",
    "AUROC",
    "wrong among kept",
    "right labels kept",
    "paper",
)
NONE = "-"
STOPPED = "full training, stopped at its best reference loss"
CALIBRATED = "full training, calibrated on the reference at the end"


def mean_and_sd(values: list[float | None], digits: int, sign: str = "") -> str:
    """Format "mean ± sd"; the sd is that of a sample and left out for a single value."""
    known = [value for value in values if value is not None]
    if not known:
        return NONE
    mean = f"{fmean(known):{sign}.{digits}f}"
    return mean if len(known) == 1 else f"{mean} ± {stdev(known):.{digits}f}"


def _mean(values: list[float | None], digits: int, scale: float = 1.0) -> str:
    known = [scale * value for value in values if value is not None]
    return f"{fmean(known):.{digits}f}" if known else NONE


def _percent(values: list[float | None]) -> str:
    mean = _mean(values, 0, 100)
    return mean if mean == NONE else f"{mean} %"


def _median(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{median(known):.0f}" if known else NONE


def runs_of(
    results: list[Result], noise: str, method: str, pruned: float | None = None
) -> list[Result]:
    """Pick the runs of one cell."""
    wanted = (noise, method, pruned)
    return [
        result
        for result in results
        for config in [result["config"]]
        if (config["noise"], config["method"], config.get("pruned")) == wanted
    ]


def cells(results: list[Result]) -> list[tuple[str, float | None]]:
    """List the methods, and the shares that they are to prune, in the order of a table."""
    found = {(r["config"]["method"], r["config"].get("pruned")) for r in results}
    order = list(ALL_METHODS)
    return sorted(found, key=lambda cell: (order.index(cell[0]), cell[1] or 0))


def name_of(method: str, pruned: float | None) -> str:
    """Say what a row is called."""
    share = "" if pruned is None else f", {100 * pruned:g} % pruned"
    return ALL_METHODS[method].name + share


def _passes(runs: list[Result]) -> str:
    """Mean passes of the training, and those of a warm-up before it."""
    warmup = [run.get("warmup_passes") for run in runs]
    before = f" + {_mean(warmup, 2)}" if any(warmup) else ""
    return _mean([run["passes"] for run in runs], 2) + before


def _row(task: Task, noise: str, method: str, pruned: float | None, runs: list[Result]) -> Row:
    def column(name: str) -> list[float | None]:
        return [run[name] for run in runs]

    paper = task.paper.get(method, {}).get(noise) if pruned is None else None
    return (
        name_of(method, pruned),
        str(len(runs)),
        mean_and_sd(column("accuracy_last"), 1),
        mean_and_sd(column("accuracy_best_reference"), 1),
        _passes(runs),
        _median(column("seconds")),
        mean_and_sd(column("auroc"), 2),
        _percent(column("wrong_among_kept")),
        _percent(column("right_kept")),
        NONE if paper is None else f"{paper:.1f}",
    )


def _stopped_row(runs: list[Result]) -> Row:
    """Full training again, ended at the epoch of its lowest reference loss, found in hindsight."""
    epochs = runs[0]["config"]["recipe"]["epochs"]
    accuracy = mean_and_sd([run["accuracy_best_reference"] for run in runs], 1)
    passes = _mean([(run["best_reference_epoch"] + 1) / epochs for run in runs], 2)
    return (STOPPED, str(len(runs)), accuracy, accuracy, passes, *[NONE] * (len(HEADER) - 5))


def _calibrated_row(runs: list[Result]) -> Row:
    """Full training again, its logits corrected at test time by the reference set."""
    accuracy = mean_and_sd([run.get("accuracy_calibrated") for run in runs], 1)
    blank = [NONE] * (len(HEADER) - 5)
    return (CALIBRATED, str(len(runs)), accuracy, NONE, "1.00", *blank)


def rows_by_noise(task: Task, results: list[Result]) -> dict[str, list[Row]]:
    """Make one table per noise, in the order of the task; cells without runs are left out."""
    tables: dict[str, list[Row]] = {}
    for noise in task.noises:
        rows = []
        for method, pruned in cells(results):
            runs = runs_of(results, noise, method, pruned)
            if runs:
                rows.append(_row(task, noise, method, pruned, runs))
            if runs and method == "full":
                rows.append(_stopped_row(runs))
                if any(run.get("accuracy_calibrated") is not None for run in runs):
                    rows.append(_calibrated_row(runs))
        if rows:
            tables[noise] = rows
    return tables


def overview(task: Task, results: list[Result]) -> list[Row]:
    """Put every noise side by side: the last epoch's accuracy and, in brackets, the passes."""
    tables = rows_by_noise(task, results)
    by_method: dict[str, dict[str, str]] = {}
    for noise, rows in tables.items():
        for row in rows:
            by_method.setdefault(row[0], {})[noise] = f"{row[2]} ({row[4]})"
    body = [
        (name, *(cells.get(noise, NONE) for noise in tables)) for name, cells in by_method.items()
    ]
    return [("last epoch (passes)", *tables), *body]


def differences(task: Task, results: list[Result], base: str) -> list[Row]:
    """Compare the last epoch with full training of the same seed.

    Args:
        task: The table.
        results: Its runs.
        base: ``"accuracy_last"`` for full training, ``"accuracy_best_reference"`` for full
            training stopped at its best reference loss.

    Returns:
        A header and a row per method: the mean gain here, and in brackets the paper's.
    """
    noises = [noise for noise in task.noises if runs_of(results, noise, "full")]
    rows: list[Row] = []
    for method, pruned in cells(results):
        gains = [_difference(task, results, noise, (method, pruned), base) for noise in noises]
        if method != "full" and any(gain != NONE for gain in gains):
            rows.append((name_of(method, pruned), *gains))
    return [("method", *noises), *rows]


def _difference(
    task: Task, results: list[Result], noise: str, cell: tuple[str, float | None], base: str
) -> str:
    full = {r["config"]["seed"]: r[base] for r in runs_of(results, noise, "full")}
    gains: list[float | None] = [
        r["accuracy_last"] - full[r["config"]["seed"]]
        for r in runs_of(results, noise, *cell)
        if r["config"]["seed"] in full
    ]
    method, pruned = cell
    paper = task.paper.get(method, {}).get(noise) if pruned is None else None
    paper_base = task.paper.get("full", {}).get(noise)
    is_compared = gains and base == "accuracy_last" and paper is not None
    theirs = f" ({paper - paper_base:+.1f})" if is_compared and paper_base is not None else ""
    return mean_and_sd(gains, 1, sign="+") + theirs


def text(task: Task, results: list[Result]) -> str:
    """Format for a terminal."""
    blocks = []
    for noise, rows in rows_by_noise(task, results).items():
        lines = [HEADER, *rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(HEADER))]
        body = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in lines]
        blocks.append("\n".join([f"\n{task.name}, {noise}", *(line.rstrip() for line in body)]))
    return "\n".join([*blocks, "", task.paper_note])


def pipes(lines: list[Row]) -> str:
    """Format rows, the header first, as a Markdown table."""
    rule = "|---|" + "---:|" * (len(lines[0]) - 1)
    written = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([written[0], rule, *written[1:]])


def markdown(task: Task, results: list[Result]) -> str:
    """Format for a page: a table per noise, and the gains over full training."""
    parts = [] if not results else [f"### Overview\n\n{pipes(overview(task, results))}"]
    parts += [
        f"### {noise[0].upper()}{noise[1:]}\n\n{pipes([HEADER, *rows])}"
        for noise, rows in rows_by_noise(task, results).items()
    ]
    for base, title, paper in (
        ("accuracy_last", "full training", " (in brackets: the paper's)"),
        ("accuracy_best_reference", STOPPED, ""),
    ):
        compared = differences(task, results, base)
        if len(compared) > 1:
            intro = f"Last epoch minus {title}, same seed{paper}:"
            parts.append(f"### Gain over {title}\n\n{intro}\n\n{pipes(compared)}")
    return "\n\n".join([*parts, task.paper_note]) + "\n"
