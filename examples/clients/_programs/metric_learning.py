"""pytorch-metric-learning: ``loss_func(embeddings, labels, hard_pairs)``."""

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from _check import Client
from _data import digits, loader
from pytorch_metric_learning import losses, miners
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


class Embedding(pl.LightningModule):
    def __init__(self, loss: nn.Module, miner: nn.Module | None = None) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 16))
        self.loss_func, self.miner = loss, miner

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        data, labels = batch
        embeddings = self.trunk(data)
        hard_pairs = None if self.miner is None else self.miner(embeddings, labels)
        return self.loss_func(embeddings, labels, hard_pairs)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


class Classes(Embedding):
    """Losses with a vector for each class take no pairs."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        data, labels = batch
        return self.loss_func(self.trunk(data), labels)


def images() -> DataLoader[Any]:
    return loader(TensorDataset(*digits()), batch_size=16)


def of_classes(loss: Callable[..., nn.Module], **settings: Any) -> Callable[[], Classes]:
    return lambda: Classes(loss(num_classes=10, embedding_size=16, **settings))


CLIENTS = [
    Client("`ArcFaceLoss`", of_classes(losses.ArcFaceLoss), images),
    Client("`CosFaceLoss`", of_classes(losses.CosFaceLoss), images),
    Client("`NormalizedSoftmaxLoss`", of_classes(losses.NormalizedSoftmaxLoss), images),
    Client("`SoftTripleLoss`", of_classes(losses.SoftTripleLoss), images),
    Client("`ProxyAnchorLoss`", of_classes(losses.ProxyAnchorLoss), images),
    Client(
        "`TripletMarginLoss` with a miner",
        lambda: Embedding(losses.TripletMarginLoss(), miners.MultiSimilarityMiner()),
        images,
    ),
    Client("`ContrastiveLoss`", lambda: Embedding(losses.ContrastiveLoss()), images),
    Client("`NTXentLoss`", lambda: Embedding(losses.NTXentLoss()), images),
    Client("`SupConLoss`", lambda: Embedding(losses.SupConLoss()), images),
    Client("`InstanceLoss`", lambda: Embedding(losses.InstanceLoss()), images),
]
