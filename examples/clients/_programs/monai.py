"""MONAI: dictionaries of MetaTensors, its networks and losses."""

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from _check import Client
from _data import digits
from monai import losses
from monai.data import DataLoader, Dataset
from monai.networks.nets import DenseNet121, UNet
from monai.transforms import Compose, EnsureTyped, ScaleIntensityd
from torch import Tensor, nn

IMAGES, CLASSES = digits(32)
ORGANS = (IMAGES > 0.5).long()
PREPARE = Compose([ScaleIntensityd("image"), EnsureTyped(["image", "label"])])


class Training(pl.LightningModule):
    def __init__(self, model: nn.Module, loss: Callable[..., Tensor]) -> None:
        super().__init__()
        self._model, self.loss_function = model, loss

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        images, labels = batch["image"], batch["label"]
        return {"loss": self.loss_function(self._model(images), labels)}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self._model.parameters(), 1e-4)


def unet(channels: int = 2) -> nn.Module:
    return UNet(2, 1, channels, channels=(8, 16), strides=(2,), norm="batch")


def segmentation(loss: Callable[..., Tensor]) -> Callable[[], Training]:
    return lambda: Training(unet(), loss)


def dicts(labels: Tensor) -> Callable[[], DataLoader]:
    items = [{"image": x, "label": y} for x, y in zip(IMAGES, labels, strict=True)]
    return lambda: DataLoader(Dataset(items, PREPARE), batch_size=8, shuffle=True)


def classifier() -> Training:
    network = DenseNet121(2, 1, 10, init_features=8, growth_rate=4, block_config=(1, 1))
    return Training(network, nn.CrossEntropyLoss())


class Denoising(Training):
    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        image = batch["image"]
        return {"loss": self.loss_function(self._model(image), image)}


SOFTMAX: dict[str, Any] = {"to_onehot_y": True, "softmax": True}
DICE_CE = losses.DiceCELoss(**SOFTMAX)
CLIENTS = [
    Client("DenseNet, classification", classifier, dicts(CLASSES)),
    Client("U-Net, `DiceLoss`", segmentation(losses.DiceLoss(**SOFTMAX)), dicts(ORGANS)),
    Client(
        'U-Net, `DiceLoss`, `signal="BatchLoss"`',
        segmentation(losses.DiceLoss(**SOFTMAX)),
        dicts(ORGANS),
        signal="BatchLoss",
    ),
    Client("U-Net, `DiceCELoss`", segmentation(DICE_CE), dicts(ORGANS)),
    Client("U-Net, `DiceFocalLoss`", segmentation(losses.DiceFocalLoss(**SOFTMAX)), dicts(ORGANS)),
    Client(
        "U-Net, `FocalLoss`",
        segmentation(losses.FocalLoss(to_onehot_y=True)),
        dicts(ORGANS),
    ),
    Client(
        "U-Net, `FocalLoss` with softmax",
        segmentation(losses.FocalLoss(to_onehot_y=True, use_softmax=True)),
        dicts(ORGANS),
    ),
    Client("U-Net, `TverskyLoss`", segmentation(losses.TverskyLoss(**SOFTMAX)), dicts(ORGANS)),
    Client("U-Net, denoising, MSE", lambda: Denoising(unet(1), nn.MSELoss()), dicts(ORGANS)),
    Client(
        "U-Net, denoising, `SSIMLoss`",
        lambda: Denoising(unet(1), losses.SSIMLoss(2)),
        dicts(ORGANS),
    ),
]
