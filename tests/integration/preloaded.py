"""What the server of `forked.py` imports once, and leaves out of every search for garbage."""

import gc

gc.disable()

import lightning.pytorch  # noqa: E402
import numpy  # noqa: E402
import pytest  # noqa: E402
import sklearn.datasets  # noqa: E402
import sklearn.metrics  # noqa: E402
import torch  # noqa: E402

import lightning_alignprune  # noqa: E402
import tests.tiny  # noqa: E402

gc.freeze()  # and of what a fork would copy to search it
gc.enable()

__all__ = ["lightning", "lightning_alignprune", "numpy", "pytest", "sklearn", "tests", "torch"]
