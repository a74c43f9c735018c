"""lightly: the training steps of its tutorials, on two views of each image."""

import copy
from typing import Any

import lightning.pytorch as pl
import torch
from _check import Client
from _data import Items, digits, loader
from lightly.loss import (
    BarlowTwinsLoss,
    DINOLoss,
    NegativeCosineSimilarity,
    NTXentLoss,
    SwaVLoss,
    VICRegLoss,
)
from lightly.models import modules
from lightly.models.utils import deactivate_requires_grad, update_momentum
from lightly.transforms import SimCLRTransform
from torch import Tensor, nn
from torchvision.transforms.functional import to_pil_image

IMAGES, CLASSES = digits(32, channels=3)
TRANSFORM = SimCLRTransform(input_size=32, gaussian_blur=0.0)
View = tuple[list[Tensor], Tensor, str]


def views(i: int) -> View:
    return TRANSFORM(to_pil_image(IMAGES[i])), CLASSES[i], f"{i}.png"


def two_views() -> Any:
    return loader(Items(views), drop_last=True)


class SelfSupervised(pl.LightningModule):
    criterion: nn.Module

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()
        )
        self.projection_head = modules.SimCLRProjectionHead(32, 32, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.projection_head(self.backbone(x))

    def training_step(self, batch: View, batch_idx: int) -> Tensor:
        x0, x1 = batch[0]
        return self.criterion(self(x0), self(x1))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.06)


class SimCLR(SelfSupervised):
    def __init__(self) -> None:
        super().__init__()
        self.criterion = NTXentLoss()


class BarlowTwins(SelfSupervised):
    def __init__(self) -> None:
        super().__init__()
        self.criterion = BarlowTwinsLoss()


class VICReg(SelfSupervised):
    def __init__(self) -> None:
        super().__init__()
        self.criterion = VICRegLoss()


class SimSiam(SelfSupervised):
    def __init__(self) -> None:
        super().__init__()
        self.prediction_head = modules.SimSiamPredictionHead(16, 8, 16)
        self.criterion = NegativeCosineSimilarity()

    def training_step(self, batch: View, batch_idx: int) -> Tensor:
        z0, z1 = (self(x) for x in batch[0])
        p0, p1 = self.prediction_head(z0), self.prediction_head(z1)
        return 0.5 * (self.criterion(p0, z1.detach()) + self.criterion(p1, z0.detach()))


class SimSiamSampleLoss(SimSiam):
    """The same loss, its mean over the samples taken last."""

    def training_step(self, batch: View, batch_idx: int) -> dict[str, Tensor]:
        z0, z1 = (self(x) for x in batch[0])
        p0, p1 = self.prediction_head(z0), self.prediction_head(z1)
        similarity = nn.CosineSimilarity(dim=1)
        losses = -0.5 * (similarity(p0, z1.detach()) + similarity(p1, z0.detach()))
        return {"loss": losses.mean(), "sample_loss": losses}


class MoCo(SelfSupervised):
    def __init__(self) -> None:
        super().__init__()
        self.backbone_momentum = copy.deepcopy(self.backbone)
        self.projection_head_momentum = copy.deepcopy(self.projection_head)
        deactivate_requires_grad(self.backbone_momentum)
        deactivate_requires_grad(self.projection_head_momentum)
        self.criterion = NTXentLoss(memory_bank_size=(64, 16))

    def training_step(self, batch: View, batch_idx: int) -> Tensor:
        update_momentum(self.backbone, self.backbone_momentum, m=0.99)
        update_momentum(self.projection_head, self.projection_head_momentum, m=0.99)
        x_query, x_key = batch[0]
        query = self(x_query)
        key = self.projection_head_momentum(self.backbone_momentum(x_key)).detach()
        return self.criterion(query, key)


class DINO(SelfSupervised):
    def __init__(self) -> None:
        super().__init__()
        self.projection_head, teacher_head = (
            modules.DINOProjectionHead(32, 32, 16, 24, batch_norm=False) for _ in range(2)
        )
        self.teacher = nn.Sequential(copy.deepcopy(self.backbone), teacher_head)
        deactivate_requires_grad(self.teacher)
        self.criterion = DINOLoss(output_dim=24)

    def training_step(self, batch: View, batch_idx: int) -> Tensor:
        x0, x1 = batch[0]
        teacher_out = [self.teacher(x).detach() for x in (x0, x1)]
        return self.criterion(teacher_out, [self(x0), self(x1)], epoch=self.current_epoch)


class SwaV(SelfSupervised):
    def __init__(self) -> None:
        super().__init__()
        self.projection_head = modules.SwaVProjectionHead(32, 32, 16)
        self.prototypes = modules.SwaVPrototypes(16, 20)
        self.criterion = SwaVLoss(sinkhorn_gather_distributed=False)

    def training_step(self, batch: View, batch_idx: int) -> Tensor:
        self.prototypes.normalize()
        high = [self.prototypes(nn.functional.normalize(self(x))) for x in batch[0]]
        return self.criterion(high, [])


class LinearClassifier(SelfSupervised):
    """The evaluation that follows: a linear layer on frozen features."""

    def __init__(self) -> None:
        super().__init__()
        deactivate_requires_grad(self.backbone)
        self.fc = nn.Linear(32, 10)
        self.criterion = nn.CrossEntropyLoss()

    def training_step(self, batch: View, batch_idx: int) -> Tensor:
        x0, y = batch[0][0], batch[1]
        return self.criterion(self.fc(self.backbone(x0)), y)


CLIENTS = [
    Client("SimCLR, `NTXentLoss`", SimCLR, two_views),
    Client("MoCo, `NTXentLoss` with a memory bank", MoCo, two_views),
    Client("SimSiam, `NegativeCosineSimilarity`", SimSiam, two_views),
    Client("SimSiam, `sample_loss` returned", SimSiamSampleLoss, two_views),
    Client("Barlow Twins", BarlowTwins, two_views),
    Client("VICReg", VICReg, two_views),
    Client("DINO", DINO, two_views),
    Client("SwaV", SwaV, two_views),
    Client("linear evaluation", LinearClassifier, two_views),
]
