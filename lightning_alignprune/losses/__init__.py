"""Which losses resist wrong labels?"""

from lightning_alignprune.losses.base import SampleStateLoss
from lightning_alignprune.losses.elr import ELR
from lightning_alignprune.losses.plain import GeneralizedCrossEntropy, SymmetricCrossEntropy
from lightning_alignprune.losses.sop import SOP

__all__ = ["ELR", "SOP", "GeneralizedCrossEntropy", "SampleStateLoss", "SymmetricCrossEntropy"]
