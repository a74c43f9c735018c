"""Pure tensor functions: tensors in, tensors out. Nothing here knows Lightning or keeps state."""

from lightning_alignprune.functional.alignment import alignment
from lightning_alignprune.functional.asymmetric_noise import (
    asymmetric_cifar10,
    asymmetric_cifar100,
    asymmetric_next,
)
from lightning_alignprune.functional.draws import draw_seed, sample_keys, uniform
from lightning_alignprune.functional.label_noise import (
    pairflip,
    symmetric_inclusive,
    symmetric_next,
    symmetric_uniform,
)
from lightning_alignprune.functional.noise_models import NOISE_MODELS, apply_label_noise
from lightning_alignprune.functional.selection import (
    Selection,
    draw_fixed_count,
    full_selection,
    infobatch_selection,
)

__all__ = [
    "NOISE_MODELS",
    "Selection",
    "alignment",
    "apply_label_noise",
    "asymmetric_cifar10",
    "asymmetric_cifar100",
    "asymmetric_next",
    "draw_fixed_count",
    "draw_seed",
    "full_selection",
    "infobatch_selection",
    "pairflip",
    "sample_keys",
    "symmetric_inclusive",
    "symmetric_next",
    "symmetric_uniform",
    "uniform",
]
