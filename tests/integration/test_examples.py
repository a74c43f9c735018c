"""Every example runs, as a reader would run it, without a progress bar."""

import json
import logging
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest

from lightning_alignprune.cli import main
from tests.integration.forked import run_forked, run_ranks

EXAMPLES = Path(__file__).parents[2] / "examples"
QUIET: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False}
# Run by another test, or there to be imported.
ELSEWHERE = {"digits.py", "ddp_torchrun.py", "plain_loop.py", "resume.py", "text_huggingface.py"}

pytestmark = [
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*args parameter is intended to run from within Python"),
]


class QuietTrainer(pl.Trainer):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**(kwargs | QUIET))


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Iterator[Any]:
    """Run a file of the folder in an empty one; return what it prints and its names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pl, "Trainer", QuietTrainer)

    def run_file(name: str, *args: str) -> tuple[str, dict[str, Any]]:
        monkeypatch.setattr(sys, "argv", [name, *args])
        names = runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out, names

    log = logging.getLogger("lightning.pytorch")
    level = log.level
    yield run_file
    log.setLevel(level)


def shares_of_wrong(said: str) -> tuple[int, int]:
    """The line that the examples end with: percent of all, percent of what was kept."""
    before, after = re.findall(r"(\d+)% of", said.splitlines()[-1])
    return int(before), int(after)


def test_the_demo_compares_six_methods_and_what_stops_early(run, tmp_path):
    said, names = run("digits.py", "--seeds", "1", "--epochs", "6")
    header, *rows = said.split("\n\n")[1].splitlines()
    for title in ("accuracy", "passes", "seconds", "wrong in kept", "right kept", "AUROC"):
        assert title in header
    assert len(rows) == 8
    assert rows[1].startswith("early stopping")
    assert rows[2].startswith("EMA, stopped")
    assert "±" not in said  # one seed has no spread
    assert all(len(line) <= 80 for line in said.splitlines())
    results = json.loads((tmp_path / "outputs" / "digits.json").read_text())
    (full,), (stopped,) = results["full training"], results["early stopping"]
    (averaged,) = results["EMA, stopped"]
    assert averaged["accuracy"] != stopped["accuracy"]
    assert (full["wrong_among_kept"], full["right_kept"], full["passes"]) == (40, 100, 1)
    assert stopped["seconds"] <= full["seconds"]
    assert "±" in names["table"]({"two": [full, stopped]})


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_a_plain_example_runs_and_says_what_it_kept(path, run):
    if path.name in ELSEWHERE:
        assert f'run("{path.name}"' in Path(__file__).read_text() or path.name == "ddp_torchrun.py"
        return
    # How well a method does is counted over seeds in other tests.
    before, after = shares_of_wrong(run(path.name)[0])
    assert 0 <= after <= before > 0


def test_a_transformer_of_hugging_face(run):
    pytest.importorskip("transformers", reason="needs transformers, which nothing else here does")
    before, after = shares_of_wrong(run("text_huggingface.py")[0])
    assert after <= before


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch")
def test_a_run_goes_on_as_if_it_had_not_been_interrupted(run):
    said, _ = run("resume.py")
    assert said.splitlines() == [
        "the power is gone at step 250",
        "interrupted and whole run end with the same weights: True",
    ]


def test_a_plain_loop_and_fabric_find_the_same(run):
    plain, names = run("plain_loop.py")
    fabric, _ = run("plain_loop.py", "--fabric")
    assert plain == fabric
    assert names["run"].record.passes_saved > 0


def run_as_torchrun_does(folder):
    """Two ranks that are told of each other as torchrun tells them, without two more imports."""
    work = partial(runpy.run_path, str(EXAMPLES / "ddp_torchrun.py"), run_name="__main__")
    run_forked(partial(run_ranks, work, 2), folder / "log.txt")
    return (folder / "log.txt").read_text()


def run_by_torchrun(folder):
    torchrun = "-m torch.distributed.run --standalone --nproc_per_node=2"
    path = [str(EXAMPLES.parent), os.environ.get("PYTHONPATH", "")]
    made = subprocess.run(
        [sys.executable, *torchrun.split(), str(EXAMPLES / "ddp_torchrun.py")],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(path)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert made.returncode == 0, made.stderr[-2000:]
    return made.stdout


@pytest.mark.parametrize(
    "run_both", [run_as_torchrun_does, pytest.param(run_by_torchrun, marks=pytest.mark.slow)]
)
def test_two_processes_under_torchrun_keep_the_same_samples(tmp_path, run_both):
    # Both write to one screen, perhaps in one line.
    said = dict(re.findall(r"(rank \d): (\d+ samples kept, checksum \d+)", run_both(tmp_path)))
    assert set(said) == {"rank 0", "rank 1"}
    assert said["rank 0"] == said["rank 1"]
    assert int(said["rank 0"].split()[0]) < 1647


def test_images_in_folders_from_the_command_line(run, capsys):
    assert "1797 images" in run("images_cli/make_images.py")[0]
    small = "--data.split.train_size 200 --trainer.max_epochs 7 --trainer.accelerator cpu "
    small += "--data.split.reference_size 60 --data.split.val_size 20"
    quiet = "--trainer.enable_progress_bar false --trainer.enable_model_summary false"
    config = str(EXAMPLES / "images_cli" / "run.yaml")
    main(["fit", "--config", config, *small.split(), *quiet.split()])
    capsys.readouterr()
    main(["audit", "run/last.ckpt"])
    assert "200 labels" in capsys.readouterr().out


def test_the_notebook_runs_from_top_to_bottom(monkeypatch, tmp_path, capsys):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)
    notebook = json.loads((EXAMPLES / "find_wrong_labels.ipynb").read_text())
    names: dict[str, Any] = {"__name__": "__main__"}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []  # committed without results
            exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
    found, is_wrong = names["found"], names["is_wrong"]
    assert is_wrong[found].float().mean() > 0.9
    assert found[is_wrong].float().mean() > 0.7
    assert len(names["figure"].axes) == 16


def test_the_list_of_examples_is_complete() -> None:
    listed = set(re.findall(r"^\| \[(\S+?)/?\]\(", (EXAMPLES / "README.md").read_text(), re.M))
    there = {path.name for path in EXAMPLES.iterdir() if path.name[0] not in "._"}
    assert there - {"README.md", "configs", "benchmarks", "clients"} == listed
