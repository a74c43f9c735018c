"""`ReferenceSet`: a clean set of its own, with a pass of its own after each epoch."""

import math
from collections.abc import Sized
from contextlib import nullcontext
from typing import Any

from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from typing_extensions import override

from lightning_alignprune.reference.averaged_weights import AveragedWeights
from lightning_alignprune.reference.base import Reference
from lightning_alignprune.reference.evaluation import evaluated_batches
from lightning_alignprune.reference.samples import ReferenceWeights, SampleDetail
from lightning_alignprune.reference.totals import PassTotals
from lightning_alignprune.trainer_access.augmentation import is_augmented
from lightning_alignprune.trainer_access.errors import OWNER, refusal
from lightning_alignprune.trainer_access.loaders import batch_size_of, shard_batches
from lightning_alignprune.trainer_access.running_fit import RunningFit


class ReferenceSet(Reference):
    """Evaluate the module's own loss on a held-out set after each epoch.

    Args:
        fit: The fit that it is the reference of.
        source: A loader, a dataset, or a hook that returns one.
        plain: Leave label smoothing out of the loss.
        detail: What a pass keeps sample by sample.
        weights: What it is measured with: ``"current"`` weights or an average of them, ``"ema"``.

    Raises:
        MisconfigurationException: If the module would train on the set.
    """

    def __init__(
        self,
        fit: RunningFit,
        source: Any,
        plain: bool = False,
        detail: SampleDetail | None = None,
        weights: ReferenceWeights = "current",
    ) -> None:
        super().__init__(fit, plain, detail)
        if not fit.module.automatic_optimization:
            raise refusal(
                "automatic optimisation for a reference pass",
                "a module that optimises in training_step and would train on the reference set",
                'Use reference="validation".',
            )
        self._source = source
        self._loader: Any = None
        self._num_own: int | None = None
        self._weights = weights
        self._average: AveragedWeights | None = None
        self._num_samples: int | None = None

    @property
    @override
    def description(self) -> str:
        owner = getattr(self._source, "__self__", None)
        samples = "samples" if self._num_samples is None else f"{self._num_samples} samples"
        if isinstance(owner, LightningDataModule):
            return f"{samples} of the DataModule"
        return f"{samples} of the module" if owner is not None else f"{samples} given"

    @override
    def prepare(self, train_loader: DataLoader[Any]) -> None:
        source = self._source
        is_hook = callable(source) and not isinstance(source, (Dataset, DataLoader))
        found = source() if is_hook else source
        if isinstance(found, Dataset):
            found = DataLoader(
                found,
                batch_size=batch_size_of(train_loader),
                num_workers=train_loader.num_workers,
                collate_fn=train_loader.collate_fn,
            )
        if getattr(found, "dataset", None) is train_loader.dataset:
            raise refusal(
                "a reference set apart from the training set",
                "the same dataset object",
                "Hold clean samples out of training.",
            )
        if not hasattr(found, "__iter__"):
            raise refusal(
                "a DataLoader or Dataset as reference",
                type(found).__name__,
                "Give a DataLoader or Dataset of clean samples.",
            )
        if hasattr(found, "__len__") and len(found) == 0:
            raise refusal(
                "a reference set with samples", "an empty one", "Give at least one batch."
            )
        if self.detail == "logits" and self.fit.trainer.global_rank == 0:
            self._compare_views(train_loader, found)
        dataset = getattr(found, "dataset", None)
        self._num_samples = len(dataset) if isinstance(dataset, Sized) else None
        world_size, rank = self.fit.trainer.world_size, self.fit.trainer.global_rank
        self._loader, self._num_own = shard_batches(found, world_size, rank)
        if self._weights == "ema":
            trainer = self.fit.trainer
            steps = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
            self._average = AveragedWeights(self.fit, horizon=max(1, steps))

    @staticmethod
    def _compare_views(train_loader: DataLoader[Any], found: Any) -> None:
        """Say so if predictions of augmented samples would be compared with plain ones."""
        if is_augmented(train_loader) and is_augmented(found) is False:
            rank_zero_warn(
                f"{OWNER}: the training samples are augmented and the reference's are not. What "
                "the network says of the two is compared, and predictions that augmentation blurs "
                "look like wrong labels. Give the reference the training transforms; the data "
                'modules of this package do with Split(reference_transform="train").'
            )

    @override
    def before_batch(self, batch_idx: int) -> None:
        # After every callback's start of an epoch, which may unfreeze layers.
        if self._average is not None and batch_idx == 0:
            self._average.follow_module()

    @override
    def after_batch(self) -> None:
        if self._average is not None:
            self._average.after_batch()

    @override
    def measure(self) -> Tensor | None:
        totals = PassTotals(self.detail)
        with nullcontext() if self._average is None else self._average.lent():
            batches = evaluated_batches(self.fit, self._loader, self.plain, opens_graph=True)
            for number, evaluated in enumerate(batches):
                # Those after this rank's own only keep the number of forward passes alike.
                if self._num_own is None or number < self._num_own:
                    totals.add(*evaluated)
        if totals.num_batches == 0 and self._num_own is None:
            raise refusal(
                "a reference set with samples",
                "an empty one",
                "Give a reference loader with at least one batch.",
            )
        exchange = self.fit.exchange
        # A loader that every rank reads whole need not be gathered.
        is_sharded = self._num_own is not None and exchange.num_ranks > 1
        self.keep_samples(totals.samples(exchange if is_sharded else None))
        return totals.mean(exchange, self.fit.module.device)

    @override
    def state_dict(self) -> dict[str, Any]:
        average = None if self._average is None else self._average.state_dict()
        return {**super().state_dict(), "average": average}

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        if self._average is not None and state.get("average") is not None:
            self._average.load_state_dict(state["average"])
