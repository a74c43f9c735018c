"""Numbers instead of classes: a squared error, some targets wrong.

    python examples/regression.py

scikit-learn's diabetes table, every fifth target replaced by another patient's. AlignPrune needs no
classes: it compares each sample's squared errors over the epochs with those of clean samples.
"""

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from sklearn.datasets import load_diabetes
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_alignprune import (
    DynamicAlignment,
    DynamicPruningCallback,
    InfoBatch,
    PruningSchedule,
)


class Net(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(10, 128), nn.ReLU(), nn.Linear(128, 1))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return F.mse_loss(self.net(x).squeeze(1), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


pl.seed_everything(0)
table, targets = load_diabetes(return_X_y=True)
x, y = torch.from_numpy(table).float(), torch.from_numpy(targets).float()
x, y = (x - x.mean(0)) / x.std(0), (y - y.mean()) / y.std()
train, clean, test = torch.randperm(len(y)).split([262, 80, 100])
is_wrong = torch.rand(len(train)) < 0.2
given = torch.where(is_wrong, y[train][torch.randperm(len(train))], y[train])

pruning = DynamicPruningCallback(
    score=DynamicAlignment(window=10, gate="reference"),
    policy=InfoBatch(prune_probability=1.0, rescale="none"),
    schedule=PruningSchedule(start_epoch=5, finish="selected"),
    reference=TensorDataset(x[clean], y[clean]),
)
trainer = pl.Trainer(max_epochs=30, accelerator="cpu", callbacks=[pruning], logger=False)
module = Net()
trainer.fit(module, DataLoader(TensorDataset(x[train], given), batch_size=32, shuffle=True))

error = F.mse_loss(module.net(x[test]).squeeze(1), y[test]).sqrt()
selection = pruning.decision.selection
kept = torch.ones_like(is_wrong) if selection is None else selection.kept
print(f"test error {error:.2f} standard deviations")
print(
    f"wrong targets: {is_wrong.float().mean():.0%} of all, "
    f"{is_wrong[kept].float().mean():.0%} of what was kept"
)
