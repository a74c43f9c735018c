"""Clothing-1M: a million shop images with labels from the words around them."""

from pathlib import Path

import torch
from torch import nn
from typing_extensions import override

from lightning_alignprune._checks import check_number
from lightning_alignprune._extras import require
from lightning_alignprune.data.base import NoisyLabelDataModule, ReferenceSource, Sets
from lightning_alignprune.data.datasets import ImageFileDataset, packed_paths
from lightning_alignprune.data.readers.image_lists import (
    check_image,
    labels_of,
    read_keys,
    read_labels,
)
from lightning_alignprune.data.splits import Size, hold_out, subset
from lightning_alignprune.data.transforms import resized_eval, resized_train

_OWNER = "Clothing1MDataModule"
_ADVICE = (
    "Ask the authors of Clothing1M for access (https://github.com/Cysu/noisy_label) and unpack "
    "the annotations (noisy_train_key_list.txt, noisy_label_kv.txt, clean_val_key_list.txt, "
    "clean_test_key_list.txt, clean_label_kv.txt) and images/ into that folder."
)


class Clothing1MDataModule(NoisyLabelDataModule):
    """Clothing-1M: 14 classes, a million noisy training images, clean validation and test images.

    Samples keep the order of the official key lists, classes their official numbers. The reference
    is taken from the clean validation part and the rest of that part validates; accuracy is
    measured on the clean test part. The lists may stand in ``data_dir`` or in
    ``data_dir/annotations``.

    Args:
        data_dir: Folder with the lists and ``images/``.
        image_size: Side of the square images that the model gets, at least 8.
        train_transform: Replaces resizing, mirror, random crop and normalisation; takes a PIL
            image.
        eval_transform: Replaces resizing, centre crop and normalisation; takes a PIL image.
        reference_size: Samples of the clean validation part for the reference: a count or a
            share. The remaining ones validate.
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
        >>> data = Clothing1MDataModule()
        >>> data.num_classes, data.class_names[13]
        (14, 'Underwear')
    """

    num_classes = 14
    class_names: tuple[str, ...] = (
        *("T-Shirt", "Shirt", "Knitwear", "Chiffon", "Sweater", "Hoodie", "Windbreaker"),
        *("Jacket", "Downcoat", "Suit", "Shawl", "Dress", "Vest", "Underwear"),
    )

    def __init__(
        self,
        data_dir: str = "data/clothing1m",
        image_size: int = 224,
        train_transform: nn.Module | None = None,
        eval_transform: nn.Module | None = None,
        reference_size: Size = 0.5,
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
            val_size=0,  # what the reference leaves over
            train_size=train_size,
            split_seed=split_seed,
            reference_source=reference_source,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            pin_memory=pin_memory,
        )
        require("torchvision", "vision", _OWNER)
        check_number(_OWNER, "image_size", image_size, low=8, integer=True, remedy="224 is usual.")
        self.data_dir = data_dir
        self.image_size = image_size
        self.train_transform = train_transform
        self.eval_transform = eval_transform

    @override
    def make_sets(self) -> Sets:
        root = Path(self.data_dir)
        paths, noisy = self._read("noisy_train_key_list.txt", "noisy_label_kv.txt")
        val_paths, val_labels = self._read("clean_val_key_list.txt", "clean_label_kv.txt")
        test_paths, test_labels = self._read("clean_test_key_list.txt", "clean_label_kv.txt")
        reference, _, val = hold_out(
            _OWNER,
            len(val_labels),
            self.split_seed,
            reference_size=self.reference_size,
            val_size=0,
        )
        train = subset(_OWNER, torch.arange(len(noisy)), self.train_size, self.split_seed)
        augment = self.train_transform or resized_train(self.image_size, squash=False)
        plain = self.eval_transform or resized_eval(self.image_size, squash=False)
        packed = packed_paths(val_paths)
        return Sets(
            ImageFileDataset(root, paths, noisy, train, None, augment),
            ImageFileDataset(root, packed, val_labels, reference, val_labels, plain),
            ImageFileDataset(root, packed, val_labels, val, val_labels, plain),
            ImageFileDataset(root, test_paths, test_labels, None, test_labels, plain),
        )

    def _read(self, keys_file: str, labels_file: str) -> tuple[list[str], torch.Tensor]:
        root = Path(self.data_dir)
        lists = root / "annotations" if (root / "annotations").is_dir() else root
        keys = read_keys(_OWNER, lists / keys_file, _ADVICE)
        labels = read_labels(_OWNER, lists / labels_file, _ADVICE)
        check_image(_OWNER, root, keys[0], _ADVICE)
        found = labels_of(_OWNER, keys, labels, lists / labels_file)
        return keys, torch.tensor(found, dtype=torch.int64)
