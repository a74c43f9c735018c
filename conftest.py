"""Names that every doctest of the package may use; no search for garbage before the first test."""

import gc
from typing import Any

import pytest

# What an import makes stays. The collector would look through it again and again: a fifth of the
# start, and half a second whenever it looks through everything.
gc.disable()


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop() -> None:
    """Leave what was imported out of every search from now on."""
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def _names_of_doctests(doctest_namespace: dict[str, Any]) -> None:
    import torch

    doctest_namespace["torch"] = torch
