"""Clothing-1M: a million shop images with labels from the words around them."""

from pathlib import Path

import torch
from torch import nn
from typing_extensions import override

from lightning_alignprune._checks import check_int, check_path, message
from lightning_alignprune._extras import require
from lightning_alignprune.data.base import NoisyLabelDataModule, Sets
from lightning_alignprune.data.datasets import ImageFileDataset, packed_paths
from lightning_alignprune.data.readers.image_lists import (
    check_image,
    labels_of,
    read_keys,
    read_labels,
)
from lightning_alignprune.data.settings import Loading, Split
from lightning_alignprune.data.transforms import resized_eval, resized_train, transforms_of

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
        split: What the clean images are for: half of the validation part is the reference, unless
            it says otherwise. The rest of it validates, so ``val_size`` stays None.
        loading: How samples become batches: of 32, by 4 workers, unless it says otherwise.

    Raises:
        ModuleNotFoundError: If torchvision is not installed.
        FileNotFoundError: In ``setup``, if files are missing; says what to fetch and where to put
            it.
        TypeError: If a value is of the wrong kind.
        ValueError: If a value is out of range, ``val_size`` is given, or a list is damaged.

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

    own_split = Split(reference_size=0.5, val_size=0)
    own_loading = Loading(32, num_workers=4)

    def __init__(
        self,
        data_dir: str = "data/clothing1m",
        image_size: int = 224,
        train_transform: nn.Module | None = None,
        eval_transform: nn.Module | None = None,
        split: Split = Split(),  # noqa: B008 - frozen
        loading: Loading = Loading(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__(split=split, loading=loading)
        require("torchvision", "vision", _OWNER)
        if split.val_size:
            remedy = "Leave it out: what the reference leaves over validates."
            raise ValueError(message(_OWNER, "val_size", "to be None", split.val_size, remedy))
        self.data_dir = check_path(_OWNER, "data_dir", data_dir, remedy="Name a folder.")
        remedy = "224 is usual."
        self.image_size = check_int(_OWNER, "image_size", image_size, low=8, remedy=remedy)
        self.train_transform, self.eval_transform = transforms_of(
            _OWNER, train_transform, eval_transform
        )

    @override
    def make_sets(self) -> Sets:
        root = Path(self.data_dir)
        paths, noisy = self._read("noisy_train_key_list.txt", "noisy_label_kv.txt")
        val_paths, val_labels = self._read("clean_val_key_list.txt", "clean_label_kv.txt")
        test_paths, test_labels = self._read("clean_test_key_list.txt", "clean_label_kv.txt")
        reference, _, val = self.split.hold_out(_OWNER, len(val_labels))
        train = self.split.subset(_OWNER, torch.arange(len(noisy)))
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
