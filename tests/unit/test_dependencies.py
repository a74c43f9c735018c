"""What the package imports at once is what installing it brings."""

import ast
import re
import sys
from pathlib import Path

import lightning_alignprune

ROOT = Path(lightning_alignprune.__file__).parent


def imported_at_once():
    for path in ROOT.rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield node.module


def test_every_imported_package_is_a_declared_dependency():
    text = (ROOT.parent / "pyproject.toml").read_text()
    listed = re.search(r"^dependencies = \[\n(.*?)^\]", text, re.DOTALL | re.MULTILINE)[1]
    declared = {name.replace("-", "_") for name in re.findall(r'"([\w-]+)', listed)}
    found = {name.partition(".")[0] for name in imported_at_once()}
    assert found - set(sys.stdlib_module_names) - {"lightning_alignprune"} == declared
