"""Write the tables of README and the pages on results from the runs in docs/results.

    python examples/benchmarks/results_pages.py

A table stands between `<!-- table: <name> -->` and `<!-- end -->`; the text around it is yours.
The runs are those of `run_table.py`, which writes them with `--jsonl`, of `examples/digits.py`,
which writes outputs/digits.json, `robust_digits.py`, `audit_digits.py` and
`audit_against_cleanlab.py`.
"""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import audit_digits
import robust_digits
from _table import cleanlab_report, comparison_report
from _table.methods import ABLATIONS
from _table.preset_report import Column, preset_table
from _table.report import markdown, pipes
from _table.tasks import CIFAR10N, CIFAR10N_AUGMENTED, FASHION, NEWS, Task

DOCS = Path(__file__).parents[2] / "docs"
RESULTS = ("comparison.md", "results_news.md", "results_cifar10n.md", "robust.md", "ranks.md")
PAGES = ("../README.md", "audit.md", *RESULTS)
sys.path.append(str(Path(__file__).parents[1]))
NOISES = (
    "clean",
    "symmetric 0.2",
    "symmetric 0.5",
    "symmetric 0.8",
    "pairflip 0.2",
    "pairflip 0.45",
)
PLACE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def read(name: str) -> list[dict[str, Any]]:
    lines = (DOCS / "results" / f"{name}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def _all(task: Task, name: str) -> str:
    kept = [run for run in read(name) if run["config"]["method"] not in ABLATIONS]
    return markdown(task, kept)


def _ranks(name: str) -> str:
    results = read(name)
    return preset_table([(noise, results, noise) for noise in NOISES], "ranks")


def _preset() -> str:
    """The preset's own runs beside those of the page on ranks."""
    results = [*read("robust_news"), *read("news_lr_0.01")]
    return preset_table([(noise, results, noise) for noise in NOISES])


def _fashion() -> str:
    results = read("robust_fashion")
    return preset_table([(noise, results, noise) for noise in FASHION.noises])


def _robust_digits() -> str:
    found = json.loads((DOCS / "results" / "robust_digits.json").read_text())
    return robust_digits.table(found["runs"])


def _images() -> str:
    plain, augmented = read("cifar10n"), read("cifar10n_augmented")
    columns: list[Column] = [
        ("worse", plain, "worse"),
        ("worse, augmented", augmented, "worse"),
        ("random1", plain, "random1"),
        ("aggre", plain, "aggre"),
    ]
    return preset_table(columns, "ranks")


def _digits() -> str:
    from digits import rows  # an example, so a folder above

    return pipes(rows(json.loads((DOCS / "results" / "digits.json").read_text())))


def _against_cleanlab() -> str:
    found = json.loads((DOCS / "results" / "audit_against_cleanlab.json").read_text())
    return cleanlab_report.tables(found["runs"])


def _audit_digits() -> str:
    found = json.loads((DOCS / "results" / "audit_digits.json").read_text())
    return audit_digits.table(found["runs"])


def _compared(table: Callable[..., str], *arguments: Any) -> Callable[[], str]:
    """Make a table of the comparison, half of the passes pruned."""
    return lambda: table(read("comparison_news"), 0.5, *arguments)


def _compared_images() -> str:
    return comparison_report.one_noise_table(read("comparison_cifar10n"), "worse", 0.5)


def _parts_in_full() -> str:
    return comparison_report.parts_table(read("comparison_news_full_length"), None)


TABLES: dict[str, Callable[[], str]] = {
    "digits": _digits,
    "audit_digits": _audit_digits,
    "against_cleanlab": _against_cleanlab,
    "compared": _compared(comparison_report.comparison_table, "accuracy_last"),
    "compared_stopped": _compared(comparison_report.comparison_table, "accuracy_best_reference"),
    "compared_ranks": _compared(comparison_report.ranks_table),
    "compared_images": _compared_images,
    "parts_of_alignprune": _compared(comparison_report.parts_table),
    "parts_in_full": _parts_in_full,
    "news": lambda: _all(NEWS, "news"),
    "news_fast": lambda: _all(NEWS, "news_lr_0.01"),
    "images": lambda: _all(CIFAR10N, "cifar10n"),
    "images_augmented": lambda: _all(CIFAR10N_AUGMENTED, "cifar10n_augmented"),
    "preset": _preset,
    "preset_fashion": _fashion,
    "preset_digits": _robust_digits,
    "ranks": lambda: _ranks("news_lr_0.01"),
    "ranks_200": lambda: _ranks("news_reference_200"),
    "ranks_20": lambda: _ranks("news_reference_20"),
    "ranks_images": _images,
}


def written(page: str) -> str:
    """Return the text of a page with its tables written anew."""
    return PLACE.sub(lambda found: f"{found[1]}\n{TABLES[found[2]]().strip()}\n\n{found[3]}", page)


def main() -> None:
    for name in PAGES:
        path = DOCS / name
        path.write_text(written(path.read_text()))
        print(path)


if __name__ == "__main__":
    main()
