"""Shared fixtures and guards against leaks; what else tests share lies in `tests/tiny.py`.

The first process of pytest-xdist reads this file and runs no test: it need not wait for torch.
"""

import importlib
import logging
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import settings

# A busy machine is no failure.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


SHARED = {
    "EpochLog",
    "TinyModule",
    "assert_identical",
    "make_data",
    "make_trainer",
    "weights_of",
}


def __getattr__(name: str) -> Any:
    """What tests import from here."""
    if name not in SHARED:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(importlib.import_module("tests.tiny"), name)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--run-slow", action="store_true", help="run tests marked slow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    import torch

    for item in items:
        if "slow" in item.keywords and not config.getoption("--run-slow"):
            item.add_marker(pytest.mark.skip(reason="slow: give --run-slow"))
        if "trained" in item.keywords:  # many runs in one test, on a machine that may be busy
            item.add_marker(pytest.mark.timeout(1200))
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


# Another number of threads takes sums in another order: what is shown must hold with any.
NUM_THREADS = int(os.environ.get("ALIGNPRUNE_TEST_THREADS", "1"))


@pytest.fixture(autouse=True)
def _no_leaks() -> Iterator[None]:
    """Fail a test that leaves a loss tap or a grad mode behind; begin without another's seed."""
    import torch
    from torch.overrides import _get_current_function_mode_stack

    torch.set_num_threads(NUM_THREADS)
    os.environ.pop("PL_GLOBAL_SEED", None)  # another test's seed_everything leaves it behind
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    yield
    logger.setLevel(level)  # examples make it quiet
    assert not _get_current_function_mode_stack(), "a torch function mode leaked out of the test"
    assert torch.is_grad_enabled(), "grad mode leaked out of the test"


@pytest.fixture
def train_loader() -> Callable[..., Any]:
    from torch.utils.data import DataLoader

    from tests.tiny import make_data

    def make(num_samples: int = 100, batch_size: int = 8, **kwargs: Any) -> DataLoader[Any]:
        return DataLoader(make_data(num_samples), batch_size=batch_size, **kwargs)

    return make


@pytest.fixture
def val_loader() -> Any:
    from torch.utils.data import DataLoader

    from tests.tiny import make_data

    return DataLoader(make_data(24, seed=1, noise=0.0), batch_size=8)


@pytest.fixture
def reference() -> Any:
    from tests.tiny import make_data

    return make_data(30, seed=2, noise=0.0)
