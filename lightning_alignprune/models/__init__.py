"""What is trained in the papers' runs, and by which recipe?

A LightningModule that knows no pruning, its networks, optimizers and schedules.
"""

from lightning_alignprune.models.classifier import Classifier
from lightning_alignprune.models.networks import (
    cifar_resnet18,
    mlp3,
    small_cnn,
    timm_network,
    torchvision_network,
)
from lightning_alignprune.models.optimisation import OptimizerConfig, ScheduleConfig

__all__ = [
    "Classifier",
    "OptimizerConfig",
    "ScheduleConfig",
    "cifar_resnet18",
    "mlp3",
    "small_cnn",
    "timm_network",
    "torchvision_network",
]
