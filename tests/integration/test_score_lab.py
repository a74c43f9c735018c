"""The lab of scores: one short run recorded, read back and compared."""

import importlib
import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "examples" / "benchmarks"


@pytest.fixture
def lab(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("score_lab")


def test_a_recording_is_made_once_and_compared(lab, monkeypatch, tmp_path, capsys):
    path = tmp_path / "run.pt"
    options = ["--task", "separable", "--noise", "symmetric", "--epochs", "5"]
    options += ["--recording", str(path), "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["score_lab.py", *options])
    lab.main()
    stamp = path.stat().st_mtime_ns
    lab.main()
    assert path.stat().st_mtime_ns == stamp
    found = json.loads((tmp_path / "separable_symmetric_0.4.json").read_text())
    assert (tmp_path / "separable_symmetric_0.4.png").stat().st_size > 10_000
    assert found["true_share"] == pytest.approx(0.4, abs=0.01)
    assert found["epochs"][0]["auroc"]["label posterior"] is None
    assert found["epochs"][-1]["auroc"]["label posterior"] > 0.95
    assert found["epochs"][-1]["auroc"]["calibrated margin"] > 0.95
    rule = found["cuts"][-1]["rules"]["label posterior: P(wrong) > 0.5"]
    assert rule["wrong_found"] > 0.9
    assert rule["right_kept"] > 0.9
    assert "AUROC of right against wrong labels" in capsys.readouterr().out
