"""Names that every doctest of the package may use."""

from typing import Any

import pytest
import torch


@pytest.fixture(autouse=True)
def _names_of_doctests(doctest_namespace: dict[str, Any]) -> None:
    doctest_namespace["torch"] = torch
