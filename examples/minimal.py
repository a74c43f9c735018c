"""The least there is: a stock module and loader, and one callback on the Trainer.

    python examples/minimal.py

Real images (scikit-learn's handwritten digits) with 40 % wrong labels and 150 clean ones held out.
"""

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_alignprune import DynamicPruningCallback
from lightning_alignprune.functional import symmetric_uniform


class Net(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return F.cross_entropy(self.net(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


pl.seed_everything(0)
images, labels = load_digits(return_X_y=True)
x, y = torch.from_numpy(images).float() / 16, torch.from_numpy(labels)
clean, train, test = torch.randperm(len(y)).split([150, 1247, 400])
noisy, is_wrong = symmetric_uniform(y[train], 10, 0.4, seed=0)

pruning = DynamicPruningCallback.robust(reference=TensorDataset(x[clean], y[clean]))
trainer = pl.Trainer(
    max_epochs=30,
    accelerator="cpu",
    callbacks=[pruning],
    logger=False,
    enable_checkpointing=False,
)
module = Net()
trainer.fit(module, DataLoader(TensorDataset(x[train], noisy), batch_size=32, shuffle=True))

accuracy = (module.net(x[test]).argmax(1) == y[test]).float().mean()
selection = pruning.decision.selection
kept = torch.ones_like(is_wrong) if selection is None else selection.kept
print(f"test accuracy {accuracy:.1%}")
print(
    f"wrong labels: {is_wrong.float().mean():.0%} of all, "
    f"{is_wrong[kept].float().mean():.0%} of what was kept"
)
