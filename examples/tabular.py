"""A table with a yes-or-no answer: binary cross-entropy, some answers wrong.

    python examples/tabular.py

scikit-learn's breast-cancer table, 30 % of the answers flipped. The clean reference is the
validation set, which is looked at anyway and costs nothing.
"""

from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from sklearn.datasets import load_breast_cancer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_alignprune import (
    DynamicPruningCallback,
    InfoBatch,
    MeanLoss,
    PruningSchedule,
)


class Table(pl.LightningDataModule):
    def __init__(self) -> None:
        super().__init__()
        table, answers = load_breast_cancer(return_X_y=True)
        x, y = torch.from_numpy(table).float(), torch.from_numpy(answers).float()
        x = (x - x.mean(0)) / x.std(0)
        train, clean = torch.randperm(len(y)).split([419, 150])
        self.is_wrong = torch.rand(len(train)) < 0.3
        noisy = torch.where(self.is_wrong, 1 - y[train], y[train])
        self.train_set = TensorDataset(x[train], noisy)
        self.clean_set = TensorDataset(x[clean], y[clean])

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.train_set, batch_size=32, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.clean_set, batch_size=150)


class Net(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(30, 128), nn.ReLU(), nn.Linear(128, 1))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return F.binary_cross_entropy_with_logits(self.net(x).squeeze(1), y)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, y = batch
        logits = self.net(x).squeeze(1)
        self.log("val_loss", F.binary_cross_entropy_with_logits(logits, y), prog_bar=True)
        self.log("val_acc", ((logits > 0) == y.bool()).float().mean(), prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


pl.seed_everything(0)
data = Table()
pruning = DynamicPruningCallback(
    score=MeanLoss(gate="reference"),  # listens until the network starts to memorise
    policy=InfoBatch(prune_probability=1.0, rescale="none"),  # a high mean loss is cut for good
    schedule=PruningSchedule(start_epoch=4, finish="selected"),
    reference="validation",
)
trainer = pl.Trainer(max_epochs=30, accelerator="cpu", callbacks=[pruning], logger=False)
trainer.fit(Net(), data)

selection = pruning.decision.selection
kept = torch.ones_like(data.is_wrong) if selection is None else selection.kept
print(f"validation accuracy {trainer.callback_metrics['val_acc']:.1%}")
print(
    f"wrong answers: {data.is_wrong.float().mean():.0%} of all, "
    f"{data.is_wrong[kept].float().mean():.0%} of what was kept"
)
