"""Two processes: the callback is the same, every rank trains its share of one selection.

    torchrun --nproc_per_node 2 examples/ddp_torchrun.py

The Trainer finds what torchrun has set up. On GPUs, take accelerator="gpu" and one process each;
without torchrun, `python` starts the processes itself.
"""

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_alignprune import DynamicPruningCallback, PruningSchedule
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


if __name__ == "__main__":  # every process imports this file
    torch.set_num_threads(1)
    pl.seed_everything(0)  # the same split and the same wrong labels on every rank
    images, labels = load_digits(return_X_y=True)
    x, y = torch.from_numpy(images).float() / 16, torch.from_numpy(labels)
    clean, train = torch.randperm(len(y)).split([150, 1647])
    noisy, is_wrong = symmetric_uniform(y[train], 10, 0.4, seed=0)

    pruning = DynamicPruningCallback.alignprune(
        reference=TensorDataset(x[clean], y[clean]),
        window=5,
        schedule=PruningSchedule(finish="selected"),
    )
    trainer = pl.Trainer(
        max_epochs=8,
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        callbacks=[pruning],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.fit(Net(), DataLoader(TensorDataset(x[train], noisy), batch_size=32, shuffle=True))

    selection = pruning.decision.selection
    kept = torch.ones_like(is_wrong) if selection is None else selection.kept
    print(f"rank {trainer.global_rank}: {kept.sum()} samples kept, checksum {kept.nonzero().sum()}")
