"""What ``alignprune audit`` and ``alignprune report`` do with a checkpoint."""

from pathlib import Path

from lightning.pytorch import LightningDataModule

from lightning_alignprune.audit.findings import read_checkpoint
from lightning_alignprune.audit.issues import LabelIssues, label_issues
from lightning_alignprune.audit.report import write_report

_SHOWN = ("index", "given_label", "suggested_label", "label_quality", "cut_since")


def audit_checkpoint(
    checkpoint: str, out: str | None = None, show: int = 10, weights_only: bool = True
) -> str:
    """Say which labels look wrong to the run that wrote a checkpoint.

    Args:
        checkpoint: A checkpoint of a run with a DynamicPruningCallback.
        out: File for the table of all samples, the most suspicious first: .csv or .parquet.
        show: How many of the most suspicious samples are listed.
        weights_only: Load tensors and plain values only; false for a checkpoint of your own that
            holds other objects.

    Raises:
        ValueError: If the checkpoint cannot be read or its score judges no labels.
    """
    issues = label_issues(read_checkpoint(checkpoint, weights_only))
    lines = [str(issues), *_listed(issues, min(show, issues.num_issues))]
    if out is not None:
        issues.save(out)
        lines.append(f"All {len(issues)} samples, the most suspicious first: {out}")
    return "\n".join(lines)


def _listed(issues: LabelIssues, count: int) -> list[str]:
    if not count:
        return []
    rows = [_SHOWN] + [
        tuple(_text(issues.columns[name][row]) for name in _SHOWN) for row in range(count)
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.rjust, row, widths)) for row in rows]


def _text(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def report_checkpoint(
    checkpoint: str,
    out: str = "report.html",
    data: LightningDataModule | None = None,
    weights_only: bool = True,
) -> str:
    """Write one HTML page about the run that wrote a checkpoint.

    Args:
        checkpoint: A checkpoint of a run with a DynamicPruningCallback.
        out: Where the page goes.
        data: The run's data module, for pictures or texts of the most suspicious samples.
        weights_only: As for ``alignprune audit``.

    Raises:
        ValueError: If the checkpoint cannot be read or the data are not those of the run.
    """
    findings = read_checkpoint(checkpoint, weights_only)
    dataset = None
    if data is not None:
        data.prepare_data()
        data.setup("fit")
        dataset = data.train_dataloader().dataset
    written = write_report(findings, Path(out), dataset)
    return f"Written to {written}: open it in a browser."
