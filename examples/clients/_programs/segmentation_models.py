"""segmentation-models-pytorch: the step of its Lightning example with each of its losses."""

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import segmentation_models_pytorch as smp
import torch
from _check import Client
from _data import digits, loader
from segmentation_models_pytorch import losses
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

IMAGES, _ = digits(32, channels=3)
MASKS = (IMAGES[:, :1] > 0.5).float()
Loss = Callable[[Tensor, Tensor], Tensor]


class Segmentation(pl.LightningModule):
    def __init__(self, loss: Loss, classes: int = 1) -> None:
        super().__init__()
        self.model = smp.Unet(
            "resnet18",
            encoder_weights=None,
            encoder_depth=3,
            decoder_channels=(16, 8, 8),
            classes=classes,
        )
        self.loss_fn = loss

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        image, mask = batch
        logits = self.model(image)
        return {"loss": self.loss_fn(logits, mask)}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=2e-4)


class ImageByImage(Segmentation):
    """A loss of all pixels of a batch, made one of each image's."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        image, mask = batch
        pairs = zip(self.model(image).split(1), mask.split(1), strict=True)
        each = torch.stack([self.loss_fn(*pair) for pair in pairs])
        return {"loss": each.mean(), "sample_loss": each}


def binary() -> DataLoader[Any]:
    return loader(TensorDataset(IMAGES, MASKS))


def labelled() -> DataLoader[Any]:
    mask = MASKS[:, 0].long()
    mask[:, :2] = 255
    return loader(TensorDataset(IMAGES, mask))


DICE = losses.DiceLoss("binary", from_logits=True)
BCE = nn.BCEWithLogitsLoss()
SOFT_BCE = losses.SoftBCEWithLogitsLoss(smooth_factor=0.1)
JACCARD = losses.JaccardLoss("binary")
FOCAL = losses.FocalLoss("binary")
LOVASZ = losses.LovaszLoss("binary", per_image=True)
SOFT_CE = losses.SoftCrossEntropyLoss(smooth_factor=0.1, ignore_index=255)
CE = nn.CrossEntropyLoss(ignore_index=255)


def dice_and_bce(logits: Tensor, mask: Tensor) -> Tensor:
    return DICE(logits, mask) + BCE(logits, mask)


CLIENTS = [
    Client("U-Net, `DiceLoss`", lambda: Segmentation(DICE), binary),
    Client("U-Net, `DiceLoss` image by image", lambda: ImageByImage(DICE), binary),
    Client("U-Net, `DiceLoss` + BCE", lambda: Segmentation(dice_and_bce), binary),
    Client("U-Net, `SoftBCEWithLogitsLoss`", lambda: Segmentation(SOFT_BCE), binary),
    Client("U-Net, `FocalLoss`", lambda: Segmentation(FOCAL), binary),
    Client("U-Net, `JaccardLoss`", lambda: Segmentation(JACCARD), binary),
    Client("U-Net, `LovaszLoss`", lambda: Segmentation(LOVASZ), binary),
    Client("U-Net, cross-entropy, `ignore_index`", lambda: Segmentation(CE, 2), labelled),
    Client("U-Net, `SoftCrossEntropyLoss`", lambda: Segmentation(SOFT_CE, 2), labelled),
]
