"""`ReferenceSet`: where the clean reference comes from, and its loss after each epoch."""

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_alignprune.functional.coreset import moderate_subset
from lightning_alignprune.loader_adapter import in_index_order, shard_batches
from lightning_alignprune.loss_tap import LossTap
from lightning_alignprune.pseudo_clean import PseudoClean, PseudoModerate, read_labels
from lightning_alignprune.reference import ReferenceLoss, reference_loss, training_logits
from lightning_alignprune.trajectories import LossTrajectories

VALIDATION = "validation"
PSEUDO = "pseudo"
HOOK = "reference_dataloader"

_WAYS = (
    f"Pass reference= a DataLoader or Dataset of clean samples, or define {HOOK}() on the "
    f'DataModule or the module, or pass reference="{VALIDATION}" to use the validation set, or '
    f'reference="{PSEUDO}" to use the small-loss samples of the training set.'
)


class ReferenceSet:
    """Give the reference loss of an epoch, from a loader of its own or from the validation pass.

    Args:
        source: ``"validation"``, a loader, a dataset, or a hook that returns one.
        plain: Leave label smoothing out of the loss.

    Attributes:
        validated: Loss of the epoch's last validation pass, until the epoch end takes it.
        chosen: Training samples that were chosen once, int64, or None.
    """

    def __init__(self, source: Any, plain: bool = False) -> None:
        self._source = source
        self._plain = plain
        self._loader: Any = None
        self._num_own: int | None = None
        self._labels: Tensor | None = None
        self._running: ReferenceLoss | None = None
        self.validated: Tensor | None = None
        self.chosen: Tensor | None = None

    @classmethod
    def find(
        cls,
        reference: Any,
        trainer: Trainer,
        module: LightningModule,
        is_needed: bool,
        plain: bool = False,
    ) -> "ReferenceSet | None":
        """Find the reference of a fit: the argument, else a hook; None if none is needed.

        Raises:
            MisconfigurationException: If a score needs a reference and there is none, or if the
                chosen one cannot work with this Trainer.
        """
        if reference is None and is_needed:
            for owner in (trainer.datamodule, module):  # type: ignore[attr-defined]
                if callable(getattr(owner, HOOK, None)):
                    return cls._checked(getattr(owner, HOOK), trainer, module, plain)
            raise _error(
                "a reference set, since the score compares samples with one", "none", _WAYS
            )
        return None if reference is None else cls._checked(reference, trainer, module, plain)

    @classmethod
    def _checked(
        cls, source: Any, trainer: Trainer, module: LightningModule, plain: bool
    ) -> "ReferenceSet":
        if isinstance(source, str) and source == PSEUDO:
            source = PseudoClean()
        if isinstance(source, PseudoClean):
            return cls(source, plain)
        if isinstance(source, str):
            _check_validation(trainer)
        elif not module.automatic_optimization:
            raise _error(
                "automatic optimisation for a reference pass",
                "a module that optimises in training_step and would train on the reference set",
                f'Use reference="{VALIDATION}".',
            )
        return cls(source, plain)

    @property
    def is_validation(self) -> bool:
        """Whether the regular validation pass is the reference."""
        return isinstance(self._source, str)

    def prepare(self, train_loader: DataLoader[Any], num_replicas: int = 1, rank: int = 0) -> None:
        """Make the loader of this rank's share, now that the data are there.

        Raises:
            MisconfigurationException: If the set is empty or is the training set itself.
        """
        if isinstance(self._source, PseudoClean):
            self._labels = read_labels(train_loader.dataset)
            self._loader = in_index_order(train_loader)
        if self.is_validation or isinstance(self._source, PseudoClean):
            return
        source = self._source
        is_hook = callable(source) and not isinstance(source, (Dataset, DataLoader))
        found = source() if is_hook else source
        if isinstance(found, Dataset):
            found = DataLoader(
                found,
                batch_size=train_loader.batch_size,
                num_workers=train_loader.num_workers,
                collate_fn=train_loader.collate_fn,
            )
        if getattr(found, "dataset", None) is train_loader.dataset:
            raise _error(
                "a reference set apart from the training set",
                "the same dataset object",
                "Hold clean samples out of training.",
            )
        if not hasattr(found, "__iter__"):
            raise _error("a DataLoader or Dataset as reference", type(found).__name__, _WAYS)
        if hasattr(found, "__len__") and len(found) == 0:
            raise _error("a reference set with samples", "an empty one", "Give at least one batch.")
        self._loader, self._num_own = shard_batches(found, num_replicas, rank)

    def loss(
        self,
        trainer: Trainer,
        module: LightningModule,
        all_reduce: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor | None:
        """Return the reference loss of the epoch that ends, a device scalar; None if unknown."""
        if self.is_validation:
            validated, self.validated = self.validated, None
            return validated
        if isinstance(self._source, PseudoClean):
            return None
        return reference_loss(trainer, module, self._loader, self._plain, self._num_own, all_reduce)

    def refresh(
        self, trainer: Trainer, module: LightningModule, trajectories: LossTrajectories
    ) -> Tensor | None:
        """Rewrite the reference trajectory from the training samples' own losses, if it is theirs.

        Returns:
            The newest value; None for any other kind of reference.
        """
        source = self._source
        if not isinstance(source, PseudoClean):
            return None
        if isinstance(source, PseudoModerate) and self.chosen is None:
            if len(trajectories.epochs) < source.after_epochs:
                return None
            logits, labels = training_logits(trainer, module, self._loader)
            self.chosen = moderate_subset(logits, labels, source.count(len(labels)))
        chosen = None if self.chosen is None else self.chosen.to(trajectories.device)
        newest: Tensor = source.refresh(trajectories, self._labels, chosen)
        return newest

    def state_dict(self) -> dict[str, Any]:
        """What an epoch's end may still need, and what was chosen once."""
        return {"validated": self.validated, "chosen": self.chosen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a saved state."""
        self.validated, self.chosen = state["validated"], state["chosen"]

    # ---- the validation pass as reference ---------------------------------------------------

    def open_validation(self) -> None:
        """Begin to listen to validation steps."""
        if self.is_validation:
            self._running = ReferenceLoss()

    def close_validation(
        self, device: torch.device, all_reduce: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        """Stop listening and keep the mean loss; a later pass of the epoch replaces it."""
        if self._running is not None and self._running.num_batches:
            totals = self._running.totals(device)
            totals = all_reduce(totals) if all_reduce else totals
            self.validated = (totals[0] / totals[1]).float()
        self._running = None

    def run(self, step: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a validation step with the tap around it."""
        if self._running is None:
            return step(*args, **kwargs)
        tap = LossTap(with_grad_only=False, plain=self._plain)
        with tap:
            returned = step(*args, **kwargs)
        self._running.add(tap, returned, args[0] if args else kwargs.get("batch"))
        return returned


def _check_validation(trainer: Trainer) -> None:
    if trainer.limit_val_batches == 0 or not trainer.enable_validation:
        raise _error(
            f'validation to run for reference="{VALIDATION}"',
            "a fit without it (limit_val_batches=0, no val_dataloader or no validation_step)",
            "Turn validation on, or pass reference= a loader.",
        )
    if trainer.check_val_every_n_epoch not in (1, None):
        raise _error(
            f'validation in every epoch for reference="{VALIDATION}"',
            f"check_val_every_n_epoch={trainer.check_val_every_n_epoch}",
            "Validate every epoch, or pass reference= a loader.",
        )


def _error(expected: str, got: str, remedy: str) -> MisconfigurationException:
    return MisconfigurationException(
        f"DynamicPruningCallback: expected {expected}, got {got}. {remedy}"
    )
