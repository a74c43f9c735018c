"""`LabelIssues`: every label that a run has looked at, the most suspicious first."""

import csv
import math
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_alignprune._extras import require
from lightning_alignprune.audit.findings import Findings
from lightning_alignprune.functional.label_audit import (
    Judgement,
    class_matrix,
    most_suspicious_first,
    two_point_distribution,
)

_WAYS = (
    'Train with score="LabelPosterior", signal="LabelOdds" and a clean reference, which gives '
    'probabilities, or without a reference with score="TimeAverage", signal="WrongEvents". '
    "policy=InfoBatch(0.0) prunes nothing and only watches."
)


class LabelIssues:
    """A table of all samples, the most suspicious first, and what it adds up to.

    Made by ``DynamicPruningCallback.label_issues()`` and by :func:`label_issues`.

    Attributes:
        columns: The table as plain lists, one entry per sample: ``index`` in the data set,
            ``given_label``, ``suggested_label`` (the likeliest other class),
            ``label_quality`` in [0, 1] (high = right), ``probability_right`` (the same where the
            score gives a probability, else None), ``is_issue``, ``kept``, ``cut_since`` (the first
            epoch of those from which the sample was left out, None where it is kept) and
            ``loss_epoch_E`` for a few epochs E. None where nothing is known.
        matrix: Shape (C, C), int64. Row j, column k: samples given as j and taken for k; what is
            no issue is taken for what it is given as.
        noise_share: Estimated share of wrong labels; NaN where the score makes no estimate.
        standard_error: Of the share; NaN if unknown. It covers chance, not memorisation.
        threshold: The label quality below which a label is an issue.
        score: Class name of the score that judged.

    Legend: ``N`` samples, ``C`` classes.
    """

    def __init__(self, findings: Findings, judged: Judgement) -> None:
        samples = findings.samples
        assert samples is not None, "a score that judges labels has notes of them"
        self.score = findings.made_by["score"]
        self.noise_share, self.standard_error = judged.noise_share, judged.standard_error
        self.threshold = judged.threshold
        self._given, self._suggested = samples["given"], samples["suggested"]
        self._quality = torch.where(self._given < 0, torch.nan, judged.quality)
        self._is_issue = judged.is_issue & (self._given >= 0)
        self.num_classes = 1 + int(torch.maximum(self._given, self._suggested).max())
        taken = torch.where(self._is_issue, self._suggested, self._given)
        self.matrix = class_matrix(self._given, taken, self.num_classes)
        self._losses = findings.losses
        self.order = most_suspicious_first(self._quality, _mean_of(self._losses, self._quality))
        self.columns = self._columns(findings.kept, samples["cut_since"], judged.is_probability)

    def _columns(self, kept: Tensor, cut_since: Tensor, is_probability: bool) -> dict[str, Any]:
        order = self.order
        quality = _optional(self._quality[order])
        columns = {
            "index": order.tolist(),
            "given_label": _labels(self._given[order]),
            "suggested_label": _labels(self._suggested[order]),
            "label_quality": quality,
            "probability_right": quality if is_probability else [None] * len(order),
            "is_issue": self._is_issue[order].tolist(),
            "kept": kept[order].tolist(),
            "cut_since": _labels(cut_since[order]),
        }
        for epoch, row in self._losses.items():
            columns[f"loss_epoch_{epoch}"] = _optional(row[order])
        return columns

    def __len__(self) -> int:
        """How many samples there are; :attr:`num_issues` are issues."""
        return len(self.order)

    @property
    def num_issues(self) -> int:
        """How many labels count as wrong."""
        return int(self._is_issue.sum())

    @property
    def table(self) -> Any:
        """The table: a pandas ``DataFrame`` where pandas is installed, else :attr:`columns`."""
        try:
            return import_module("pandas").DataFrame(self.columns).convert_dtypes()
        except ModuleNotFoundError:
            return self.columns

    # ---- in the order of the data set, for other tools ----------------------------------------

    @property
    def labels(self) -> np.ndarray[Any, Any]:
        """The given labels in the data set's order, shape (N,), int64; -1 where none was seen."""
        given: np.ndarray[Any, Any] = self._given.long().numpy()
        return given

    @property
    def label_quality(self) -> np.ndarray[Any, Any]:
        """The label quality in the data set's order, shape (N,), float32; NaN where unknown."""
        quality: np.ndarray[Any, Any] = self._quality.numpy()
        return quality

    @property
    def is_issue(self) -> np.ndarray[Any, Any]:
        """Which labels count as wrong, in the data set's order, shape (N,), bool."""
        is_issue: np.ndarray[Any, Any] = self._is_issue.numpy()
        return is_issue

    def pred_probs(self) -> np.ndarray[Any, Any]:
        """Return class probabilities in the data set's order, shape (N, C), float32.

        The label quality stands at the given label and the rest at the suggested one: all that a
        run keeps of a sample's prediction. For tools that take ``pred_probs``, such as cleanlab's
        ``Datalab``.
        """
        return two_point_distribution(
            self._given, self._suggested, self._quality, self.num_classes
        ).numpy()

    # ---- in words and files -------------------------------------------------------------------

    def __str__(self) -> str:
        lines = [f"{self.num_issues} of {len(self)} labels look wrong (by {self.score})."]
        if not math.isnan(self.noise_share):
            error = self.standard_error
            spread = "" if math.isnan(error) else f" ± {2 * error:.1%}"
            lines.append(f"Estimated share of wrong labels: {self.noise_share:.1%}{spread}.")
        worst = self.confusions(3)
        if worst:
            named = ", ".join(f"{j} -> {k} ({count})" for j, k, count in worst)
            lines.append(f"Most frequent, given -> suggested: {named}.")
        return "\n".join(lines)

    def confusions(self, most: int) -> list[tuple[int, int, int]]:
        """Return the most frequent pairs of given and suggested label among the issues.

        Args:
            most: How many at most.

        Returns:
            Given label, suggested label, how many issues.
        """
        off = self.matrix.clone().fill_diagonal_(0).flatten()
        top = off.topk(min(most, len(off)))
        cells = zip(top.values.tolist(), top.indices.tolist(), strict=True)
        return [(*divmod(cell, self.num_classes), count) for count, cell in cells if count]

    def to_csv(self, path: str | Path) -> None:
        """Write the table to a CSV file; what is unknown is left empty."""
        with Path(path).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(self.columns)
            writer.writerows(zip(*map(_printable, self.columns.values()), strict=True))

    def to_parquet(self, path: str | Path) -> None:
        """Write the table to a Parquet file.

        Raises:
            ModuleNotFoundError: If pandas is not installed.
        """
        require("pandas", "report", "LabelIssues.to_parquet")
        self.table.to_parquet(path)

    def save(self, path: str | Path) -> None:
        """Write the table to a file of the kind that its name says, ``.csv`` or ``.parquet``.

        Raises:
            ValueError: If the name ends otherwise.
        """
        kinds = {".csv": self.to_csv, ".parquet": self.to_parquet}
        write = kinds.get(Path(path).suffix.lower())
        if write is None:
            raise ValueError(
                f"LabelIssues.save: expected a file name that ends in {' or '.join(kinds)}, got "
                f"{str(path)!r}. CSV needs nothing installed."
            )
        write(path)


