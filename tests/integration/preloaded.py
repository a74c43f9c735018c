"""What the server of `forked.py` imports once."""

import lightning.pytorch
import torch

import lightning_alignprune
import tests.conftest

__all__ = ["lightning", "lightning_alignprune", "tests", "torch"]
