"""A run that is interrupted goes on as if it had not been: same selections, same weights.

    python examples/resume.py

The checkpoint is Lightning's own; the callback keeps its part in it, also within an epoch.
"""

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import ModelCheckpoint
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_alignprune import DynamicPruningCallback
from lightning_alignprune.functional import symmetric_uniform


class Net(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        dropout = nn.Dropout(0.2)  # random: restore_rng=True brings its draws back too
        self.net = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), dropout, nn.Linear(256, 10))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return F.cross_entropy(self.net(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


class PowerCut(pl.Callback):
    """Ends the run in the middle of an epoch."""

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        if trainer.global_step == 250:
            raise SystemExit("the power is gone")


def fit(*others: pl.Callback, ckpt_path: str | None = None) -> Net:
    pl.seed_everything(0)
    images, labels = load_digits(return_X_y=True)
    x, y = torch.from_numpy(images).float() / 16, torch.from_numpy(labels)
    clean, train = torch.randperm(len(y)).split([150, 1647])
    noisy, _ = symmetric_uniform(y[train], 10, 0.4, seed=0)
    reference = TensorDataset(x[clean], y[clean])
    trainer = pl.Trainer(
        max_epochs=10,
        accelerator="cpu",
        callbacks=[
            DynamicPruningCallback.robust(reference=reference, restore_rng=True),
            ModelCheckpoint("checkpoints", every_n_train_steps=70, save_last=True),
            *others,
        ],
        logger=False,
        enable_progress_bar=False,
    )
    module = Net()
    loader = DataLoader(TensorDataset(x[train], noisy), batch_size=32, shuffle=True)
    trainer.fit(module, loader, ckpt_path=ckpt_path)
    return module


try:
    fit(PowerCut())
except SystemExit as error:
    print(f"{error} at step 250")
resumed = fit(ckpt_path="checkpoints/last.ckpt")
whole = fit()
is_equal = all(
    torch.equal(a, b) for a, b in zip(resumed.parameters(), whole.parameters(), strict=True)
)
print(f"interrupted and whole run end with the same weights: {is_equal}")
