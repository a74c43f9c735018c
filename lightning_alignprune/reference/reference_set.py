"""`ReferenceSet`: where the clean reference comes from, and its loss after each epoch."""

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_alignprune.functional.coreset import moderate_subset
from lightning_alignprune.policies import Policy
from lightning_alignprune.reference.checks import (
    VALIDATION,
    check_order,
    check_unit,
    check_validation,
)
from lightning_alignprune.reference.evaluation import reference_loss, training_logits
from lightning_alignprune.reference.pseudo_clean import PseudoClean, PseudoModerate
from lightning_alignprune.reference.totals import Keeps, ReferenceLoss
from lightning_alignprune.scores import Score
from lightning_alignprune.signals import ReferenceSamples, Signal
from lightning_alignprune.state.trajectories import LossTrajectories
from lightning_alignprune.tap.loss_tap import LossTap
from lightning_alignprune.trainer_access.dataset_labels import read_labels
from lightning_alignprune.trainer_access.errors import refusal
from lightning_alignprune.trainer_access.loaders import in_index_order, shard_batches

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
        keeps: What a pass keeps sample by sample in :attr:`samples`: nothing, losses or logits.

    Attributes:
        validated: Loss of the epoch's last validation pass, until the epoch end takes it.
        chosen: Training samples that were chosen once, int64, or None.
        samples: What the last pass saw sample by sample, if that is kept.
    """

    def __init__(self, source: Any, plain: bool = False, keeps: Keeps = None) -> None:
        self._source = source
        self._plain = plain
        self._keeps = keeps
        self._loader: Any = None
        self._num_own: int | None = None
        self._labels: Tensor | None = None
        self._running: ReferenceLoss | None = None
        self.validated: Tensor | None = None
        self.chosen: Tensor | None = None
        self.samples: ReferenceSamples | None = None
        self._before: ReferenceSamples | None = None

    @classmethod
    def find(
        cls,
        reference: Any,
        trainer: Trainer,
        module: LightningModule,
        signal: Signal,
        score: Score,
        policy: Policy,
    ) -> "ReferenceSet | None":
        """Find the reference of a fit: the argument, else a hook; None if none is needed.

        Raises:
            MisconfigurationException: If a score or signal needs a reference and there is none, or
                if the chosen one cannot work with them or with this Trainer.
        """
        if reference is None and (score.needs_reference or signal.needs_reference):
            owners = (trainer.datamodule, module)  # type: ignore[attr-defined]
            hooks = [getattr(owner, HOOK, None) for owner in owners]
            reference = next((hook for hook in hooks if callable(hook)), None)
            if reference is None:
                expected = "a reference set, since the score compares samples with one"
                raise refusal(expected, "none", _WAYS)
        if reference is None:
            return None
        if isinstance(reference, str) and reference == PSEUDO:
            reference = PseudoClean()
        check_unit(signal, score)
        needs = ((signal, signal.needs_logits), (score, score.needs_reference_samples))
        needed_by = [part for part, is_needed in needs if is_needed]
        if isinstance(reference, PseudoClean):
            if needed_by:
                raise refusal(
                    f"clean reference samples for {type(needed_by[0]).__name__}",
                    f"{type(reference).__name__}, which is made of training samples' losses",
                    f'Pass a held-out set or "{VALIDATION}", or use SampleLoss and MeanLoss.',
                )
            return cls(reference, signal.plain_loss)
        if isinstance(reference, str):
            check_validation(trainer)
        elif not module.automatic_optimization:
            raise refusal(
                "automatic optimisation for a reference pass",
                "a module that optimises in training_step and would train on the reference set",
                f'Use reference="{VALIDATION}".',
            )
        in_same_unit = signal.weighting == "sample"
        keeps: Keeps = None
        if needed_by or (policy.uses_reference_scores and in_same_unit):
            keeps = "logits" if signal.needs_logits else "losses"
        return cls(reference, signal.plain_loss, keeps)

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
            raise refusal(
                "a reference set apart from the training set",
                "the same dataset object",
                "Hold clean samples out of training.",
            )
        if not hasattr(found, "__iter__"):
            raise refusal("a DataLoader or Dataset as reference", type(found).__name__, _WAYS)
        if hasattr(found, "__len__") and len(found) == 0:
            raise refusal(
                "a reference set with samples", "an empty one", "Give at least one batch."
            )
        self._loader, self._num_own = shard_batches(found, num_replicas, rank)

    def loss(
        self,
        trainer: Trainer,
        module: LightningModule,
        all_reduce: Callable[[Tensor], Tensor] | None = None,
        gather: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor | None:
        """Return the reference loss of the epoch that ends, a device scalar; None if unknown.

        ``all_reduce`` and ``gather`` bring together what ranks saw of it.
        """
        if self.is_validation:
            validated, self.validated = self.validated, None
            return validated
        if isinstance(self._source, PseudoClean):
            return None
        result = ReferenceLoss(self._keeps)
        loss = reference_loss(
            trainer, module, self._loader, self._plain, self._num_own, all_reduce, result
        )
        # A loader that every rank reads whole need not be gathered.
        self._take(result, gather if self._num_own is not None else None)
        return loss

    def _take(self, result: ReferenceLoss, gather: Callable[[Tensor], Tensor] | None) -> None:
        if self._keeps:
            self.samples = result.samples(gather)
            check_order(self._before, self.samples)
            self._before = self.samples

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
        samples = None if self.samples is None else tuple(self.samples)
        return {"validated": self.validated, "chosen": self.chosen, "samples": samples}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a saved state."""
        self.validated, self.chosen = state["validated"], state["chosen"]
        samples = state.get("samples")  # older checkpoints have none
        self.samples = None if samples is None else ReferenceSamples(*samples)

    # ---- the validation pass as reference ---------------------------------------------------

    def open_validation(self) -> None:
        """Begin to listen to validation steps."""
        if self.is_validation:
            self._running = ReferenceLoss(self._keeps)

    def close_validation(
        self,
        device: torch.device,
        all_reduce: Callable[[Tensor], Tensor] | None = None,
        gather: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """Stop listening and keep the mean loss; a later pass of the epoch replaces it."""
        if self._running is not None and self._running.num_batches:
            totals = self._running.totals(device)
            totals = all_reduce(totals) if all_reduce else totals
            self.validated = (totals[0] / totals[1]).float()
            self._take(self._running, gather)
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
