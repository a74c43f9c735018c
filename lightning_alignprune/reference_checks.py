"""What a reference set needs of the fit."""

from lightning.pytorch import Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException

VALIDATION = "validation"


def check_validation(trainer: Trainer) -> None:
    """Refuse the validation pass as reference where it does not run in every epoch."""
    if trainer.limit_val_batches == 0 or not trainer.enable_validation:
        raise reference_error(
            f'validation to run for reference="{VALIDATION}"',
            "a fit without it (limit_val_batches=0, no val_dataloader or no validation_step)",
            "Turn validation on, or pass reference= a loader.",
        )
    if trainer.check_val_every_n_epoch not in (1, None):
        raise reference_error(
            f'validation in every epoch for reference="{VALIDATION}"',
            f"check_val_every_n_epoch={trainer.check_val_every_n_epoch}",
            "Validate every epoch, or pass reference= a loader.",
        )


def reference_error(expected: str, got: str, remedy: str) -> MisconfigurationException:
    """Make the one message pattern of a refused reference."""
    return MisconfigurationException(
        f"DynamicPruningCallback: expected {expected}, got {got}. {remedy}"
    )
