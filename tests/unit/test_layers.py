"""Rooms import one way, internals are touched in one room, functions and constructors stay small.

A room is a folder of the package, or a file beside them. Nothing here names a file inside a room.
"""

import ast
import re
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import lightning_alignprune

PACKAGE = "lightning_alignprune"
ROOT = Path(lightning_alignprune.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
TREES = {path: ast.parse(path.read_text()) for path in FILES}
PURE = {"_checks", "functional", "schedule"}  # torch only
TRAINERLESS = {
    *PURE,
    "tap",
    "state",
    "losses",
    "signals",
    "scores",
    "policies",
    "in_batch",
    "pruner",
}
LONGEST_FUNCTION = 40  # lines of code, without docstring and signature
MOST_ARGUMENTS = 10  # of a constructor
MOST_COLLABORATORS = 5  # arguments of a constructor that are objects of this package
HOLDS_ALL_SETTINGS = "DynamicPruningCallback"  # each is a word of a run's configuration


def room(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path):
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            if node.module == PACKAGE:
                yield from (f"{PACKAGE}.{alias.name}" for alias in node.names)


@cache
def rooms_behind():
    """Which rooms each room imports."""
    behind = {room(path): set() for path in FILES}
    for path in FILES:
        for name in imported(path):
            if name.startswith(f"{PACKAGE}."):
                behind[room(path)].add(name.split(".")[1])
    return {name: {other for other in others if other != name} for name, others in behind.items()}


def named(path):
    return str(path.relative_to(ROOT))


def test_rooms_import_one_way():
    behind = {name: others for name, others in rooms_behind().items() if name != "__init__"}
    assert list(TopologicalSorter(behind).static_order())  # raises CycleError on a circle


@pytest.mark.parametrize("name", sorted(TRAINERLESS))
def test_what_knows_no_trainer_imports_only_its_like(name):
    assert rooms_behind()[name] <= (PURE if name in PURE else TRAINERLESS)


@pytest.mark.parametrize("path", [p for p in FILES if room(p) in PURE], ids=named)
def test_the_pure_rooms_import_torch_only(path):
    standard = {"collections", "dataclasses", "difflib", "math", "numbers", "typing"}
    outside = {name.split(".")[0] for name in imported(path)} - {PACKAGE}
    assert outside <= {"torch", "numpy", *standard}


@pytest.mark.parametrize("path", [p for p in FILES if room(p) in TRAINERLESS], ids=named)
def test_the_core_imports_no_lightning_but_its_seed_helper(path):
    for name in imported(path):
        assert not name.startswith("lightning.") or name.endswith("utilities.seed"), name


@pytest.mark.parametrize("path", [p for p in FILES if room(p) != "trainer_access"], ids=named)
def test_internals_are_touched_in_one_room(path):
    text = path.read_text()
    assert not re.findall(r"(?:trainer|loader|loop|fetcher)[a-z_.]*\._[a-z]\w*", text)


@pytest.mark.parametrize("path", FILES, ids=named)
def test_no_global_effects(path):
    text = path.read_text()
    for banned in ("np.random.seed", "print(", "logging.getLogger", "setattr(torch"):
        assert banned not in text or path.name == "cli.py" or f">>> {banned}" in text, banned


def num_lines(function):
    """Lines of the body, without its docstring."""
    first = function.body[0]
    has_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    body = function.body[1:] if has_docstring else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


@pytest.mark.parametrize("path", FILES, ids=named)
def test_a_function_fits_in_a_head(path):
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    functions = [node for node in ast.walk(TREES[path]) if isinstance(node, kinds)]
    lines = {f"{f.name}:{f.lineno}": num_lines(f) for f in functions}
    assert {name: n for name, n in lines.items() if n > LONGEST_FUNCTION} == {}


@cache
def classes_of_this_package():
    return {
        node.name
        for tree in TREES.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }


def constructors():
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            for part in node.body if isinstance(node, ast.ClassDef) else ():
                if isinstance(part, ast.FunctionDef) and part.name == "__init__":
                    yield pytest.param(part, id=f"{named(path)}:{node.name}")


@pytest.mark.parametrize("constructor", list(constructors()))
def test_a_class_has_few_arguments_and_collaborators(constructor, request):
    ours = classes_of_this_package()
    arguments = [*constructor.args.args[1:], *constructor.args.kwonlyargs]
    assert len(arguments) <= MOST_ARGUMENTS or HOLDS_ALL_SETTINGS in request.node.name
    collaborators = [
        argument.arg
        for argument in arguments
        if argument.annotation is not None
        and ours & {n.id for n in ast.walk(argument.annotation) if isinstance(n, ast.Name)}
    ]
    assert len(collaborators) <= MOST_COLLABORATORS, collaborators


def test_every_room_says_which_question_it_answers():
    for folder in {path.parent for path in FILES} - {ROOT}:
        first = (ast.get_docstring(TREES[folder / "__init__.py"]) or "").splitlines()[:1]
        assert first, folder


def test_every_public_name_exists():
    for name in lightning_alignprune.__all__:
        assert hasattr(lightning_alignprune, name)


def test_the_tests_mirror_the_rooms():
    tests = Path(__file__).parent
    folders = {path.parent.relative_to(ROOT) for path in FILES}
    for folder in {path.parent.relative_to(tests) for path in tests.rglob("test_*.py")}:
        assert folder in folders, folder
