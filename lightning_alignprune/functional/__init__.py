"""Pure tensor functions: tensors in, tensors out. Nothing here knows Lightning or keeps state."""

from lightning_alignprune.functional.alignment import alignment
from lightning_alignprune.functional.draws import draw_seed, sample_keys, uniform
from lightning_alignprune.functional.label_noise import pairflip, symmetric_uniform
from lightning_alignprune.functional.selection import (
    Selection,
    draw_fixed_count,
    full_selection,
    infobatch_selection,
)

__all__ = [
    "Selection",
    "alignment",
    "draw_fixed_count",
    "draw_seed",
    "full_selection",
    "infobatch_selection",
    "pairflip",
    "sample_keys",
    "symmetric_uniform",
    "uniform",
]
