"""One folder per class, as ImageNet-1K comes; images are decoded by the workers."""

import os
from pathlib import Path

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_alignprune._checks import check_instance, check_int, check_path, message
from lightning_alignprune._extras import require
from lightning_alignprune.data.base import NoisyLabelDataModule, Sets
from lightning_alignprune.data.datasets import ImageFileDataset, packed_paths
from lightning_alignprune.data.noise import LabelNoise
from lightning_alignprune.data.readers._progress import progress
from lightning_alignprune.data.settings import Loading, Split
from lightning_alignprune.data.transforms import imagenet_eval, imagenet_train, transforms_of

_OWNER = "ImageFolderDataModule"


class ImageFolderDataModule(NoisyLabelDataModule):
    """Images in one folder per class: ``train/<class>/*.JPEG`` and ``val/<class>/*.JPEG``.

    Classes are the folder names of the training part in sorted order; samples are ordered by
    class, then by path: the order of torchvision's ``ImageFolder``. For ImageNet-1K the official
    validation images, on which accuracy is reported, are the *test* part here; reference and
    validation samples are held out of the training images. The folder names count as the truth.

    Args:
        data_dir: Folder with the two parts.
        noise: Wrong labels of the training part.
        train_folder: Name of the training part.
        test_folder: Name of the part that is tested on.
        image_size: Side of the square images that the model gets, at least 8.
        train_transform: Replaces random resized crop, mirror and normalisation; takes a PIL image.
        eval_transform: Replaces resizing, centre crop and normalisation; takes a PIL image.
        split: Which samples are held out of training: a hundredth of them as reference and a
            hundredth for validation, unless it says otherwise.
        loading: How samples become batches: by 4 workers, unless it says otherwise.

    Raises:
        ModuleNotFoundError: If torchvision is not installed.
        FileNotFoundError: In ``setup``, if folders are missing.
        TypeError: If a value is of the wrong kind.
        ValueError: If a value is out of range, or a test class does not occur in training.

    Example:
        >>> data = ImageFolderDataModule(noise=LabelNoise("asymmetric_next", rate=0.2))
        >>> data.test_folder
        'val'
    """

    own_split = Split(reference_size=0.01, val_size=0.01)
    own_loading = Loading(num_workers=4)

    def __init__(
        self,
        data_dir: str = "data/imagenet",
        noise: LabelNoise = LabelNoise(),  # noqa: B008 - frozen
        train_folder: str = "train",
        test_folder: str = "val",
        image_size: int = 224,
        train_transform: nn.Module | None = None,
        eval_transform: nn.Module | None = None,
        split: Split = Split(),  # noqa: B008 - frozen
        loading: Loading = Loading(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__(split=split, loading=loading)
        require("torchvision", "vision", _OWNER)
        self.data_dir = check_path(_OWNER, "data_dir", data_dir, remedy="Name a folder.")
        remedy = "Pass noise=LabelNoise(...)."
        self.noise = check_instance(_OWNER, "noise", noise, LabelNoise, remedy=remedy)
        remedy = "Name a folder below data_dir."
        self.train_folder = check_path(_OWNER, "train_folder", train_folder, remedy=remedy)
        self.test_folder = check_path(_OWNER, "test_folder", test_folder, remedy=remedy)
        remedy = "224 is usual."
        self.image_size = check_int(_OWNER, "image_size", image_size, low=8, remedy=remedy)
        self.train_transform, self.eval_transform = transforms_of(
            _OWNER, train_transform, eval_transform
        )
        self._class_names: tuple[str, ...] | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes in their order: the folders of the training part.

        Raises:
            FileNotFoundError: If there are none.
        """
        if self._class_names is None:
            self._class_names = class_folders(Path(self.data_dir) / self.train_folder)
        return self._class_names

    @property
    def num_classes(self) -> int:  # type: ignore[override] # known once the folders are there
        """Number of class folders of the training part.

        Raises:
            FileNotFoundError: If there are none.
        """
        return len(self.class_names)

    @override
    def clean_labels(self) -> Tensor:
        return scan_folders(Path(self.data_dir) / self.train_folder, self.class_names)[1]

    @override
    def make_sets(self) -> Sets:
        train_root = Path(self.data_dir) / self.train_folder
        test_root = Path(self.data_dir) / self.test_folder
        paths, clean = scan_folders(train_root, self.class_names)
        test_paths, test_labels = scan_folders(test_root, self.class_names)
        labels, _ = self.noise.apply(clean, self.num_classes)
        reference, val, rest = self.split.hold_out(_OWNER, len(clean))
        train = self.split.subset(_OWNER, rest)
        augment = self.train_transform or imagenet_train(self.image_size)
        plain = self.eval_transform or imagenet_eval(self.image_size)
        packed = packed_paths(paths)
        return Sets(
            ImageFileDataset(train_root, packed, labels, train, clean, augment),
            ImageFileDataset(train_root, packed, clean, reference, clean, plain),
            ImageFileDataset(train_root, packed, clean, val, clean, plain),
            ImageFileDataset(test_root, test_paths, test_labels, None, test_labels, plain),
        )


def class_folders(root: Path) -> tuple[str, ...]:
    """Return the names of the class folders, sorted.

    Raises:
        FileNotFoundError: If there are none.
    """
    names = (
        sorted(entry.name for entry in os.scandir(root) if entry.is_dir()) if root.is_dir() else ()
    )
    if not names:
        raise FileNotFoundError(
            message(
                _OWNER,
                f"{root}",
                "to hold one folder per class",
                "none",
                "For ImageNet-1K, get ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar from "
                "https://image-net.org (an account is needed) and unpack them there, one folder "
                "per WordNet id; torchvision.datasets.ImageNet does this for the official files.",
            )
        )
    return tuple(names)


def scan_folders(root: Path, class_names: tuple[str, ...]) -> tuple[list[str], Tensor]:
    """List the images below each class folder, in sorted order.

    Args:
        root: Folder with the class folders.
        class_names: The classes in their order.

    Returns:
        M paths relative to ``root``; labels, shape (M,), int64.

    Raises:
        FileNotFoundError: If a class has no images.
        ValueError: If a folder is none of the classes.
    """
    endings = require("torchvision.datasets.folder", "vision", _OWNER).IMG_EXTENSIONS
    unknown = sorted(set(class_folders(root)) - set(class_names))
    if unknown:
        constraint = f"of {root} to be classes of the training part"
        remedy = "ImageNet's validation archive is flat; sort its images into class folders first."
        raise ValueError(message(_OWNER, "the folders", constraint, unknown[0], remedy))
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(progress(class_names, f"Listing {root.name}", len(class_names))):
        before = len(paths)
        for folder, _, files in sorted(os.walk(root / name, followlinks=True)):
            inside = os.path.relpath(folder, root)
            images = sorted(file for file in files if file.lower().endswith(endings))
            paths.extend(os.path.join(inside, file) for file in images)
        # A training class without test images is fine: a small test part may lack some.
        if len(paths) == before and (root / name).is_dir():
            value = "none"
            remedy = f"Known endings: {', '.join(endings)}."
            raise FileNotFoundError(message(_OWNER, "images", f"in {root / name}", value, remedy))
        labels.extend([label] * (len(paths) - before))
    return paths, torch.tensor(labels, dtype=torch.int64)
