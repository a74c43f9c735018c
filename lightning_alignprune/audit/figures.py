"""Figures of a run, for notebooks and for the report; they need matplotlib and are not shown."""

import math
from typing import Any

import torch
from torch import Tensor

from lightning_alignprune._extras import require
from lightning_alignprune.audit.findings import Findings

# Colours that read on white and on black, and for those who do not tell red from green.
KEPT, CUT, REFERENCE = "#3b82c4", "#d9772b", "#7a8a99"
_SIZE = (5.2, 3.2)
_NUM_BINS = 50
_QUARTILES = torch.tensor([0.25, 0.5, 0.75])
_LEAST_SHOWN = 0.1  # of a group: the few that came back for an epoch do not stand for all


def _axes(title: str, x: str, y: str) -> tuple[Any, Any]:
    figure = require("matplotlib.figure", "report", "the figures of a run").Figure(
        figsize=_SIZE, layout="constrained"
    )
    axes = figure.subplots()
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def plot_schedule(findings: Findings) -> Any:
    """Draw what each epoch was to train on, in share of the samples.

    Args:
        findings: What the run found.

    Returns:
        A matplotlib figure: one bar per epoch, its part that was not trained above it.
    """
    figure, axes = _axes("What each epoch trained on", "epoch", "share of the samples")
    records = findings.record.epochs
    epochs, shares = [e.epoch for e in records], [e.kept_fraction for e in records]
    axes.bar(epochs, shares, width=0.85, color=KEPT, label="trained")
    left_out = [1 - share for share in shares]
    axes.bar(epochs, left_out, width=0.85, bottom=shares, color=CUT, alpha=0.35, label="left out")
    axes.set_ylim(0, 1)
    _whole_epochs(axes)
    _add_legend(axes)
    return figure


def plot_trajectories(findings: Findings) -> Any:
    """Draw the losses of the samples that are kept, those that are cut, and the reference.

    Args:
        findings: What the run found. Where it kept no history, the epochs are those few whose
            losses the audit keeps, or the last ones that the score looks at.

    Returns:
        A matplotlib figure: medians, with the middle half of the samples as a band.
    """
    rows, unit = _rows(findings)
    figure, axes = _axes("How the losses went", "epoch", unit)
    groups = [("kept", findings.kept, KEPT), ("cut", ~findings.kept, CUT)]
    for name, group, colour in groups:
        if bool(group.any()):
            _draw_group(axes, rows, group, f"{name} ({int(group.sum()):,})", colour)
    found = [(e.epoch, e.reference_loss) for e in findings.record.epochs]
    found = [(epoch, loss) for epoch, loss in found if not math.isnan(loss)]
    if found:
        axes.plot(*zip(*found, strict=True), color=REFERENCE, linestyle="--", label="reference")
    _whole_epochs(axes)
    _add_legend(axes)
    return figure


def _rows(findings: Findings) -> tuple[dict[int, Tensor], str]:
    """Return what is drawn, by epoch, and its unit: losses where they are known."""
    losses = findings.losses
    if findings.made_by["signal"] in ("SampleLoss", "BatchLoss") and len(findings.rows) > len(
        losses
    ):
        return findings.rows, "loss"
    return (losses, "loss") if losses else (findings.rows, "recorded value")


def _draw_group(axes: Any, rows: dict[int, Tensor], group: Tensor, label: str, colour: str) -> None:
    points = []
    for epoch, row in sorted(rows.items()):
        values = row[group]
        values = values[values.isfinite()]
        if len(values) >= max(1, _LEAST_SHOWN * int(group.sum())):
            quartiles = torch.quantile(values[:: 1 + len(values) // 100_000], _QUARTILES)
            points.append((epoch, *quartiles.tolist()))
    if not points:
        return
    epochs, low, middle, high = zip(*points, strict=True)
    axes.fill_between(epochs, low, high, color=colour, alpha=0.2, linewidth=0)
    axes.plot(epochs, middle, color=colour, marker="o", markersize=3, label=label)


def plot_scores(findings: Findings) -> Any:
    """Draw the spread of the scores of kept and cut samples, and where labels count as wrong.

    Args:
        findings: What the run found.

    Returns:
        A matplotlib figure: a histogram of the label quality where the score judges labels, of the
        score itself where it does not; the cut of labels as a line.
    """
    judged = findings.judgement()
    values = findings.scores if judged is None else judged.quality
    name = findings.made_by["score"]
    title = f"Scores ({name})" if judged is None else f"How right the labels look ({name})"
    x = "score, high = keep" if judged is None else "label quality, high = right"
    if judged is not None and judged.is_probability:
        x = "probability that the label is right"
    figure, axes = _axes(title, x, "samples")
    known = torch.zeros_like(findings.kept) if values is None else values.isfinite()
    if values is None or not bool(known.any()):
        text = "No score stood out: nothing was judged."
        axes.text(0.5, 0.5, text, ha="center", transform=axes.transAxes)
        return figure
    parts = [(values[known & group]) for group in (findings.kept, ~findings.kept)]
    labels = [f"{n} ({len(p):,})" for n, p in zip(("kept", "cut"), parts, strict=True)]
    spread = None if judged is None else (0.0, 1.0)
    axes.hist(
        [part.numpy() for part in parts],
        bins=_NUM_BINS,
        range=spread,
        stacked=True,
        color=[KEPT, CUT],
        label=labels,
    )
    axes.set_yscale("symlog", linthresh=10)
    if judged is not None and not math.isnan(judged.threshold):
        axes.axvline(judged.threshold, color=REFERENCE, linestyle="--", label="issues lie left")
    _add_legend(axes)
    return figure


def _whole_epochs(axes: Any) -> None:
    ticker = require("matplotlib.ticker", "report", "the figures of a run")
    axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))


def _add_legend(axes: Any) -> None:
    handles, _ = axes.get_legend_handles_labels()
    if handles:
        axes.figure.legend(loc="outside lower center", ncols=len(handles), frameon=False)
