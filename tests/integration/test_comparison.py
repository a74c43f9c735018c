"""The tables and the figure of the comparison, from made results with known ranks."""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "examples" / "benchmarks"
pytestmark = pytest.mark.filterwarnings("ignore:An input array is constant")


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("_table.comparison_report")


def made(
    method: str, accuracy: float, noise: str = "clean", seed: int = 0, **numbers: float
) -> dict[str, Any]:
    """Return what one run leaves, as far as the report looks at it."""
    config = {"noise": noise, "method": method, "seed": seed}
    if method not in ("full", "robust", "oracle"):
        config["pruned"] = 0.5
    known = {"passes": 0.5, "auroc": None, "wrong_among_kept": None, "right_kept": None}
    best = {"accuracy_last": accuracy, "accuracy_best_reference": accuracy + 1}
    return {"config": config, **known, **best, **numbers}


def rows_of(table: str) -> dict[str, list[str]]:
    lines = [line.strip("| ").split(" | ") for line in table.splitlines()]
    return {name: cells for name, *cells in lines}


def test_ranks_are_among_the_methods_that_both_have(report: Any) -> None:
    # On clean labels the paper has InfoBatch 77.7, a random subset 72.1, SmallL 65.8.
    results = [made("infobatch", 50), made("static_random", 60), made("small_loss", 40)]
    rows = rows_of(report.ranks_table([*results, made("rs2", 90)], 0.5))
    assert rows["InfoBatch"] == ["1 / 2", "-", "-", "-"]
    assert rows["random subset"][0] == "2 / 1"
    assert rows["SmallL"][0] == "3 / 3"
    assert rows["*agreement (Spearman)*"] == ["+0.50", "-", "-", "-"]
    assert "RS2" not in rows


def test_means_passes_and_warm_up(report: Any) -> None:
    results = [
        made("full", 60, passes=1.0),
        made("el2n", 50, warmup_passes=0.2),
        made("el2n", 54, warmup_passes=0.2, seed=1),
        made("el2n", 30, noise="symmetric 0.5", warmup_passes=0.2),
    ]
    rows = rows_of(report.comparison_table(results, 0.5, "accuracy_last"))
    assert rows["full training"][:2] == ["1.00", "60.0"]
    assert rows["EL2N"] == ["0.50 + 0.20", "52.0 ± 2.8", "-", "30.0", "-"]
    assert list(rows)[2:4] == ["**all samples**", "full training"]
    stopped = rows_of(report.comparison_table(results, 0.5, "accuracy_best_reference"))
    assert stopped["full training"][1] == "61.0"


def test_at_one_noise_accuracies_and_what_was_made_of_the_labels(report: Any) -> None:
    results = [
        made("full", 60, "worse", passes=1.0, wrong_among_kept=0.4),
        made("el2n", 50, "worse", warmup_passes=0.2, wrong_among_kept=0.6),
        made("el2n", 90, "aggre"),
        made("robust", 62, "worse", auroc=0.9, wrong_among_kept=0.1),
    ]
    rows = rows_of(report.one_noise_table(results, "worse", 0.5))
    assert rows["full training"] == ["1.00", "60.0", "61.0", "-", "40 %"]
    assert rows["EL2N"] == ["0.50 + 0.20", "50.0", "51.0", "-", "60 %"]
    assert rows["robust preset"][-2:] == ["0.90", "10 %"]
    assert "**within a batch**" not in rows


def test_gains_are_over_full_training_of_equal_length_and_the_same_seed(report: Any) -> None:
    results = [
        made("equal_length", 40, "symmetric 0.5"),
        made("equal_length", 50, "symmetric 0.5", seed=1),
        made("alignprune", 43, "symmetric 0.5", auroc=0.6, wrong_among_kept=0.4),
        made("alignprune", 51, "symmetric 0.5", seed=1, auroc=0.7, wrong_among_kept=0.5),
        made("alignprune", 99, "symmetric 0.5", seed=2),
    ]
    rows = rows_of(report.parts_table(results, 0.5))
    cells = rows["AlignPrune on InfoBatch, paper's settings"]
    assert cells == ["-", "-", "+2.0 ± 1.4", "-", "0.65 ± 0.07", "45 %"]


def test_every_row_has_a_group_and_a_place_in_the_figure(
    report: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    figure = importlib.import_module("comparison_figure")
    grouped = [method for group in report.GROUPS.values() for method in group]
    assert sorted(grouped) == sorted(report.COMPARISON)
    assert set(figure.STYLES) == set(report.GROUPS)
    results = [
        made(method, 50.0 + place, noise)
        for noise in report.NOISES
        for place, method in enumerate(report.COMPARISON)
    ]
    lines, drawn = tmp_path / "runs.jsonl", tmp_path / "figure.png"
    for result in results:
        if not report.COMPARISON[result["config"]["method"]].can_prune:
            result["config"].pop("pruned", None)
    lines.write_text("".join(json.dumps(result) + "\n" for result in results))
    command = ["comparison_figure.py", "--results", str(lines), "--out", str(drawn)]
    monkeypatch.setattr(sys, "argv", command)
    figure.main()
    assert drawn.stat().st_size > 10_000
