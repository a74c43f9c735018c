"""`PruningRun`: the same pruning in a training loop of your own, plain PyTorch or Fabric.

The Trainer's part of the work is the reader's here: modes, devices, learning rates, checkpoints.
"""

import copy
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from functools import partial
from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor
from torch.utils.data import BatchSampler, Dataset
from typing_extensions import override

from lightning_alignprune._checks import check_int
from lightning_alignprune.audit import Findings, LabelIssues, label_issues
from lightning_alignprune.fit.session import PruningSettings
from lightning_alignprune.fit.step_recorder import StepRecorder
from lightning_alignprune.pruner import BadLossError, Decision, Pruner
from lightning_alignprune.reference.samples import SampleDetail
from lightning_alignprune.reference.totals import PassTotals
from lightning_alignprune.schedule import progress_after_epoch
from lightning_alignprune.signals import NoLogitsError, ReferenceSamples
from lightning_alignprune.state import LossTrajectories, PrunedSampler
from lightning_alignprune.state.run_record import RunRecord
from lightning_alignprune.tap.loss_tap import LossTap
from lightning_alignprune.trainer_access.dataset_labels import labels_of
from lightning_alignprune.trainer_access.errors import no_logits, refusal
from lightning_alignprune.trainer_access.internals import global_seed

_OWNER = "PruningRun"
_refusal = partial(refusal, owner=_OWNER)


