"""Every example runs, as a reader would run it, on tiny data or for a few epochs."""

import json
import logging
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a file of the folder in an empty one; return what it prints and its names."""
    monkeypatch.chdir(tmp_path)
    log = logging.getLogger("lightning.pytorch")
    level = log.level

    def run_file(name: str, *args: str) -> tuple[str, dict[str, Any]]:
        monkeypatch.setattr(sys, "argv", [name, *args])
        names = runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out, names

    yield run_file
    log.setLevel(level)


def test_the_demo_compares_six_methods_and_early_stopping(run, tmp_path):
    said, names = run("digits.py", "--seeds", "1", "--epochs", "6")
    header, *rows = said.split("\n\n")[1].splitlines()
    for title in ("accuracy", "passes", "seconds", "wrong in kept", "right kept", "AUROC"):
        assert title in header
    assert len(rows) == 7
    assert rows[1].startswith("early stopping")
    assert "±" not in said  # one seed has no spread
    assert all(len(line) <= 80 for line in said.splitlines())
    results = json.loads((tmp_path / "outputs" / "digits.json").read_text())
    (full,), (stopped,) = results["full training"], results["early stopping"]
    assert (full["wrong_among_kept"], full["right_kept"], full["passes"]) == (40, 100, 1)
    assert stopped["seconds"] <= full["seconds"]
    assert "±" in names["table"]({"two": [full, stopped]})
