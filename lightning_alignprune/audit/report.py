"""One HTML page about a run, for people who would rather look than read."""

import io
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from lightning_alignprune._extras import require
from lightning_alignprune.audit.exhibits import exhibit_of
from lightning_alignprune.audit.figures import plot_schedule, plot_scores, plot_trajectories
from lightning_alignprune.audit.findings import Findings
from lightning_alignprune.audit.issues import LabelIssues, label_issues

_TEMPLATE = "report.html"
_MOST_CLASSES = 12  # in the matrix; of more classes the most frequent pairs are listed
_MOST_PAIRS = 20
_INK = "#010203"  # what the figures are drawn with, replaced by the page's own colour of text
_NO_METADATA = ("Date", "Creator", "Format", "Type")


def write_report(
    findings: Findings,
    path: str | Path,
    dataset: Any = None,
    class_names: Sequence[str] | None = None,
    num_samples: int = 24,
) -> Path:
    """Write one HTML page that needs nothing beside it: figures, tables, suspicious samples.

    Args:
        findings: What the run found; see :func:`read_checkpoint`.
        path: Where the page goes.
        dataset: The training set, for pictures or texts of the most suspicious samples; None shows
            their numbers only.
        class_names: The classes' names, in the order of their numbers; None shows the numbers.
        num_samples: How many of the most suspicious samples are shown.

    Returns:
        The path.

    Raises:
        ModuleNotFoundError: If Jinja2 or matplotlib is not installed.
        ValueError: If the data set has another length than the run's.
    """
    if dataset is not None and len(dataset) != findings.num_samples:
        raise ValueError(
            f"write_report: expected the {findings.num_samples} training samples, got a dataset of "
            f"{len(dataset)}. Give the one that the train loader held."
        )
    jinja2 = require("jinja2", "report", "write_report")
    source = resources.files(__package__).joinpath(_TEMPLATE).read_text(encoding="utf-8")
    page = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
        source
    )
    issues, why_not = _issues(findings)
    text = page.render(
        made_by=findings.made_by,
        num_samples=findings.num_samples,
        record=findings.record,
        figures=_figures(findings),
        issues=issues,
        why_not=why_not,
        matrix=_matrix(issues, class_names),
        suspects=_suspects(issues, dataset, class_names, num_samples),
        name=lambda label: _name(label, class_names),
        duration=_duration,
        chance=_chance,
    )
    path = Path(path)
    path.write_text(text, encoding="utf-8")
    return path


def _issues(findings: Findings) -> tuple[LabelIssues | None, str]:
    try:
        return label_issues(findings), ""
    except ValueError as error:
        return None, str(error).partition(": ")[2]


def _name(label: int | None, class_names: Sequence[str] | None) -> str:
    if label is None:
        return "unknown"
    is_named = class_names is not None and label < len(class_names)
    return str(class_names[label]) if is_named else str(label)  # type: ignore[index]


def _matrix(issues: LabelIssues | None, class_names: Sequence[str] | None) -> dict[str, Any]:
    if issues is None:
        return {}
    names = [_name(label, class_names) for label in range(issues.num_classes)]
    pairs = [(names[j], names[k], count) for j, k, count in issues.confusions(_MOST_PAIRS)]
    is_small = issues.num_classes <= _MOST_CLASSES
    most = int(issues.matrix.clone().fill_diagonal_(0).max()) or 1
    return {
        "names": names,
        "is_named": class_names is not None,
        "rows": issues.matrix.tolist() if is_small else [],
        "pairs": pairs,
        "most": most,
    }


def _suspects(
    issues: LabelIssues | None, dataset: Any, class_names: Sequence[str] | None, most: int
) -> list[dict[str, Any]]:
    if issues is None:
        return []
    columns = issues.columns
    found = []
    for row in range(min(most, issues.num_issues)):
        index = columns["index"][row]
        shown = None if dataset is None else exhibit_of(dataset, index)
        found.append(
            {
                "index": index,
                "given": _name(columns["given_label"][row], class_names),
                "suggested": _name(columns["suggested_label"][row], class_names),
                "quality": columns["label_quality"][row],
                "cut_since": columns["cut_since"][row],
                "exhibit": shown,
            }
        )
    return found


def _duration(seconds: float | None) -> str:
    """Say how long something took, in the unit in which a person would."""
    if seconds is None:
        return "unknown"
    sign, seconds = "-" if seconds < 0 else "", abs(seconds)
    if seconds < 90:
        return f"{sign}{seconds:.1f} s" if seconds < 10 else f"{sign}{seconds:.0f} s"
    if seconds < 5400:
        return f"{sign}{seconds / 60:.0f} min"
    return f"{sign}{seconds / 3600:.1f} h"


def _chance(quality: float) -> str:
    return "below 0.01" if quality < 0.01 else f"{quality:.2f}"


def _figures(findings: Findings) -> dict[str, str]:
    matplotlib = require("matplotlib", "report", "write_report")
    ink = ("text.color", "axes.labelcolor", "axes.edgecolor", "axes.titlecolor", "xtick.color")
    style = dict.fromkeys((*ink, "ytick.color"), _INK)
    makers = {"schedule": plot_schedule, "trajectories": plot_trajectories, "scores": plot_scores}
    with matplotlib.rc_context({**style, "svg.hashsalt": "alignprune"}):
        return {name: _as_svg(make(findings), name) for name, make in makers.items()}


def _as_svg(figure: Any, name: str) -> str:
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata=dict.fromkeys(_NO_METADATA))
    text = file.getvalue()
    text = text[text.index("<svg") :].replace(_INK, "currentColor")
    # Several figures share a page: their names within must not.
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\1{name}-", text)
    return re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1).replace(
        "<svg ", f'<svg role="img" aria-label="{name}" ', 1
    )