def label_issues(findings: Findings) -> LabelIssues:
    """Judge the labels of a run.

    Args:
        findings: What the run found; see :func:`read_checkpoint`.

    Returns:
        The table of all samples.

    Raises:
        ValueError: If its score judges no labels, or no label was seen.
    """
    by = findings.made_by
    if findings.meaning is None:
        raise ValueError(
            f"label_issues: expected a score that tells wrong labels from hard samples, got "
            f"{by['score']} on {by['signal']}. {_WAYS}"
        )
    judged = findings.judgement()
    if judged is None or findings.samples is None:
        raise ValueError("label_issues: expected a finished epoch, got none. Train one or more.")
    if not bool((findings.samples["given"] >= 0).any()):
        raise ValueError(
            "label_issues: expected a classification loss with class indices in each step, got "
            f"none that {by['signal']} could read. Labels of another kind cannot be audited; where "
            f"they are classes: {_WAYS}"
        )
    return LabelIssues(findings, judged)


def _mean_of(losses: dict[int, Tensor], like: Tensor) -> Tensor:
    return torch.stack(list(losses.values())).nanmean(0) if losses else like * math.nan


def _labels(values: Tensor) -> list[int | None]:
    return [value if value >= 0 else None for value in values.tolist()]


def _optional(values: Tensor) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values.tolist()]


def _printable(values: Sequence[Any]) -> list[Any]:
    return [round(v, 6) if isinstance(v, float) else v for v in values]
