"""Which labels become wrong, and into what?"""

from lightning_alignprune.functional.label_noise.asymmetric import (
    asymmetric_cifar10,
    asymmetric_cifar100,
    asymmetric_next,
)
from lightning_alignprune.functional.label_noise.by_name import (
    NOISE_MODELS,
    NoiseModel,
    apply_label_noise,
)
from lightning_alignprune.functional.label_noise.symmetric import (
    pairflip,
    symmetric_inclusive,
    symmetric_next,
    symmetric_uniform,
)

__all__ = [
    "NOISE_MODELS",
    "NoiseModel",
    "apply_label_noise",
    "asymmetric_cifar10",
    "asymmetric_cifar100",
    "asymmetric_next",
    "pairflip",
    "symmetric_inclusive",
    "symmetric_next",
    "symmetric_uniform",
]
