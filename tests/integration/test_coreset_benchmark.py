"""The benchmark of the coreset methods, on small sets: it runs and writes what it measured."""

import importlib
import json
import sys
from pathlib import Path

from lightning_alignprune.coreset import CORESETS
from tests.integration.forked import from_server

BENCHMARKS = Path(__file__).parents[2] / "examples" / "benchmarks"


def test_every_method_is_measured(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    script, out = importlib.import_module("coreset_scores"), tmp_path / "scores.json"
    few = ["--samples", "600", "--classes", "5", "--size", "8", "--methods", "DUAL", "Prune4ReL"]
    monkeypatch.setattr(script, "get_context", lambda _: from_server)
    monkeypatch.setattr(sys, "argv", ["coreset_scores.py", *few, "--out", str(out)])
    script.main()
    written = json.loads(out.read_text())
    assert set(written["600"]) == {"DUAL", "Prune4ReL"}
    assert all(result["cpu_seconds"] > 0 for result in written["600"].values())
    assert set(written["microseconds per batch"]) == {"Margin", "EL2N", "GraNd"}
    # SmallLoss stands for all whose choice is by a number of the pass.
    measured = {type(method) for method in script.METHODS.values()}
    by_a_number = {CORESETS[name] for name in ("SmallMargin", "EL2N", "GraNd")}
    assert measured | by_a_number == set(CORESETS.values())
