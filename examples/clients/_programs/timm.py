"""timm: its networks and the losses of its train.py."""

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import timm
import timm.loss
import timm.optim
import torch
from _check import Client
from _data import digits, loader
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

IMAGES, CLASSES = digits(32, channels=3)


class Training(pl.LightningModule):
    def __init__(self, network: str, loss: nn.Module, **settings: Any) -> None:
        super().__init__()
        self.model = timm.create_model(network, pretrained=False, num_classes=10, **settings)
        self.train_loss_fn = loss

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, target = batch
        return self.train_loss_fn(self.model(images), target)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return timm.optim.create_optimizer_v2(self, opt="adamw", lr=1e-3)


class SampleLosses(Training):
    """The losses of timm that are written by hand take the mean last: return them before it."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        images, target = batch
        logits = self.model(images)
        losses = torch.stack(
            [self.train_loss_fn(x[None], y[None]) for x, y in zip(logits, target, strict=True)]
        )
        return {"loss": losses.mean(), "sample_loss": losses}


def images() -> DataLoader[Any]:
    return loader(TensorDataset(IMAGES, CLASSES))


def soft_targets() -> DataLoader[Any]:
    soft = 0.9 * nn.functional.one_hot(CLASSES, 10) + 0.1 * torch.rand(len(CLASSES), 10)
    return loader(TensorDataset(IMAGES, soft / soft.sum(1, keepdim=True)))


def several_labels() -> DataLoader[Any]:
    return loader(TensorDataset(IMAGES, (torch.arange(10) < CLASSES[:, None]).float()))


def small_vit(loss: nn.Module, module: type[Training] = Training) -> Callable[[], Training]:
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2}
    return lambda: module("vit_tiny_patch16_224", loss, **sizes)


CLIENTS = [
    Client("ResNet, cross-entropy", lambda: Training("test_resnet", nn.CrossEntropyLoss()), images),
    Client("ViT, cross-entropy", small_vit(nn.CrossEntropyLoss()), images),
    Client("ViT, `BinaryCrossEntropy`", small_vit(timm.loss.BinaryCrossEntropy()), images),
    Client(
        "ViT, `BinaryCrossEntropy` with smoothing, threshold and summed classes",
        small_vit(timm.loss.BinaryCrossEntropy(0.1, target_threshold=0.2, sum_classes=True)),
        images,
    ),
    Client(
        "ViT, `LabelSmoothingCrossEntropy`",
        small_vit(timm.loss.LabelSmoothingCrossEntropy(0.1)),
        images,
    ),
    Client(
        "the same, `sample_loss` returned",
        small_vit(timm.loss.LabelSmoothingCrossEntropy(0.1), SampleLosses),
        images,
    ),
    Client(
        "ViT, `SoftTargetCrossEntropy`", small_vit(timm.loss.SoftTargetCrossEntropy()), soft_targets
    ),
    Client(
        "ViT, `AsymmetricLossMultiLabel`",
        small_vit(timm.loss.AsymmetricLossMultiLabel()),
        several_labels,
    ),
]
