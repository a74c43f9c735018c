"""`NoisyLabelDataModule`: the loaders that all data modules of this package give."""

from abc import abstractmethod
from typing import Any, Literal, NamedTuple

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.utils.data import DataLoader
from typing_extensions import override

from lightning_alignprune._checks import check_choice, check_number
from lightning_alignprune.data.datasets import LabelledDataset
from lightning_alignprune.data.splits import Size

ReferenceSource = Literal["held_out", "val", "test"]
REFERENCE_SOURCES: tuple[ReferenceSource, ...] = ("held_out", "val", "test")


class Sets(NamedTuple):
    """The four parts of a data set; a part that was not asked for is None."""

    train: LabelledDataset
    reference: LabelledDataset | None
    val: LabelledDataset | None
    test: LabelledDataset


class NoisyLabelDataModule(LightningDataModule):
    """A data module with a clean reference set beside train, validation and test.

    Subclass it for data of your own: give ``num_classes`` and :meth:`make_sets`. The reference,
    validation and test parts have clean labels and the evaluation transform; the reference part
    is disjoint from training.

    Args:
        reference_size: Samples (int) or share (float) held out as reference.
        val_size: Samples (int) or share (float) held out for validation; 0 for no validation.
        train_size: Samples (int) or share (float) of the remaining training part that are used;
            None for all.
        split_seed: Seed of the draw that holds samples out.
        reference_source: ``"held_out"`` takes the held-out part; ``"val"`` takes the validation
            set; ``"test"`` takes the *test* set, as runs in the literature do that train on all
            samples: its accuracy is then no longer that of unseen data.
        batch_size: Samples per training batch.
        eval_batch_size: Samples per batch elsewhere; None for ``batch_size``.
        num_workers: Processes that load; 0 loads in the main process.
        pin_memory: Whether batches are put into pinned memory, for faster copies to a GPU.

    Raises:
        ValueError: If a value is out of range.
    """

    num_classes: int

    def __init__(
        self,
        *,
        reference_size: Size = 1000,
        val_size: Size = 1000,
        train_size: Size | None = None,
        split_seed: int = 0,
        reference_source: ReferenceSource = "held_out",
        batch_size: int = 128,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        super().__init__()
        owner = type(self).__name__
        check_choice(owner, "reference_source", reference_source, REFERENCE_SOURCES)
        remedy = "Give a number of samples."
        check_number(owner, "batch_size", batch_size, low=1, integer=True, remedy=remedy)
        if eval_batch_size is not None:
            check_number(
                owner, "eval_batch_size", eval_batch_size, low=1, integer=True, remedy=remedy
            )
        check_number(
            owner,
            "num_workers",
            num_workers,
            low=0,
            integer=True,
            remedy="0 loads in the main process.",
        )
        check_number(
            owner, "split_seed", split_seed, low=0, integer=True, remedy="Any int will do."
        )
        self.reference_size = reference_size
        self.val_size = val_size
        self.train_size = train_size
        self.split_seed = split_seed
        self.reference_source = reference_source
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.num_workers = num_workers
        self.pin_memory = pin_memory
        self._sets: Sets | None = None

    @abstractmethod
    def make_sets(self) -> Sets:
        """Read the files and make the four parts; called once per process."""

    def clean_labels(self) -> Tensor:
        """Read the true labels of the official training part, shape (M,), int64, in its order.

        Raises:
            ValueError: If nobody knows them.
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
        }[self.reference_source]
        if source is None or len(source) == 0:
            size = "val_size" if self.reference_source == "val" else "reference_size"
            raise MisconfigurationException(
                f"{type(self).__name__}: expected samples for a reference set, got none. Set "
                f"{size} above 0, or choose another reference_source."
            )
        return self._loader(source)

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
        return DataLoader(
            dataset,
            batch_size=self.batch_size if is_train else self.eval_batch_size or self.batch_size,
            shuffle=is_train,
            num_workers=self.num_workers,
            pin_memory=self.pin_memory and torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0,
        )
