"""What did one step show of each sample's loss, and how is it weighted?"""

from lightning_alignprune.tap.loss_tap import LossTap
from lightning_alignprune.tap.registration import register_loss
from lightning_alignprune.tap.step_samples import StepSamples, samples_in_step
from lightning_alignprune.tap.tapped_step import (
    ChangingFactorsError,
    TappedCall,
    TappedStep,
    UnseenLossError,
)

__all__ = [
    "ChangingFactorsError",
    "LossTap",
    "StepSamples",
    "TappedCall",
    "TappedStep",
    "UnseenLossError",
    "register_loss",
    "samples_in_step",
]
