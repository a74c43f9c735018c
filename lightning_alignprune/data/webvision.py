"""Mini-WebVision: the first classes of WebVision 1.0, images that Google found for their names."""

from pathlib import Path

import torch
from torch import nn
from typing_extensions import override

from lightning_alignprune._checks import check_int, check_path, message
from lightning_alignprune._extras import require
from lightning_alignprune.data.base import NoisyLabelDataModule, Sets
from lightning_alignprune.data.datasets import ImageFileDataset, packed_paths
from lightning_alignprune.data.readers.image_lists import check_image, read_labels
from lightning_alignprune.data.settings import Loading, Split
from lightning_alignprune.data.transforms import resized_eval, resized_train, transforms_of

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
    accuracy is that of unseen images. With ``Split(0, 0)`` the test part is the whole
    validation part, as in published tables.

    Args:
        data_dir: Folder with ``info/``, ``google/`` and ``val_images_256/``.
        first_classes: Classes 0 to this number less one are used.
        image_size: Side of the square images that the model gets, at least 8.
        train_transform: Replaces squashing, mirror, padded crop and normalisation; takes a PIL
            image.
        eval_transform: Replaces squashing, centre crop and normalisation; takes a PIL image.
        split: What the clean images are for: a fifth of the official validation part is the
            reference and a fifth validates, unless it says otherwise.
        loading: How samples become batches: of 32, by 4 workers, unless it says otherwise.

    Raises:
        ModuleNotFoundError: If torchvision is not installed.
        FileNotFoundError: In ``setup``, if files are missing; says what to fetch and where to put
            it.
        TypeError: If a value is of the wrong kind.
        ValueError: If a value is out of range or a list is damaged.

    Example:
        >>> WebVisionDataModule().num_classes
        50
    """

    own_split = Split(reference_size=0.2, val_size=0.2)
    own_loading = Loading(32, num_workers=4)

    def __init__(
        self,
        data_dir: str = "data/webvision",
        first_classes: int = 50,
        image_size: int = 224,
        train_transform: nn.Module | None = None,
        eval_transform: nn.Module | None = None,
        split: Split = Split(),  # noqa: B008 - frozen
        loading: Loading = Loading(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__(split=split, loading=loading)
        require("torchvision", "vision", _OWNER)
        self.data_dir = check_path(_OWNER, "data_dir", data_dir, remedy="Name a folder.")
        remedy = "50 is usual."
        self.num_classes = check_int(_OWNER, "first_classes", first_classes, low=2, remedy=remedy)
        remedy = "224 is usual."
        self.image_size = check_int(_OWNER, "image_size", image_size, low=8, remedy=remedy)
        self.train_transform, self.eval_transform = transforms_of(
            _OWNER, train_transform, eval_transform
        )

    @override
    def make_sets(self) -> Sets:
        root = Path(self.data_dir)
        paths, noisy = self._read(root / "info" / "train_filelist_google.txt", root)
        val_root = root / "val_images_256"
        val_paths, clean = self._read(root / "info" / "val_filelist.txt", val_root)
        reference, val, test = self.split.hold_out(_OWNER, len(clean))
        train = self.split.subset(_OWNER, torch.arange(len(noisy)))
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