class PruningRun:
    """Prune in a loop of your own: it deals out the batches and watches the steps.

    One process; on several GPUs use the Trainer. Of the callback's settings those that need a
    Trainer are refused, and ``self_check``, ``align_lr_schedules`` and ``verbose`` have no effect:
    step a learning-rate schedule once per epoch, as pruned epochs have fewer batches.

    Args:
        method: The callback whose method and settings are used, such as
            ``DynamicPruningCallback.robust()``. It is read, not changed.
        dataset: The training set, of N samples; its labels are looked for where the policy uses
            them.
        batch_size: B.
        max_epochs: Length of the run, from which the schedule knows when it finishes.
        device: Where trajectories and scores live: that of the losses.

    Attributes:
        batches: A batch sampler for the ``DataLoader`` of the training set.
        epoch: The running epoch, or the next one between two.

    Raises:
        MisconfigurationException: If a setting of ``method`` needs a Trainer.
        TypeError: If a number is of the wrong kind.
        ValueError: If a number is out of range, or trusted samples are not of this training set.

    Example:
        >>> from torch import nn
        >>> import torch.nn.functional as F
        >>> from torch.utils.data import DataLoader, TensorDataset
        >>> from lightning_alignprune import DynamicPruningCallback
        >>> data = TensorDataset(torch.randn(32, 4), torch.randint(3, (32,)))
        >>> model = nn.Linear(4, 3)
        >>> run = PruningRun(DynamicPruningCallback.infobatch(), data, batch_size=8, max_epochs=8)
        >>> for epoch in run.epochs():
        ...     for batch in DataLoader(data, batch_sampler=run.batches):
        ...         loss = run.step(lambda x, y: F.cross_entropy(model(x), y), *batch)
        ...         # loss.backward(), optimizer.step(), optimizer.zero_grad()
        >>> run.record.passes < 8 * 32
        True
    """

    def __init__(
        self,
        method: PruningSettings,
        dataset: Dataset[Any],
        batch_size: int,
        max_epochs: int,
        device: torch.device | str = "cpu",
    ) -> None:
        remedy = "Give a positive count."
        _check_works_without_trainer(method)
        self.max_epochs = check_int(_OWNER, "max_epochs", max_epochs, low=1, remedy=remedy)
        batch_size = check_int(_OWNER, "batch_size", batch_size, low=1, remedy=remedy)
        seed = global_seed() if method.seed is None else method.seed
        num_samples = _length_of(dataset)
        if method.trusted is not None:
            method.trusted.check_fits(num_samples)
        self._sampler = PrunedSampler(num_samples, seed=seed, batch_size=batch_size)
        self.batches = DealtBatches(self._sampler, batch_size, drop_last=False)
        self._pruner = Pruner(
            num_samples,
            *copy.deepcopy(method.parts),
            seed=seed,
            device="cpu" if method.device == "cpu" else device,
            dtype=method.dtype,
            keep_history=method.keep_history,
        )
        self._pruner.trust(method.trusted)
        policy = self._pruner.policy
        if policy.uses_labels:
            self._pruner.labels = labels_of(dataset, self._pruner.indices)
        self._pruner.fewest = self._sampler.fewest
        self._skips_bad = method.on_nonfinite_loss == "skip"
        self._recorder = StepRecorder(self._pruner.signal)
        self._recorder.will_weigh = policy.weighs_samples
        self._recorder.takes_notes = self._pruner.samples is not None
        self.epoch = self._batch_idx = 0
        self._is_open = False
        self._reference: PassTotals | None = None
        if policy.selects_first_epoch:
            self._decide()

    # ---- the loop ---------------------------------------------------------------------------

    def epochs(self) -> Iterator[int]:
        """Yield the epochs that are left, each with its own batches.

        An epoch is closed by :meth:`end_epoch`, or else when the next one is asked for.
        """
        while self.epoch < self.max_epochs:
            self._begin()
            yield self.epoch
            self.end_epoch()

    def _begin(self) -> None:
        selection = self._pruner.decision.selection
        self._sampler.arm()
        self._sampler.select(None if selection is None else selection.kept)
        self._sampler.set_epoch(self.epoch)
        self._pruner.forget_running()
        self._recorder.start_epoch()
        self._batch_idx, self.batches.num_dealt = 0, 0
        self._is_open, self._reference = True, None
        self._pruner.record.start()

    def step(self, training_step: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call ``training_step`` on the next batch, record its losses and weight its loss.

        Args:
            training_step: Takes a batch and returns the loss, or a dict with ``"loss"`` and
                perhaps ``"sample_loss"``; as the method of a LightningModule would.
            *args: Handed to it: the batch.
            **kwargs: Likewise.

        Returns:
            What it returned, with the policy's weights in the loss: call ``backward`` on it.

        Raises:
            MisconfigurationException: If the step shows no loss for each sample.
        """
        if not self._is_open or self._batch_idx >= self.batches.num_dealt:
            raise _refusal(
                "a step for each batch that run.batches deals out in the running epoch",
                "one more",
                "Call step once per batch of a DataLoader(batch_sampler=run.batches), within "
                "`for epoch in run.epochs():`.",
            )
        selection, bank = self._pruner.decision.selection, self._pruner.trajectories
        weights = None if selection is None else selection.weights
        self._recorder.arm(self._sampler, self._batch_idx, weights, bank.device)
        try:
            returned = self._recorder.run(training_step, *args, **kwargs)
        finally:
            collected = self._recorder.collect()
        if collected is not None:
            self._pruner.take(*collected)
        self._batch_idx += 1
        return returned

    def measure_reference(
        self, training_step: Callable[..., Any], batches: Iterable[Any]
    ) -> float | None:
        """Measure the loss of clean samples, at the end of an epoch. Call ``model.eval()`` before.

        Args:
            training_step: As for :meth:`step`.
            batches: Batches of clean samples held out of training, in the same order each time.
                A tuple or list is handed over as arguments, anything else as one.

        Returns:
            Their mean loss; None if there was none.
        """
        pruner, totals = self._pruner, PassTotals(self._detail)
        pruner.record.pause()
        with torch.no_grad():
            for batch in batches:
                args = batch if isinstance(batch, (tuple, list)) else (batch,)
                plain = pruner.signal.plain_loss
                tap = LossTap(with_grad_only=False, plain=plain, opens_graph=True)
                with torch.no_grad(), tap:
                    returned = training_step(*args)
                totals.add(tap, returned, batch)
        self._reference = totals if totals.num_batches else None
        return float(totals.local_mean(pruner.trajectories.device)) if totals.num_batches else None

    @property
    def _detail(self) -> SampleDetail:
        return "logits" if self._pruner.signal.needs_logits else "losses"

    def end_epoch(self) -> Decision:
        """Close the running epoch and decide what the next one trains on.

        Returns:
            The decision; once per epoch, later calls change nothing.

        Raises:
            MisconfigurationException: If the method compares with clean samples and there are none.
            RuntimeError: If a loss is NaN or infinite and that is not to be skipped.
        """
        if not self._is_open:
            return self.decision
        pruner, self._is_open = self._pruner, False
        pruner.record.pause()
        started = time.perf_counter()
        loss, samples = self._learned_from_reference()
        losses = samples.losses if samples and pruner.signal.compares_with_reference else None
        try:
            pruner.close_epoch(self.epoch, loss, self._skips_bad, losses)
        except BadLossError as error:
            raise RuntimeError(f"{_OWNER}: {error}") from None
        self.epoch += 1
        if self.epoch < self.max_epochs:
            self._decide()
        pruner.record.add_overhead(time.perf_counter() - started)
        return self.decision

    def _decide(self) -> None:
        """Decide what :attr:`epoch` trains on."""
        self._pruner.decide(self.epoch, progress_after_epoch(self.epoch, self.max_epochs))
        for warning in self._pruner.warnings():
            rank_zero_warn(f"{_OWNER}: {warning}")

    def _learned_from_reference(self) -> tuple[Tensor | None, ReferenceSamples | None]:
        pruner, totals = self._pruner, self._reference
        pruner.has_reference = totals is not None
        if totals is None:
            if pruner.score.needs_reference or pruner.signal.needs_reference:
                raise _refusal(
                    f"clean samples in every epoch for {type(pruner.score).__name__}",
                    "no call of measure_reference",
                    "Call run.measure_reference(training_step, clean_loader) after the batches of "
                    "an epoch, or use a method that needs none, such as infobatch().",
                )
            return None, None
        loss, samples = totals.local_mean(pruner.trajectories.device), totals.samples(None)
        if samples is None:
            return loss, None
        try:
            samples = pruner.signal.follow_reference(samples)
        except NoLogitsError as error:
            raise no_logits(pruner.signal, error) from None
        return (samples.losses.mean() if pruner.signal.needs_logits else loss), samples

    # ---- what it found ----------------------------------------------------------------------

    @property
    def decision(self) -> Decision:
        """What the next epoch trains on, and the scores that this rests on."""
        return self._pruner.decision

    @property
    def trajectories(self) -> LossTrajectories:
        """The recorded losses."""
        return self._pruner.trajectories

    @property
    def record(self) -> RunRecord:
        """What each epoch trained and how long that took."""
        return self._pruner.record

    def label_issues(self) -> LabelIssues:
        """Return every label that the run has looked at, the most suspicious first.

        Raises:
            ValueError: If the score judges no labels; the message names one that does.
        """
        return label_issues(Findings.of_state(self._pruner.state_dict()))

    def metrics(self) -> dict[str, float | Tensor]:
        """Return what is worth logging about the newest decision and the run so far."""
        return self._pruner.metrics()

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and primitives for a checkpoint between two epochs.

        Raises:
            MisconfigurationException: Within an epoch.
        """
        if self._is_open:
            raise _refusal(
                "a checkpoint between two epochs", "a running one", "Call run.end_epoch() first."
            )
        return {
            **self._pruner.state_dict(),
            "signal_sums": self._pruner.signal.sums(),
            "usual_factors": self._recorder.usual.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after the epoch that a saved state ended with.

        Raises:
            ValueError: If it is of another method, or of another number of samples.
        """
        try:
            self._pruner.load_state_dict(state)
        except ValueError as error:
            raise ValueError(f"{_OWNER}: {error}") from None
        self._pruner.signal.load_sums(state["signal_sums"])
        if "usual_factors" in state:
            self._recorder.usual.load_state_dict(state["usual_factors"])
        self.epoch, self._is_open = self.decision.epoch, False


class DealtBatches(BatchSampler):
    """A batch sampler that counts what it has dealt out, so that no other loader is taken for it.

    Attributes:
        num_dealt: Batches of the running epoch so far; with workers more than have been trained.
    """

    num_dealt = 0

    @override
    def __iter__(self) -> Iterator[list[int]]:
        self.num_dealt = 0
        for batch in super().__iter__():
            self.num_dealt += 1
            yield batch


def _check_works_without_trainer(method: PruningSettings) -> None:
    needs_trainer = {
        "sample_index": method.sample_index is not None,
        "restore_rng": method.restore_rng,
        'partition="fixed"': method.partition != "replicated",
        "reference_weights": method.reference_weights != "current",
        "in_batch": method.in_batch is not None,
        "reference": method.reference is not None,
    }
    given = [name for name, is_set in needs_trainer.items() if is_set]
    if given:
        remedy = "Leave it out, or use the callback with a Trainer."
        if "reference" in given:
            remedy = "Hand the clean batches to measure_reference instead."
        raise _refusal("settings that work without a Trainer", " and ".join(given), remedy)
    is_distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    if is_distributed and torch.distributed.get_world_size() > 1:
        raise _refusal(
            "one process for a PruningRun",
            f"{torch.distributed.get_world_size()} ranks",
            "Use the callback with a Trainer, which exchanges the losses.",
        )


def _length_of(dataset: Dataset[Any]) -> int:
    if not isinstance(dataset, Sized):
        raise _refusal(
            "a data set with a length",
            type(dataset).__name__,
            "Use a map-style data set: samples are chosen by index.",
        )
    return len(dataset)
