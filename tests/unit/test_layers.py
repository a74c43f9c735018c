"""The layers point one way, internals are touched in one file, files stay within their budgets."""

import ast
import re
from pathlib import Path

import pytest

import lightning_alignprune

ROOT = Path(lightning_alignprune.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
STATE = ["trajectories", "sampler", "schedule", "scores", "signals", "loss_tap", "tapped_step"]
STATE += ["pruner", "_loss_functions", "_checks"]


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


@pytest.mark.parametrize("path", sorted((ROOT / "functional").glob("*.py")), ids=lambda p: p.name)
def test_functional_imports_torch_only(path):
    for name in imports(path):
        inside = name.startswith(
            ("lightning_alignprune.functional", "lightning_alignprune._checks")
        )
        assert inside or name.split(".")[0] in ("torch", "collections", "typing", "math"), name


@pytest.mark.parametrize(
    "name", [*STATE, *(f"policies/{p.stem}" for p in (ROOT / "policies").glob("*.py"))]
)
def test_state_knows_no_trainer(name):
    shell = ("callback", "_trainer_access", "reference", "loader_adapter", "step_recorder", "cli")
    for module in imports(ROOT / f"{name}.py"):
        assert not module.startswith(tuple(f"lightning_alignprune.{s}" for s in shell)), module
        assert not module.startswith("lightning.") or module.endswith("utilities.seed"), module


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_internals_are_touched_in_one_file(path):
    if path.name == "_trainer_access.py":
        return
    found = re.findall(r"(?:trainer|loader|loop|fetcher)[a-z_.]*\._[a-z]\w*", path.read_text())
    assert not found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_budgets(path):
    budget = 350 if path.name == "callback.py" else 250
    assert len(path.read_text().splitlines()) <= budget


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_global_effects(path):
    text = path.read_text()
    for banned in ("np.random.seed", "print(", "logging.getLogger", "setattr(torch"):
        assert banned not in text or path.name == "cli.py", banned


def test_every_public_name_exists():
    for name in lightning_alignprune.__all__:
        assert hasattr(lightning_alignprune, name)
