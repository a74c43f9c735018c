"""What did a run find? Which labels look wrong, what was pruned when, and a page to look at."""

from lightning_alignprune.audit.figures import plot_schedule, plot_scores, plot_trajectories
from lightning_alignprune.audit.findings import Findings, read_checkpoint
from lightning_alignprune.audit.issues import LabelIssues, label_issues
from lightning_alignprune.audit.report import write_report

__all__ = [
    "Findings",
    "LabelIssues",
    "label_issues",
    "plot_schedule",
    "plot_scores",
    "plot_trajectories",
    "read_checkpoint",
    "write_report",
]
