"""CIFAR-10 and CIFAR-100 in memory, with drawn label noise or the human labels of CIFAR-N."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_alignprune._checks import (
    check_bool,
    check_floats,
    check_instance,
    check_path,
)
from lightning_alignprune._extras import require
from lightning_alignprune.data.base import NoisyLabelDataModule, Sets
from lightning_alignprune.data.datasets import InMemoryDataset
from lightning_alignprune.data.noise import LabelNoise
from lightning_alignprune.data.readers.jpeg_archive import read_jpeg_archive
from lightning_alignprune.data.settings import Loading, Split
from lightning_alignprune.data.transforms import (
    CIFAR_MEAN,
    CIFAR_STD,
    BatchCropFlip,
    Channels,
    normalised,
    transforms_of,
)

_HUMAN = "https://github.com/UCSC-REAL/cifar-10-100n"


class CIFAR10DataModule(NoisyLabelDataModule):
    """CIFAR-10: 50,000 training and 10,000 test images of 32 x 32 in ten classes.

    Training, reference and validation samples come from the official training part, whose order
    is that of torchvision (``data_batch_1`` to ``data_batch_5``), which is also the order of
    CIFAR-N. Classes are in the official order, airplane to truck. Images stay in memory as
    uint8; a batch is augmented and normalised in one go.

    Args:
        data_dir: Folder with ``cifar-10-batches-py`` (``cifar-100-python``), and with
            ``CIFAR-10_human.pt`` (``CIFAR-100_human.pt``) for human labels.
        noise: Wrong labels of the training part.
        jpeg_archive: An ``.npz`` file of JPEG images to read instead of the official files; see
            :func:`~lightning_alignprune.data.readers.jpeg_archive.read_jpeg_archive`.
        download: Fetch the official files with torchvision, checksums included, if they are
            missing. Label files are not fetched.
        mean: Channel means for normalisation.
        std: Channel standard deviations for normalisation.
        train_transform: Replaces shift, mirror and normalisation; takes one uint8 image
            (3, 32, 32).
        eval_transform: Replaces normalisation outside training; takes one such image.
        split: Which samples are held out of training: 1,000 as reference and 1,000 for
            validation, unless it says otherwise.
        loading: How samples become batches.

    Raises:
        ModuleNotFoundError: If torchvision is not installed.
        FileNotFoundError: In ``setup``, if files are missing; says what to fetch and where to put
            it.
        TypeError: If a value is of the wrong kind.
        ValueError: If a value is out of range, or label file and images do not belong together.

    Example:
        >>> data = CIFAR10DataModule(noise=LabelNoise("symmetric_uniform", rate=0.5))
        >>> data.num_classes, data.class_names[6]
        (10, 'frog')
    """

    num_classes = 10
    class_names: tuple[str, ...] = (
        *("airplane", "automobile", "bird", "cat", "deer"),
        *("dog", "frog", "horse", "ship", "truck"),
    )
    _torchvision_name = "CIFAR10"
    _official = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
    _label_file = "CIFAR-10_human.pt"

    def __init__(
        self,
        data_dir: str = "data",
        noise: LabelNoise = LabelNoise(),  # noqa: B008 - frozen
        jpeg_archive: str | None = None,
        download: bool = False,
        mean: Channels = CIFAR_MEAN,
        std: Channels = CIFAR_STD,
        train_transform: nn.Module | None = None,
        eval_transform: nn.Module | None = None,
        split: Split = Split(),  # noqa: B008 - frozen
        loading: Loading = Loading(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__(split=split, loading=loading)
        owner = type(self).__name__
        require("torchvision", "vision", owner)
        self.data_dir = check_path(owner, "data_dir", data_dir, remedy="Name a folder.")
        remedy = "Pass noise=LabelNoise(...)."
        self.noise = check_instance(owner, "noise", noise, LabelNoise, remedy=remedy)
        remedy = "Name an .npz file, or None for the official files."
        self.jpeg_archive = (
            None
            if jpeg_archive is None
            else check_path(owner, "jpeg_archive", jpeg_archive, remedy=remedy)
        )
        self.download = check_bool(owner, "download", download)
        remedy = "Give one number per channel."
        self.mean = check_floats(owner, "mean", mean, length=3, remedy=remedy)
        self.std = check_floats(owner, "std", std, above=0, length=3, remedy=remedy)
        self.train_transform, self.eval_transform = transforms_of(
            owner, train_transform, eval_transform
        )

    @override
    def prepare_data(self) -> None:
        """Download the official files if asked to; runs in one process only."""
        if self.download and self.jpeg_archive is None:
            for is_train in (True, False):
                self._torchvision_set(train=is_train, download=True)

    @override
    def clean_labels(self) -> Tensor:
        return self._read(train=True)[1]

    @override
    def make_sets(self) -> Sets:
        owner = type(self).__name__
        images, clean = self._read(train=True)
        test_images, test_labels = self._read(train=False)
        labels, _ = self.noise.apply(
            clean,
            self.num_classes,
            Path(self.data_dir) / self._label_file,
            f"Download {self._label_file} from {_HUMAN} (folder data) into {self.data_dir}.",
        )
        reference, val, rest = self.split.hold_out(owner, len(clean))
        train = self.split.subset(owner, rest)
        augment, plain = self._transforms()
        is_own, is_own_eval = self.train_transform is not None, self.eval_transform is not None
        return Sets(
            InMemoryDataset(images, labels, train, clean, augment, is_own),
            InMemoryDataset(images, clean, reference, clean, plain, is_own_eval),
            InMemoryDataset(images, clean, val, clean, plain, is_own_eval),
            InMemoryDataset(test_images, test_labels, None, test_labels, plain, is_own_eval),
        )

    def _transforms(self) -> tuple[Any, Any]:
        augment = self.train_transform or normalised(self.mean, self.std, BatchCropFlip(4))
        return augment, self.eval_transform or normalised(self.mean, self.std)

    def _read(self, *, train: bool) -> tuple[Tensor, Tensor]:
        """Return images, shape (M, 3, H, W), uint8, and true labels, shape (M,), int64."""
        if self.jpeg_archive is not None:
            return read_jpeg_archive(self.jpeg_archive, "train" if train else "test")
        data = self._torchvision_set(train=train, download=False)
        images = torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous()
        return images, torch.tensor(data.targets, dtype=torch.int64)

    def _torchvision_set(self, *, train: bool, download: bool) -> Any:
        datasets = require("torchvision.datasets", "vision", type(self).__name__)
        kind = getattr(datasets, self._torchvision_name)
        try:
            return kind(self.data_dir, train=train, download=download)
        except RuntimeError as error:  # missing, or the checksum differs
            if download:
                raise
            raise FileNotFoundError(
                f"{type(self).__name__}: expected the folder {kind.base_folder} with the official "
                f"files and checksums in {self.data_dir!r}, got none or a damaged one. Pass "
                f"download=True, or unpack {self._official} into {self.data_dir!r}."
            ) from error


class CIFAR100DataModule(CIFAR10DataModule):
    """CIFAR-100: as :class:`CIFAR10DataModule`, with 100 fine classes in alphabetical order.

    Human labels are one set: ``LabelNoise("noisy")``. Arguments and errors are the same.

    Example:
        >>> CIFAR100DataModule(noise=LabelNoise("asymmetric_cifar100", rate=0.4)).num_classes
        100
    """

    num_classes = 100
    class_names = ()
    _torchvision_name = "CIFAR100"
    _official = "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz"
    _label_file = "CIFAR-100_human.pt"
