"""What is trained on what: data, noises, network, recipe, and the paper's numbers beside it."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.utils.data import Dataset
from torchvision.datasets import FashionMNIST
from torchvision.transforms import v2

from lightning_alignprune.data import CIFAR10DataModule, LabelNoise, NewsDataModule, Split
from lightning_alignprune.data.splits import hold_out, subset
from lightning_alignprune.functional.draws import draw_seed
from lightning_alignprune.models import mlp3, small_cnn
from lightning_alignprune.models.optimisation import ScheduleName

Transform = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Pool:
    """The official training and test part of a data set, with true labels; M training samples."""

    inputs: Tensor
    labels: Tensor
    test_inputs: Tensor
    test_labels: Tensor

    def save(self, path: Path) -> None:
        torch.save(vars(self), path)

    @classmethod
    def read(cls, path: Path) -> "Pool":
        return cls(**torch.load(path, weights_only=True))


@dataclass(frozen=True)
class Recipe:
    """How a task is trained, the same for all of its rows.

    ``precision`` is the Trainer's; it is part of every JSON, so results are not mixed.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 0.0
    momentum: float = 0.9
    precision: str = "32-true"
    reference_size: int = 1000
    train_size: int | None = None
    schedule: ScheduleName = "constant"


class Noise(Protocol):
    """Anything that lays wrong labels over a training set, as `LabelNoise` does."""

    def apply(self, clean: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
        """Return the labels to train on, (N,), and the mask of the wrong ones, (N,)."""


@dataclass(frozen=True)
class Task:
    """One table: a data set, the noises of its columns, and how it is trained.

    Attributes:
        noises: The noise of each column, made for a seed and the data folder.
        load: Reads the pool from the data folder.
        network: Builds the network.
        transform: Turns stored inputs (B, ...) into what the network takes.
        augmentation: Changes stored inputs (B, ...) of the training part before that, at random.
        paper: The paper's accuracy by method and noise, where there is one.
        paper_note: What keeps the paper's numbers from being comparable.
        tuning: Seed and noise on which the learning rate was chosen. The seed is in no table.
    """

    name: str
    num_classes: int
    recipe: Recipe
    noises: dict[str, Callable[[int, Path], Noise]]
    load: Callable[[Path], Pool]
    network: Callable[[], nn.Module]
    tuning: tuple[int, str]
    transform: Transform = torch.Tensor.float
    augmentation: Transform | None = None
    paper: dict[str, dict[str, float]] = field(default_factory=dict)
    paper_note: str = ""

    def pool(self, data_dir: Path, cache_dir: Path) -> Pool:
        """Read the data, once for all runs: they do not depend on noise or seed."""
        cache = cache_dir / f"{self.name}_pool.pt"
        if cache.is_file():
            return Pool.read(cache)
        pool = self.load(data_dir)
        # A stopped write must not be taken for a cache.
        unfinished = cache.with_suffix(".unfinished")
        pool.save(unfinished)
        unfinished.replace(cache)
        return pool


class Batches(Dataset[Any]):
    """Rows of two tensors, read a whole batch at a time: use with ``collate_fn=unchanged``."""

    def __init__(self, inputs: Tensor, labels: Tensor, transform: Transform) -> None:
        self.inputs, self.labels, self.transform = inputs, labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        inputs, labels = self.__getitems__([index])
        return inputs[0], labels[0]

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        rows = torch.as_tensor(indices)
        return self.transform(self.inputs[rows]), self.labels[rows]


def unchanged(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Collate nothing: :class:`Batches` reads whole batches."""
    return batch


@dataclass(frozen=True)
class Parts:
    """The data of one run; ``is_wrong`` marks the wrong labels of the training part, (N,)."""

    train: Batches
    is_wrong: Tensor
    reference: Batches
    test: Batches


def parts_of(task: Task, pool: Pool, recipe: Recipe, noise: Noise, seed: int) -> Parts:
    """Lay the noise over the training part, then hold the reference out with its true labels."""
    noisy, is_wrong = noise.apply(pool.labels, task.num_classes)
    reference, _, rest = hold_out(
        task.name, len(pool.labels), seed, reference_size=recipe.reference_size, val_size=0
    )
    train = subset(task.name, rest, recipe.train_size, seed)
    change, augment = task.transform, task.augmentation
    return Parts(
        Batches(pool.inputs[train], noisy[train], lambda x: change(augment(x) if augment else x)),
        is_wrong[train],
        Batches(pool.inputs[reference], pool.labels[reference], task.transform),
        Batches(pool.test_inputs, pool.test_labels, task.transform),
    )


def _drawn(kind: Any, rate: float) -> Callable[[int, Path], LabelNoise]:
    return lambda seed, _: LabelNoise(kind, rate=rate, seed=seed)


def _clean(seed: int, data_dir: Path) -> LabelNoise:
    return LabelNoise("none")


def _human(kind: Any) -> Callable[[int, Path], LabelNoise]:
    def make(seed: int, data_dir: Path) -> LabelNoise:
        converted = data_dir / "cifar10n_labels.npz"
        official = data_dir / "CIFAR-10_human.pt"
        return LabelNoise(kind, file=str(converted if converted.is_file() else official))

    return make


def load_news(data_dir: Path, num_terms: int = 20_000, num_features: int = 300) -> Pool:
    """Read 20 Newsgroups as TF-IDF features reduced by an SVD."""
    data = NewsDataModule(
        str(data_dir),
        num_terms=num_terms,
        num_features=num_features,
        split=Split(0, 0),  # the reference is held out anew for each seed
    )
    data.setup()
    train, test = data.sets.train, data.sets.test
    return Pool(train.inputs, data.clean_labels(), test.inputs, test.labels)  # type: ignore[attr-defined]


def load_cifar10(data_dir: Path) -> Pool:
    """Read CIFAR-10 from one archive of JPEG images if it is there, else the official files."""
    archive = data_dir / "cifar10_jpeg.npz"
    data = CIFAR10DataModule(
        str(data_dir),
        jpeg_archive=str(archive) if archive.is_file() else None,
        split=Split(0, 0),
    )
    data.setup()
    train, test = data.sets.train, data.sets.test
    return Pool(train.inputs, data.clean_labels(), test.inputs, test.labels)  # type: ignore[attr-defined]


def _normalised(images: Tensor) -> Tensor:
    mean = torch.tensor([0.4914, 0.4822, 0.4465]).view(3, 1, 1)
    std = torch.tensor([0.2470, 0.2435, 0.2616]).view(3, 1, 1)
    return images.float().div(255).sub(mean).div(std)


_crop_and_flip = v2.Compose([v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip()])


def _augmented(images: Tensor) -> Tensor:
    return torch.stack([_crop_and_flip(image) for image in images])


NEWS = Task(
    name="news",
    num_classes=20,
    recipe=Recipe(epochs=100, batch_size=256, learning_rate=0.003, precision="bf16-mixed"),
    noises={
        "clean": _clean,
        "symmetric 0.5": _drawn("symmetric_uniform", 0.5),
        "symmetric 0.2": _drawn("symmetric_uniform", 0.2),
        "pairflip 0.45": _drawn("pairflip", 0.45),
        "symmetric 0.8": _drawn("symmetric_uniform", 0.8),
        "pairflip 0.2": _drawn("pairflip", 0.2),
    },
    load=load_news,
    network=lambda: mlp3(20),
    # Of 0.001, 0.003, 0.01, 0.03 and 0.1 the rate with the lowest reference loss: --choose-lr.
    tuning=(100, "symmetric 0.5"),
    paper={
        "full": {
            "clean": 42.5,
            "symmetric 0.2": 37.1,
            "symmetric 0.5": 26.7,
            "pairflip 0.45": 26.5,
        },
        "infobatch": {"symmetric 0.2": 36.7},
        "alignprune": {
            "clean": 42.9,
            "symmetric 0.2": 37.9,
            "symmetric 0.5": 28.4,
            "pairflip 0.45": 27.7,
        },
    },
    paper_note=(
        "The paper (Table H) has 7 joined classes, pooled word embeddings and Adam for 200 epochs; "
        "here are the 20 newsgroups, TF-IDF features and SGD. Compare differences to full "
        "training, not accuracies."
    ),
)

CIFAR10N = Task(
    name="cifar10n",
    num_classes=10,
    recipe=Recipe(
        epochs=60,
        batch_size=128,
        learning_rate=0.05,
        precision="bf16-mixed",
        train_size=10_000,
    ),
    noises={
        "worse": _human("worse"),
        "aggre": _human("aggre"),
        "random1": _human("random1"),
        "clean": _clean,
    },
    load=load_cifar10,
    # Twice as fast on a CPU.
    network=lambda: small_cnn(10).to(memory_format=torch.channels_last),
    tuning=(100, "worse"),
    transform=_normalised,
    paper={
        "full": {"worse": 78.3},
        "infobatch": {"worse": 78.1},
        "seta": {"worse": 76.3},
        "alignprune": {"worse": 82.0},
    },
    paper_note=(
        "The paper (Table 2, 30 % pruned) trains ResNet-18 on 50,000 images with augmentation; "
        "here are a small CNN, 10,000 images and none."
    ),
)

CIFAR10N_AUGMENTED = dataclasses.replace(
    CIFAR10N,
    name="cifar10n_augmented",
    augmentation=_augmented,
    paper_note=(
        "The paper (Table 2, 30 % pruned) trains ResNet-18 on 50,000 images; here are a small CNN "
        "and 10,000 images, randomly cropped and flipped."
    ),
)


@dataclass(frozen=True)
class LookAlikes:
    """Give samples the label of the class that people take theirs for.

    Args:
        others: For each class the one it is taken for.
        rate: Share of the labels, in [0, 1].
        seed: Seed of the draw.
    """

    others: Sequence[int]
    rate: float
    seed: int

    def apply(self, clean: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(draw_seed(self.seed, 0))
        is_drawn = torch.rand(len(clean), generator=generator) < self.rate
        labels = torch.where(is_drawn, torch.tensor(self.others)[clean], clean)
        return labels, labels != clean


# T-shirt and shirt, trousers and dress, pullover and coat, sandal and sneaker, bag and boot.
_SIMILAR_CLOTHES = (6, 3, 4, 0, 2, 7, 0, 9, 8, 7)


def load_fashion(data_dir: Path) -> Pool:
    """Read the official files by torchvision's data set."""
    train, test = (FashionMNIST(str(data_dir), train=part) for part in (True, False))
    return Pool(train.data.unsqueeze(1), train.targets, test.data.unsqueeze(1), test.targets)


def _standardised(images: Tensor) -> Tensor:
    return images.float().div(255).sub(0.286).div(0.353)


def _shift_and_flip(images: Tensor) -> Tensor:
    """Shift each image by up to two pixels and mirror half of them."""
    count, _, height, width = images.shape
    images = torch.where((torch.rand(count) < 0.5).view(-1, 1, 1, 1), images.flip(3), images)
    rows = torch.randint(0, 5, (count, 1)) + torch.arange(height)
    columns = torch.randint(0, 5, (count, 1)) + torch.arange(width)
    padded, each = pad(images, (2, 2, 2, 2)), torch.arange(count).view(-1, 1, 1)
    return padded[each, 0, rows.unsqueeze(2), columns.unsqueeze(1)].unsqueeze(1)


def _fashion_cnn() -> nn.Module:
    layers: list[nn.Module] = []
    for into, out, stride in ((1, 24, 2), (24, 48, 2), (48, 48, 1), (48, 96, 2)):
        convolution = nn.Conv2d(into, out, 3, stride, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(out), nn.ReLU(inplace=True)]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 10))
    return network.to(memory_format=torch.channels_last)


FASHION = Task(
    name="fashion",
    num_classes=10,
    recipe=Recipe(
        epochs=30,
        batch_size=128,
        learning_rate=0.2,
        weight_decay=5e-4,
        reference_size=500,
        train_size=10_000,
        schedule="one_cycle",
    ),
    noises={
        "pairflip 0.4": _drawn("pairflip", 0.4),
        "symmetric 0.5": _drawn("symmetric_uniform", 0.5),
        "look-alikes 0.4": lambda seed, _: LookAlikes(_SIMILAR_CLOTHES, 0.4, seed),
        "symmetric 0.2": _drawn("symmetric_uniform", 0.2),
        "clean": _clean,
    },
    load=load_fashion,
    network=_fashion_cnn,
    tuning=(100, "pairflip 0.4"),
    transform=_standardised,
    augmentation=_shift_and_flip,
)

TASKS = {task.name: task for task in (NEWS, FASHION, CIFAR10N, CIFAR10N_AUGMENTED)}
