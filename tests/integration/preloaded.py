"""What the server of `forked.py` imports once."""

import lightning.pytorch
import numpy
import pytest
import sklearn.datasets
import sklearn.metrics
import torch

import lightning_alignprune
import tests.conftest

__all__ = ["lightning", "lightning_alignprune", "numpy", "pytest", "sklearn", "tests", "torch"]
