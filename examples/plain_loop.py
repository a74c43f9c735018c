"""Without a Trainer: a loop of your own, in plain PyTorch or in Lightning Fabric.

    python examples/plain_loop.py
    python examples/plain_loop.py --fabric

`PruningRun` takes a method's settings from the callback, deals out each epoch's batches, and reads
each sample's loss while the step runs. Modes, devices and learning rates are yours.
"""

import sys

import torch
import torch.nn.functional as F
from lightning.fabric import Fabric
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_alignprune import DynamicPruningCallback, PruningRun
from lightning_alignprune.functional import symmetric_uniform

EPOCHS = 20


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: DataLoader[tuple[Tensor, ...]],
    clean: DataLoader[tuple[Tensor, ...]],
    run: PruningRun,
    fabric: Fabric | None = None,
) -> None:
    def training_step(x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(model(x), y)

    for epoch in run.epochs():
        model.train()
        for x, y in data:
            optimizer.zero_grad()
            loss = run.step(training_step, x, y)
            fabric.backward(loss) if fabric else loss.backward()
            optimizer.step()
        model.eval()
        reference = run.measure_reference(training_step, clean)
        run.end_epoch()
        if epoch % 5 == 0:
            kept = run.metrics()["kept_fraction"]
            print(f"epoch {epoch}: clean loss {reference:.2f}, next epoch trains {kept:.0%}")


torch.manual_seed(0)
images, labels = load_digits(return_X_y=True)
x, y = torch.from_numpy(images).float() / 16, torch.from_numpy(labels)
clean, train_part, test = torch.randperm(len(y)).split([150, 1247, 400])
noisy, is_wrong = symmetric_uniform(y[train_part], 10, 0.4, seed=0)
train_set = TensorDataset(x[train_part], noisy)

method = DynamicPruningCallback.robust()
run = PruningRun(method, train_set, batch_size=32, max_epochs=EPOCHS)
data = DataLoader(train_set, batch_sampler=run.batches)
clean_loader = DataLoader(TensorDataset(x[clean], y[clean]), batch_size=150)
model: nn.Module = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

if "--fabric" in sys.argv:
    fabric = Fabric(accelerator="cpu", devices=1)
    model, optimizer = fabric.setup(model, optimizer)
    data, clean_loader = fabric.setup_dataloaders(data, clean_loader)
    train(model, optimizer, data, clean_loader, run, fabric)
else:
    train(model, optimizer, data, clean_loader, run)

accuracy = (model(x[test]).argmax(1) == y[test]).float().mean()
possible = EPOCHS * len(train_set)
print(f"test accuracy {accuracy:.1%}, {run.record.passes_saved} of {possible} passes saved")
