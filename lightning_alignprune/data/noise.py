"""`LabelNoise`: which wrong labels a training set gets, as one object of a configuration."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from lightning_alignprune._checks import (
    check_choice,
    check_float,
    check_int,
    check_path,
    message,
    put,
)
from lightning_alignprune.data.readers.label_files import read_label_file
from lightning_alignprune.functional.label_noise.by_name import (
    NOISE_MODELS,
    NoiseModel,
    apply_label_noise,
)

NoiseKind = Literal["none", NoiseModel, "aggre", "worse", "random1", "random2", "random3", "noisy"]
NOISE_KINDS: tuple[NoiseKind, ...] = get_args(NoiseKind)
FILE_ENTRIES: dict[str, str] = {
    "aggre": "aggre_label",
    "worse": "worse_label",
    "random1": "random_label1",
    "random2": "random_label2",
    "random3": "random_label3",
    "noisy": "noisy_label",
}
"""The entry of a label file that each kind of human label stands for."""


@dataclass(frozen=True)
class LabelNoise:
    """Say which wrong labels the training samples get.

    The noise is laid over the data set's *whole* official training part, before anything is held
    out of it. So sample i has the same label whatever the sizes of the reference and validation
    sets are, and drawn noise and label files mean the same thing.

    Args:
        kind: ``"none"``; a noise model of :mod:`lightning_alignprune.functional`
            (``"symmetric_uniform"``, ``"symmetric_inclusive"``, ``"symmetric_next"``,
            ``"pairflip"``, ``"asymmetric_cifar10"``, ``"asymmetric_cifar100"``,
            ``"asymmetric_next"``); or labels from a file: ``"aggre"``, ``"worse"``, ``"random1"``,
            ``"random2"``, ``"random3"`` (CIFAR-10N), ``"noisy"`` (CIFAR-100N, and files that
            ``alignprune noise`` makes).
        rate: The model's rate, in [0, 1]. Only for noise models.
        seed: Seed of the model's draw. Only for noise models.
        file: The label file. None takes the data set's own, in its folder. Only for file labels.

    Raises:
        TypeError: If a value is of the wrong kind.
        ValueError: If a value is out of range, or is set where it would have no effect.

    Example:
        >>> noise = LabelNoise("pairflip", rate=0.5)
        >>> labels, mask = noise.apply(torch.tensor([0, 1, 2, 0]), num_classes=3)
        >>> int(mask.sum())
        2
    """

    kind: NoiseKind = "none"
    rate: float = 0.0
    seed: int = 0
    file: str | None = None

    def __post_init__(self) -> None:
        owner, share, name = "LabelNoise", "It is a share of labels.", "Name a file."
        file = self.file
        put(
            self,
            kind=check_choice(owner, "kind", self.kind, NOISE_KINDS),
            rate=check_float(owner, "rate", self.rate, low=0, high=1, remedy=share),
            seed=check_int(owner, "seed", self.seed, low=0, remedy="Any int from 0 on will do."),
            file=None if file is None else check_path(owner, "file", file, remedy=name),
        )
        if not self.is_drawn and self.rate:
            remedy = "Its labels are what they are; leave rate out, or choose a noise model."
            raise ValueError(
                message("LabelNoise", "rate", f"to be 0 for kind {self.kind!r}", self.rate, remedy)
            )
        if not self.is_from_file and self.file is not None:
            remedy = 'Leave file out, or choose the kind that the file holds, such as "noisy".'
            raise ValueError(
                message("LabelNoise", "file", f"to be None for {self.kind!r}", self.file, remedy)
            )

    @property
    def is_drawn(self) -> bool:
        """Whether a noise model draws the labels."""
        return self.kind in NOISE_MODELS

    @property
    def is_from_file(self) -> bool:
        """Whether the labels come from a file."""
        return self.kind in FILE_ENTRIES

    def apply(
        self, clean: Tensor, num_classes: int, own_file: Path | None = None, advice: str = ""
    ) -> tuple[Tensor, Tensor]:
        """Return the labels to train on and the mask of the wrong ones.

        Args:
            clean: Shape (N,), int64, the true labels of the whole training part.
            num_classes: C.
            own_file: Where the data set's own label file would be.
            advice: What to do if it is not there.

        Returns:
            Labels, shape (N,), int64; mask of the changed ones, shape (N,), bool.

        Raises:
            FileNotFoundError: If the label file is not there.
            ValueError: If it does not belong to this data set.
        """
        if self.kind == "none":
            return clean.clone(), torch.zeros_like(clean, dtype=torch.bool)
        if not self.is_from_file:
            return apply_label_noise(clean, self.kind, self.rate, self.seed, num_classes)  # type: ignore[arg-type]
        path = Path(self.file) if self.file is not None else own_file
        if path is None:
            raise ValueError(
                message("LabelNoise", "file", f"for kind {self.kind!r}", None, "Name the file.")
            )
        if not path.is_file():
            raise FileNotFoundError(
                message("LabelNoise", "a label file", f"for kind {self.kind!r}", str(path), advice)
            )
        return _from_file(path, FILE_ENTRIES[self.kind], clean, num_classes)


def _from_file(path: Path, name: str, clean: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    entries = read_label_file(path)
    if name not in entries:
        listed = ", ".join(sorted(entries))
        raise ValueError(
            message("LabelNoise", f"an entry {name!r}", f"in {path}", listed, "Choose its kind.")
        )
    for entry in {name, "clean_label"} & set(entries):
        if len(entries[entry]) != len(clean):
            constraint = f"of {path} to have {len(clean)} labels"
            remedy = "It belongs to another data set, or to a part of one."
            raise ValueError(message("LabelNoise", entry, constraint, len(entries[entry]), remedy))
    if "clean_label" in entries and not torch.equal(entries["clean_label"], clean):
        first = int((entries["clean_label"] != clean).nonzero()[0])
        raise ValueError(
            f"LabelNoise: expected clean_label of {path} to equal the labels of the data set, got "
            f"{int(entries['clean_label'][first])} instead of {int(clean[first])} at index "
            f"{first}. The two are ordered differently; the labels would land on wrong samples."
        )
    labels = entries[name]
    outside = ((labels < 0) | (labels >= num_classes)).nonzero()
    if len(outside):
        first = int(outside[0])
        constraint = f"of {path} in [0, {num_classes - 1}]"
        value = f"{int(labels[first])} at index {first}"
        raise ValueError(message("LabelNoise", name, constraint, value, "Check the file."))
    return labels, labels != clean
