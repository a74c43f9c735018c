"""The comparisons of the audit, on tiny data: they run, and say who was asked what."""

import dataclasses
import importlib
import json
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.unit.data.made import make_news

BENCHMARKS = Path(__file__).parents[2] / "examples" / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


@pytest.fixture
def small(script, monkeypatch, tmp_path):
    """The comparison on made texts; its module and the folder of their file."""
    comparison, tasks = script("audit_against_cleanlab"), script("_table.tasks")
    (tmp_path / "data").mkdir()
    make_news(tmp_path / "data")
    load = partial(tasks.load_news, num_terms=60, num_features=8)
    network = partial(nn.Linear, 8, tasks.NEWS.num_classes)
    task = dataclasses.replace(tasks.NEWS, load=load, network=network)
    changes = {"epochs": 2, "batch_size": 16, "reference_size": 20, "precision": "32-true"}
    plan = comparison.Plan(task, changes, ("symmetric 0.5", "clean"), 1)
    monkeypatch.setattr(comparison, "PLANS", {"news": plan})
    monkeypatch.setattr(comparison, "FEW", 10)
    return comparison, tmp_path / "data"


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
@pytest.mark.filterwarnings("ignore:The least populated class")
def test_cross_validation_asks_each_network_about_what_it_has_not_seen(small, monkeypatch):
    comparison, data = small
    plan = comparison.PLANS["news"]
    recipe = dataclasses.replace(plan.task.recipe, **plan.changes)
    noise = plan.task.noises["symmetric 0.5"](0, data)
    parts = comparison.parts_of(plan.task, plan.task.load(data), recipe, noise, 0)
    trained, fit = [], comparison.fit

    def watched(work, rows, callbacks):
        trained.append(rows.inputs)
        return fit(work, rows, callbacks)

    monkeypatch.setattr(comparison, "fit", watched)
    work = comparison.Work(plan.task, recipe, parts, 0)
    probabilities = comparison.cross_validated(work, parts.reference)
    assert torch.allclose(probabilities.sum(1), torch.ones(len(parts.train)), atol=1e-5)
    assert len(trained) == comparison.NUM_FOLDS
    seen = torch.cat(trained)
    for inputs in parts.train.inputs[:10]:
        copies = (parts.train.inputs == inputs).all(1).sum()
        assert (seen == inputs).all(1).sum() == (comparison.NUM_FOLDS - 1) * copies
    for inputs in parts.reference.inputs[:5]:
        assert (seen == inputs).all(1).sum() >= comparison.NUM_FOLDS


@pytest.mark.filterwarnings("ignore")  # cleanlab's own among them
def test_the_comparison_with_cleanlab_runs(small, tmp_path, capsys):
    pytest.importorskip("cleanlab", reason="needs cleanlab, whose licence is AGPL")
    comparison, data = small
    comparison.main(["--data", str(data), "--out", str(tmp_path)])
    runs = json.loads((tmp_path / "audit_against_cleanlab.json").read_text())["runs"]
    assert [run["config"]["method"] for run in runs] == 2 * list(comparison.METHODS)
    assert all(run["cpu_seconds"] > 0 for run in runs)
    assert all(run["recall"] is None for run in runs[5:])  # no wrong labels, none to find
    assert "audit, 10 clean samples" in capsys.readouterr().out


def test_what_is_said_of_labels_is_compared_with_the_truth(script):
    comparison = script("audit_against_cleanlab")
    is_issue = torch.tensor([True, True, False, False])
    is_wrong = torch.tensor([True, False, True, False])
    verdict = comparison.Verdict(is_issue, torch.tensor([0.1, 0.4, 0.3, torch.nan]))
    found = comparison.measured(verdict, is_wrong)
    assert (found["precision"], found["recall"], found["auroc"]) == (0.5, 0.5, 1.0)
    assert (found["issues"], found["right_called_issue"]) == (0.5, 0.5)


@pytest.mark.filterwarnings("ignore")  # the script silences Lightning's for good
def test_the_audit_of_digits_is_measured(script, monkeypatch, tmp_path, capsys):
    digits = script("audit_digits")
    path = tmp_path / "found.json"
    monkeypatch.setattr("sys.argv", ["audit_digits.py", "--seeds", "1", "--json", str(path)])
    monkeypatch.setattr(digits, "step_milliseconds", partial(digits.step_milliseconds, 5))
    digits.main()
    found = json.loads(path.read_text())
    assert len(found["runs"]) == 6
    assert found["bytes_a_sample"] == {"run": 52, "checkpoint": 60}  # as docs/audit.md says
    assert "| LabelPosterior | none | - |" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore")  # the script silences Lightning's for good
def test_the_report_of_the_docs_is_written(script, monkeypatch, tmp_path):
    page = tmp_path / "pages" / "report.html"
    monkeypatch.setattr("sys.argv", ["audit_digits.py", "--report", str(page)])
    script("audit_digits").main()
    assert "PosteriorCut" in page.read_text()
