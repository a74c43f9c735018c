"""Which samples of a batch are worth a gradient?"""

from lightning_alignprune.in_batch.base import BatchChoice, BatchLook
from lightning_alignprune.in_batch.divbs import DivBS
from lightning_alignprune.in_batch.find import BATCH_CHOICES, find_batch_choice
from lightning_alignprune.in_batch.selective_backprop import SelectiveBackprop

__all__ = [
    "BATCH_CHOICES",
    "BatchChoice",
    "BatchLook",
    "DivBS",
    "SelectiveBackprop",
    "find_batch_choice",
]
