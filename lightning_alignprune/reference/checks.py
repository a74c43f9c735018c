"""What a reference set needs of the fit."""

import torch
from lightning.pytorch import Trainer

from lightning_alignprune.scores import Score
from lightning_alignprune.signals import ReferenceSamples, Signal
from lightning_alignprune.trainer_access.errors import refusal

VALIDATION = "validation"


def check_validation(trainer: Trainer) -> None:
    """Refuse the validation pass as reference where it does not run in every epoch."""
    if trainer.limit_val_batches == 0 or not trainer.enable_validation:
        raise refusal(
            f'validation to run for reference="{VALIDATION}"',
            "a fit without it (limit_val_batches=0, no val_dataloader or no validation_step)",
            "Turn validation on, or pass reference= a loader.",
        )
    if trainer.check_val_every_n_epoch not in (1, None):
        raise refusal(
            f'validation in every epoch for reference="{VALIDATION}"',
            f"check_val_every_n_epoch={trainer.check_val_every_n_epoch}",
            "Validate every epoch, or pass reference= a loader.",
        )


def check_order(before: ReferenceSamples | None, now: ReferenceSamples | None) -> None:
    """Refuse a reference whose samples are in another order than in the pass before.

    Their losses are averaged over epochs, each sample with itself.
    """
    if before is None or now is None or before.labels is None or now.labels is None:
        return
    if not torch.equal(before.labels, now.labels):
        raise refusal(
            "the reference samples in the same order in every pass",
            "labels in another order than in the pass before",
            "Use shuffle=False and a sampler without randomness.",
        )


def check_unit(signal: Signal, score: Score) -> None:
    """Refuse to compare the batches' losses with those of single reference samples."""
    if score.needs_reference_samples and signal.weighting == "batch":
        raise refusal(
            f"a signal of single samples for {type(score).__name__}",
            f"{type(signal).__name__}, which records the losses of batches",
            "Use signal=SampleLoss(), or MeanLoss as score.",
        )
