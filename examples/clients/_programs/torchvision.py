"""torchvision: classification with auxiliary heads, segmentation, detection.

The training steps are those of the reference scripts, in a LightningModule; the detectors have a
small backbone of their own, as torchvision's documentation shows.
"""

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from _check import Client
from _data import Items, digits, loader
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision import models
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import sigmoid_focal_loss

IMAGES, CLASSES = digits(32, channels=3, num=24)
NO_WEIGHTS = {"weights": None, "weights_backbone": None}


class Training(pl.LightningModule):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


class Classification(Training):
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        image, target = batch
        return nn.functional.cross_entropy(self.model(image), target, label_smoothing=0.1)


class Focal(Training):
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        image, target = batch
        return sigmoid_focal_loss(
            self.model(image), nn.functional.one_hot(target, 10).float(), reduction="mean"
        )


class Auxiliary(Training):
    """GoogLeNet's two auxiliary heads."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        image, target = batch
        out = self.model(image)
        losses = [nn.functional.cross_entropy(logits, target) for logits in out]
        return losses[0] + 0.3 * (losses[1] + losses[2])


class Segmentation(Training):
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        image, target = batch
        losses = {
            name: nn.functional.cross_entropy(x, target, ignore_index=255)
            for name, x in self.model(image).items()
        }
        return losses["out"] + 0.5 * losses["aux"] if "aux" in losses else losses["out"]


class Detection(Training):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        images, targets = batch
        loss_dict = self.model(list(images), list(targets))
        return sum(loss_dict.values())


class DetectionOneByOne(Detection):
    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        losses = [sum(self.model([x], [y]).values()) for x, y in zip(*batch, strict=True)]
        stacked = torch.stack(losses)
        return {"loss": stacked.mean(), "sample_loss": stacked}


def images() -> DataLoader[Any]:
    return loader(TensorDataset(IMAGES, CLASSES))


def masks() -> DataLoader[Any]:
    mask = (IMAGES[:, 0] > 0.5).long()
    mask[:, :4] = 255
    return loader(TensorDataset(IMAGES, mask))


def as_tuples(batch: list[Any]) -> tuple[Any, ...]:
    return tuple(zip(*batch, strict=True))


def boxes(i: int) -> tuple[Tensor, dict[str, Tensor]]:
    corner = torch.rand(1, 2) * 16
    box = torch.cat([corner, corner + 12], 1)
    return torch.rand(3, 32, 32), {"boxes": box, "labels": torch.tensor([1])}


def boxed() -> DataLoader[Any]:
    return loader(Items(boxes, 24), batch_size=4, collate_fn=as_tuples)


class Backbone(nn.Sequential):
    out_channels = 32

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1))


def detector(make: Callable[..., nn.Module], **settings: Any) -> nn.Module:
    anchors = AnchorGenerator(((12,),), ((1.0,),))
    name = "rpn_anchor_generator" if make is FasterRCNN else "anchor_generator"
    return make(Backbone(), 3, min_size=32, max_size=32, **{name: anchors}, **settings)


def googlenet() -> nn.Module:
    return models.googlenet(weights=None, num_classes=10, aux_logits=True, init_weights=False)


CLIENTS = [
    Client(
        "MobileNetV3, classification, label smoothing",
        lambda: Classification(models.mobilenet_v3_small(num_classes=10)),
        images,
    ),
    Client(
        "MobileNetV3, `sigmoid_focal_loss`",
        lambda: Focal(models.mobilenet_v3_small(num_classes=10)),
        images,
    ),
    Client("GoogLeNet, two auxiliary losses", lambda: Auxiliary(googlenet()), images),
    Client(
        "LR-ASPP, segmentation, `ignore_index`",
        lambda: Segmentation(
            models.segmentation.lraspp_mobilenet_v3_large(**NO_WEIGHTS, num_classes=2)
        ),
        masks,
    ),
    Client(
        "DeepLabV3, segmentation, auxiliary loss",
        lambda: Segmentation(
            models.segmentation.deeplabv3_mobilenet_v3_large(
                **NO_WEIGHTS, num_classes=2, aux_loss=True
            )
        ),
        masks,
    ),
    Client("RetinaNet, detection", lambda: Detection(detector(RetinaNet)), boxed),
    Client("RetinaNet, image by image", lambda: DetectionOneByOne(detector(RetinaNet)), boxed),
    Client("FCOS, detection", lambda: Detection(detector(FCOS)), boxed),
    Client("Faster R-CNN, detection", lambda: Detection(detector(FasterRCNN)), boxed),
]
