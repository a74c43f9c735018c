"""One full training, written down: what the network said of every sample in every epoch.

Legend: ``E`` epochs, ``N`` training samples, ``n`` reference samples, ``C`` classes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from _table.tasks import load_news
from sklearn.datasets import load_digits
from torch import Tensor, nn

from lightning_alignprune.functional import pairflip, symmetric_uniform
from lightning_alignprune.models import mlp3

NOISES: dict[str, Callable[..., Any]] = {"pairflip": pairflip, "symmetric": symmetric_uniform}


@dataclass(frozen=True)
class Recording:
    """A training run on all samples.

    To compare scores on a run of your own, fill one of these and ``save`` it.

    Attributes:
        logits: Shape (E, N, C), float16. As seen in training, before the step that learns from it.
        given: Shape (N,), int64. The labels that were trained.
        true: Shape (N,), int64. The labels as they should be.
        reference_logits: Shape (E, n, C), float32. After each epoch.
        reference_labels: Shape (n,), int64.
        accuracies: Shape (E,). Test accuracy after each epoch.
        name: What it is a record of.
    """

    logits: Tensor
    given: Tensor
    true: Tensor
    reference_logits: Tensor
    reference_labels: Tensor
    accuracies: Tensor
    name: str = "run"

    @property
    def is_wrong(self) -> Tensor:
        return self.given != self.true

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(vars(self), path)

    @classmethod
    def read(cls, path: Path) -> "Recording":
        return cls(**torch.load(path, weights_only=True))


@dataclass(frozen=True)
class Data:
    """Inputs and true labels of training, reference and test set, and how a network learns them."""

    inputs: Tensor
    labels: Tensor
    reference: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    make_network: Callable[[], nn.Module]
    learning_rate: float
    batch_size: int = 64


def digits(seed: int, reference_size: int) -> Data:
    """Handwritten digits of scikit-learn: 8 x 8 pixels, ten classes, 1,000 training images."""
    x, y = (torch.from_numpy(part) for part in load_digits(return_X_y=True))
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    x, y = (x[order] / 16).float(), y[order]
    held = slice(1000, 1000 + reference_size)
    return Data(
        x[:1000],
        y[:1000],
        (x[held], y[held]),
        (x[held.stop :], y[held.stop :]),
        lambda: nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10)),
        learning_rate=0.1,
    )


def separable(seed: int, reference_size: int) -> Data:
    """Five classes, far apart: what can be told apart must be."""
    generator = torch.Generator().manual_seed(seed)
    centres = 3 * torch.randn(5, 20, generator=generator)
    y = torch.randint(0, 5, (4000 + reference_size,), generator=generator)
    x = centres[y] + torch.randn(len(y), 20, generator=generator)
    held = slice(3000, 3000 + reference_size)
    return Data(
        x[:3000],
        y[:3000],
        (x[held], y[held]),
        (x[held.stop :], y[held.stop :]),
        lambda: nn.Sequential(nn.Linear(20, 128), nn.ReLU(), nn.Linear(128, 5)),
        learning_rate=0.05,
    )


def news(folder: Path, seed: int, reference_size: int) -> Data:
    """20 Newsgroups, as in the tables of the documentation; the features take some seconds."""
    pool = load_news(folder)
    order = torch.randperm(len(pool.labels), generator=torch.Generator().manual_seed(seed))
    held, rest = order[:reference_size], order[reference_size:]
    return Data(
        pool.inputs[rest],
        pool.labels[rest],
        (pool.inputs[held], pool.labels[held]),
        (pool.test_inputs, pool.test_labels),
        lambda: mlp3(20),
        learning_rate=0.03,
        batch_size=128,
    )


@dataclass(frozen=True)
class Plan:
    """What to record."""

    epochs: int
    noise: str = "none"
    rate: float = 0.0
    seed: int = 0

    def __str__(self) -> str:
        return "clean" if self.noise == "none" else f"{self.noise} {self.rate:g}"


def record(name: str, data: Data, plan: Plan) -> Recording:
    """Train on all samples with SGD and momentum, and write down every logit."""
    num_classes = int(data.labels.max()) + 1
    given = data.labels
    if plan.noise != "none":
        given, _ = NOISES[plan.noise](data.labels, num_classes, plan.rate, plan.seed)
    torch.manual_seed(plan.seed)
    network = data.make_network()
    optimizer = torch.optim.SGD(network.parameters(), lr=data.learning_rate, momentum=0.9)
    logits = torch.zeros(plan.epochs, len(given), num_classes, dtype=torch.float16)
    reference, accuracies = [], []
    for epoch in range(plan.epochs):
        for batch in torch.randperm(len(given)).split(data.batch_size):
            seen = network(data.inputs[batch])
            optimizer.zero_grad()
            F.cross_entropy(seen, given[batch]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            logits[epoch, batch] = seen.detach().half()
        with torch.no_grad():
            reference.append(network(data.reference[0]))
            is_right = network(data.test[0]).argmax(1) == data.test[1]
        accuracies.append(is_right.float().mean())
    return Recording(
        logits,
        given,
        data.labels,
        torch.stack(reference),
        data.reference[1],
        torch.stack(accuracies),
        f"{name}, {plan}",
    )
