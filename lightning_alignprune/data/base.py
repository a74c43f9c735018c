"""`NoisyLabelDataModule`: the loaders that all data modules of this package give."""

from abc import ABC, abstractmethod
from inspect import signature
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.utils.data import DataLoader
from typing_extensions import Self, override

from lightning_alignprune._checks import check_instance
from lightning_alignprune.data.datasets import LabelledDataset
from lightning_alignprune.data.settings import Loading, Split, check_not_moved, completed

_BATCH_SIZE = 128


class Sets(NamedTuple):
    """The four parts of a data set; a part that was not asked for is None."""

    train: LabelledDataset
    reference: LabelledDataset | None
    val: LabelledDataset | None
    test: LabelledDataset


class NoisyLabelDataModule(LightningDataModule, ABC):
    """A data module with a clean reference set beside train, validation and test.

    Subclass it for data of your own: give ``num_classes`` and :meth:`make_sets`. The reference,
    validation and test parts have clean labels and the evaluation transform; the reference part
    is disjoint from training, and seen as in training with ``Split(reference_transform="train")``.

    Args:
        split: Which samples are held out of training. What it leaves open is ``own_split``'s.
        loading: How samples become batches. What it leaves open is ``own_loading``'s.

    Raises:
        TypeError: If a value is of the wrong kind.

    Attributes:
        own_split: The sizes of this data set where ``split`` gives none.
        own_loading: The batch size (else 128) and workers (else 0) where ``loading`` gives none.
        batch_size: Samples per training batch. Here, beside ``loading``, because Lightning's
            ``BatchSizeFinder`` sets an attribute of this name.

    Example:
        >>> from lightning_alignprune.data import InMemoryDataset
        >>> class Toy(NoisyLabelDataModule):
        ...     num_classes = 2
        ...
        ...     def make_sets(self):
        ...         labels = torch.arange(20) % 2
        ...         reference, val, rest = self.split.hold_out("Toy", len(labels))
        ...         parts = self.split.subset("Toy", rest), reference, val, None
        ...         return Sets(*(InMemoryDataset(labels, labels, part, labels) for part in parts))
        >>> toy = Toy(split=Split(reference_size=4, val_size=0.1), loading=Loading(batch_size=8))
        >>> toy.setup()
        >>> [len(part) for part in toy.sets], [len(y) for _, y in toy.train_dataloader()]
        ([14, 4, 2, 20], [8, 6])
    """

    num_classes: int
    own_split: Split = Split(reference_size=1000, val_size=1000)
    own_loading: Loading = Loading()

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Say how to write an argument that was moved into ``split`` or ``loading``."""
        taken = signature(cls.__init__).parameters
        check_not_moved(cls.__name__, {k: v for k, v in kwargs.items() if k not in taken})
        return super().__new__(cls)

    def __init__(
        self,
        *,
        split: Split = Split(),  # noqa: B008 - frozen
        loading: Loading = Loading(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__()
        owner = type(self).__name__
        remedy = "Pass split=Split(reference_size=..., val_size=...)."
        split = check_instance(owner, "split", split, Split, remedy=remedy)
        remedy = "Pass loading=Loading(batch_size=...)."
        loading = check_instance(owner, "loading", loading, Loading, remedy=remedy)
        self.split = completed(split, self.own_split)
        self.loading = completed(loading, self.own_loading)
        self.batch_size = self.loading.batch_size or _BATCH_SIZE
        self._sets: Sets | None = None

    @abstractmethod
    def make_sets(self) -> Sets:
        """Read the files and make the four parts; called once per process."""

    def clean_labels(self) -> Tensor:
        """Read the true labels of the official training part, shape (M,), int64, in its order.

        Raises:
            ValueError: If they are not known.
        """
        raise ValueError(
            f"{type(self).__name__}: expected a data set whose true training labels are known, got "
            "one that is noisy from the start. Noise cannot be drawn on top of it."
        )

    @override
    def setup(self, stage: str | None = None) -> None:
        """Make the parts, once."""
        if self._sets is None:
            self._sets = self.make_sets()

    @property
    def sets(self) -> Sets:
        """The datasets behind the loaders.

        Raises:
            RuntimeError: Before :meth:`setup`.
        """
        if self._sets is None:
            raise RuntimeError(
                f"{type(self).__name__}: there are no datasets before setup. Call setup() first."
            )
        return self._sets

    @property
    def noise_rate(self) -> float | None:
        """Share of wrong labels in the training set; None where it is not known."""
        mask = self.sets.train.noise_mask
        return None if mask is None else mask.float().mean().item()

    @override
    def train_dataloader(self) -> DataLoader[Any]:
        """Return shuffled training batches, the last one perhaps smaller."""
        return self._loader(self.sets.train, is_train=True)

    def reference_dataloader(self) -> DataLoader[Any]:
        """Return the clean reference set, in order; the pruning callback finds it by this name.

        Raises:
            MisconfigurationException: If nothing was held out for it.
        """
        source: LabelledDataset | None = {
            "held_out": self.sets.reference,
            "val": self.sets.val,
            "test": self.sets.test,
        }[self.split.reference_source]
        if source is None or len(source) == 0:
            size = "val_size" if self.split.reference_source == "val" else "reference_size"
            raise MisconfigurationException(
                f"{type(self).__name__}: expected samples for a reference set, got none. Set "
                f"{size} above 0, or choose another reference_source."
            )
        if self.split.reference_transform == "train":
            source = source.seen_as(self.sets.train)
        return self._loader(source)

    def scoring_dataloader(self) -> DataLoader[Any]:
        """Return the training samples in order, seen as in evaluation: without augmentation.

        ``CoresetWarmup`` scores what it finds under this name.
        """
        return self._loader(self.sets.train.seen_as(self.sets.test))

    @override
    def val_dataloader(self) -> Any:
        """Return the validation set, in order; an empty list if nothing was held out for it."""
        val = self.sets.val
        return [] if val is None or len(val) == 0 else self._loader(val)

    @override
    def test_dataloader(self) -> DataLoader[Any]:
        """Return the test set, in order."""
        return self._loader(self.sets.test)

    def _loader(self, dataset: LabelledDataset, is_train: bool = False) -> DataLoader[Any]:
        num_workers = self.loading.num_workers or 0
        eval_batch_size = self.loading.eval_batch_size or self.batch_size
        return DataLoader(
            dataset,
            batch_size=self.batch_size if is_train else eval_batch_size,
            shuffle=is_train,
            num_workers=num_workers,
            pin_memory=self.loading.pin_memory and torch.cuda.is_available(),
            persistent_workers=num_workers > 0,
        )
