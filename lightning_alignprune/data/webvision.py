"""Mini-WebVision: the first classes of WebVision 1.0, images that Google found for their names."""

from pathlib import Path

import torch
from torch import nn
from typing_extensions import override

from lightning_alignprune._checks import check_number, message
from lightning_alignprune._extras import require
from lightning_alignprune.data.base import NoisyLabelDataModule, ReferenceSource, Sets
from lightning_alignprune.data.datasets import ImageFileDataset, packed_paths
from lightning_alignprune.data.readers.image_lists import check_image, read_labels
from lightning_alignprune.data.splits import Size, hold_out, subset
from lightning_alignprune.data.transforms import resized_eval, resized_train

_OWNER = "WebVisionDataModule"
_ADVICE = (
    "Get WebVision 1.0 from https://data.vision.ee.ethz.ch/cvl/webvision/download.html: info.tar, "
    "the resized Google images (google_resized_256.tar, unpacked to google/) and "
    "val_images_256.tar, all unpacked into that folder."
)


class WebVisionDataModule(NoisyLabelDataModule):
    """The Google subset of WebVision 1.0, first 50 classes: 65,944 images with web noise.

    Classes keep their official numbers (those of ImageNet-1K); samples keep the order of
    ``info/train_filelist_google.txt`` and ``info/val_filelist.txt``. Nobody knows which training
    labels are wrong. The clean images, 50 per class, are the official validation part: reference
    and validation samples are taken from it, and the *test* part is what remains of it, so that
    accuracy is that of unseen images. With ``reference_size=0, val_size=0`` the test part is the
    whole validation part, as in published tables.

    Args:
        data_dir: Folder with ``info/``, ``google/`` and ``val_images_256/``.
        first_classes: Classes 0 to this number less one are used.
        image_size: Side of the square images that the model gets, at least 8.
        train_transform: Replaces squashing, mirror, padded crop and normalisation; takes a PIL
            image.
        eval_transform: Replaces squashing, centre crop and normalisation; takes a PIL image.
        reference_size: Samples of the official validation part for the reference: a count or a
            share.
        val_size: Samples of it for validation: a count or a share.
        train_size: How many training samples are used; None for all.
        split_seed: Seed of the draw that divides the validation part.
        reference_source: ``"held_out"``, ``"val"`` or, if you say so, ``"test"``.
        batch_size: Samples per training batch.
        eval_batch_size: Samples per batch elsewhere; None for ``batch_size``.
        num_workers: Processes that read and decode.
        pin_memory: Whether batches are put into pinned memory.

    Raises:
        ModuleNotFoundError: If torchvision is not installed.
        FileNotFoundError: In ``setup``, if files are missing; says what to fetch and where to put
            it.
        ValueError: If a value is out of range or a list is damaged.

    Example:
        >>> WebVisionDataModule().num_classes
        50
    """

    def __init__(
        self,
        data_dir: str = "data/webvision",
        first_classes: int = 50,
        image_size: int = 224,
        train_transform: nn.Module | None = None,
        eval_transform: nn.Module | None = None,
        reference_size: Size = 0.2,
        val_size: Size = 0.2,
        train_size: Size | None = None,
        split_seed: int = 0,
        reference_source: ReferenceSource = "held_out",
        batch_size: int = 32,
        eval_batch_size: int | None = None,
        num_workers: int = 4,
        pin_memory: bool = False,
    ) -> None:
        super().__init__(
            reference_size=reference_size,
            val_size=val_size,
            train_size=train_size,
            split_seed=split_seed,
            reference_source=reference_source,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            pin_memory=pin_memory,
        )
        require("torchvision", "vision", _OWNER)
        check_number(
            _OWNER, "first_classes", first_classes, low=2, integer=True, remedy="50 is usual."
        )
        check_number(_OWNER, "image_size", image_size, low=8, integer=True, remedy="224 is usual.")
        self.data_dir = data_dir
        self.num_classes = first_classes
        self.image_size = image_size
        self.train_transform = train_transform
        self.eval_transform = eval_transform

    @override
    def make_sets(self) -> Sets:
        root = Path(self.data_dir)
        paths, noisy = self._read(root / "info" / "train_filelist_google.txt", root)
        val_root = root / "val_images_256"
        val_paths, clean = self._read(root / "info" / "val_filelist.txt", val_root)
        reference, val, test = hold_out(
            _OWNER,
            len(clean),
            self.split_seed,
            reference_size=self.reference_size,
            val_size=self.val_size,
        )
        train = subset(_OWNER, torch.arange(len(noisy)), self.train_size, self.split_seed)
        augment = self.train_transform or resized_train(self.image_size, squash=True, padding=4)
        plain = self.eval_transform or resized_eval(self.image_size, squash=True)
        packed = packed_paths(val_paths)
        return Sets(
            ImageFileDataset(root, paths, noisy, train, None, augment),
            ImageFileDataset(val_root, packed, clean, reference, clean, plain),
            ImageFileDataset(val_root, packed, clean, val, clean, plain),
            ImageFileDataset(val_root, packed, clean, test, clean, plain),
        )

    def _read(self, path: Path, root: Path) -> tuple[list[str], torch.Tensor]:
        labels = read_labels(_OWNER, path, _ADVICE)
        kept = {name: label for name, label in labels.items() if label < self.num_classes}
        if len(set(kept.values())) < self.num_classes:
            absent = min(set(range(self.num_classes)) - set(kept.values()))
            constraint = f"to occur in {path}"
            raise ValueError(
                message(_OWNER, f"class {absent}", constraint, "no image", "Lower first_classes.")
            )
        check_image(_OWNER, root, next(iter(kept)), _ADVICE)
        return list(kept), torch.tensor(list(kept.values()), dtype=torch.int64)
