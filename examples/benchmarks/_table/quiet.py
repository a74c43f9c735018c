"""A Trainer on one CPU process that writes and prints nothing."""

from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl


def quiet_trainer(
    max_epochs: int, callbacks: Sequence[pl.Callback] = (), **kwargs: Any
) -> pl.Trainer:
    """Make one; ``kwargs`` are the Trainer's."""
    return pl.Trainer(
        max_epochs=max_epochs,
        accelerator="cpu",
        devices=1,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **kwargs,
    )
