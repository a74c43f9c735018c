"""Which labels are wrong? A list and a page after an ordinary run.

    python examples/audit.py

scikit-learn's handwritten digits, every fifth label wrong, 150 clean ones held out. Nothing is left
out of training here; the run only watches. Writes outputs/issues.csv and outputs/audit.html.
"""

from pathlib import Path

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_alignprune import DynamicPruningCallback, InfoBatch
from lightning_alignprune.functional import symmetric_uniform

OUT = Path("outputs")


class Net(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        layers = (nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
        self.net = nn.Sequential(*layers)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return F.cross_entropy(self.net(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


pl.seed_everything(0)
images, labels = load_digits(return_X_y=True)
x = (torch.from_numpy(images).float() / 16).view(-1, 1, 8, 8)
y = torch.from_numpy(labels)
clean, train = torch.randperm(len(y)).split([150, 1647])
given, is_wrong = symmetric_uniform(y[train], 10, 0.2, seed=0)

pruning = DynamicPruningCallback(
    score="LabelPosterior",
    signal="LabelOdds",
    policy=InfoBatch(prune_probability=0.0),  # prune nothing
    reference=TensorDataset(x[clean], y[clean]),
)
trainer = pl.Trainer(
    max_epochs=8,
    accelerator="cpu",
    callbacks=[pruning],
    logger=False,
    enable_checkpointing=False,
)
trainer.fit(Net(), DataLoader(TensorDataset(x[train], given), batch_size=32, shuffle=True))

OUT.mkdir(exist_ok=True)
issues = pruning.label_issues()
issues.to_csv(OUT / "issues.csv")
pruning.report(OUT / "audit.html")
print(issues)

found = torch.zeros_like(is_wrong)
found[issues.table["index"][issues.table["is_issue"]].to_numpy()] = True
print(f"list: {OUT / 'issues.csv'}, page with pictures: {OUT / 'audit.html'}")
print(
    f"wrong labels: {is_wrong.float().mean():.0%} of all, {is_wrong[~found].float().mean():.0%} of "
    f"the rest without the {int(found.sum())} issues"
)
