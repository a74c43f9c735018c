"""`DynamicPruningCallback`: hooks that connect. No maths, no Trainer internals."""

import os
import time
from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from typing_extensions import override

from lightning_alignprune import _trainer_access as access
from lightning_alignprune._checks import check_choice, resolve
from lightning_alignprune.loader_adapter import check_installed, check_loader, sampler_for
from lightning_alignprune.policies import POLICIES, Policy
from lightning_alignprune.pruner import BadLossError, Decision, Pruner
from lightning_alignprune.reference_set import VALIDATION, ReferenceSet
from lightning_alignprune.sampler import PrunedSampler
from lightning_alignprune.schedule import PruningSchedule, progress_after_epoch
from lightning_alignprune.scores import SCORES, Score
from lightning_alignprune.signals import SIGNALS, Signal
from lightning_alignprune.step_recorder import StepRecorder
from lightning_alignprune.trajectories import LossTrajectories, StorageDtype

_OWNER = "DynamicPruningCallback"


class DynamicPruningCallback(Callback):
    """Train each epoch on the samples worth training on, and learn which labels look wrong.

    Records every sample's loss while it trains, compares its course over the epochs with that of
    a clean reference set, and hands the next epoch's selection to the train sampler. Module,
    DataModule and loss function stay as they are. The default is AlignPrune on InfoBatch.

    Args:
        score: How good a sample is: a score object or ``"DynamicAlignment"`` (AlignPrune) or
            ``"LastLoss"`` (InfoBatch, SeTa; also ``"loss"``).
        policy: Which samples train: a policy object or the name of one.
        signal: What is recorded: ``"SampleLoss"``, or ``"BatchLoss"`` where no per-sample loss can
            be had.
        schedule: When pruning happens and how the run finishes.
        reference: A ``DataLoader`` or ``Dataset`` of clean samples held out of training;
            ``"validation"`` to use the losses of the regular validation pass at no cost. None
            looks for a ``reference_dataloader()`` method on the DataModule, then on the module.
        seed: Seed of the orders and draws. None takes the one of ``seed_everything``, else 0.
        device: Where trajectories live: ``"auto"`` is the training device, ``"cpu"`` for sets
            whose trajectories do not fit there.
        dtype: Storage of the trajectories. Half precision halves memory and checkpoints.
        keep_history: Keep the losses of all epochs in :attr:`trajectories`, for plots and audits.
        on_nonfinite_loss: ``"raise"`` stops at the end of an epoch with a NaN or infinite loss;
            ``"skip"`` treats such a loss as not observed and warns.

    Raises:
        ValueError: If a value is out of range or a name unknown.
        MisconfigurationException: Before the first step, if the Trainer, loader or module cannot
            be pruned; the message names the setting and the way out.

    Example:
        >>> callback = DynamicPruningCallback(score="loss")  # plain InfoBatch
        >>> type(callback.policy).__name__
        'InfoBatch'

    Note:
        Logs ``pruning/kept_fraction`` and ``pruning/num_kept`` (what the next epoch trains on),
        ``pruning/pruned_share_so_far``, ``pruning/score_mean``, ``pruning/reference_loss`` and
        ``pruning/scoring_seconds``. A step costs one indexed write and no host wait.
    """

    def __init__(
        self,
        score: Score | str = "DynamicAlignment",
        policy: Policy | str = "InfoBatch",
        signal: Signal | str = "SampleLoss",
        schedule: PruningSchedule | None = None,
        reference: DataLoader[Any] | Dataset[Any] | Literal["validation"] | None = None,
        seed: int | None = None,
        device: Literal["auto", "cpu"] = "auto",
        dtype: StorageDtype = "float32",
        keep_history: bool = False,
        on_nonfinite_loss: Literal["raise", "skip"] = "raise",
    ) -> None:
        self.score = resolve(_OWNER, "score", score, Score, SCORES)  # type: ignore[type-abstract]
        self.policy = resolve(_OWNER, "policy", policy, Policy, POLICIES)  # type: ignore[type-abstract]
        self.signal = resolve(_OWNER, "signal", signal, Signal, SIGNALS)  # type: ignore[type-abstract]
        self.schedule = schedule or PruningSchedule()
        if isinstance(reference, str):
            check_choice(_OWNER, "reference", reference, (VALIDATION,))
        check_choice(_OWNER, "device", device, ("auto", "cpu"))
        check_choice(_OWNER, "dtype", dtype, ("float32", "float16", "bfloat16"))
        check_choice(_OWNER, "on_nonfinite_loss", on_nonfinite_loss, ("raise", "skip"))
        self.reference = reference
        self.seed = seed
        self.device = device
        self.dtype: StorageDtype = dtype
        self.keep_history = keep_history
        self.on_nonfinite_loss = on_nonfinite_loss
        self._pruner: Pruner | None = None
        self._sampler: PrunedSampler | None = None
        self._taps: access.FitTaps | None = None
        self._recorder: StepRecorder | None = None
        self._reference: ReferenceSet | None = None
        self._loaded: dict[str, Any] | None = None
        self._is_armed = False
        self._holds_length = False
        self._full_batches: int | float = 0

    @property
    def trajectories(self) -> LossTrajectories:
        """The recorded losses; available from the first epoch on.

        Raises:
            RuntimeError: Before a fit has begun.
        """
        return self._started().trajectories

    @property
    def decision(self) -> Decision:
        """What the next epoch trains on, and the scores that this rests on."""
        return self._started().decision

    def _started(self) -> Pruner:
        if self._pruner is None:
            raise RuntimeError(f"{_OWNER}: nothing recorded before a fit. Call Trainer.fit first.")
        return self._pruner

    # ---- before the first step --------------------------------------------------------------

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check what can be checked and wrap the Trainer's methods for this fit."""
        if stage != "fit":
            return
        self._release()
        access.check_trainer(trainer)
        try:
            self.schedule.check_ends(trainer.max_epochs, trainer.max_steps, self.policy.finish)
        except ValueError as error:
            raise MisconfigurationException(f"{_OWNER}: {error}") from None
        self._reference = ReferenceSet.find(
            self.reference, trainer, pl_module, self.score.needs_reference, self.signal.plain_loss
        )
        self._recorder = StepRecorder(self.signal, not pl_module.automatic_optimization)
        self._taps = access.FitTaps(
            trainer,
            on_train_loader=self._take_loader,
            on_lengths=lambda: self._follow_length(trainer),
            around_training_step=self._recorder.run,
            around_validation_step=self._reference.run if self._reference else None,
        )

    def _take_loader(self, dataloader: object) -> object:
        loader = check_loader(dataloader)
        if self._pruner is not None and len(loader.dataset) != self.trajectories.num_samples:  # type: ignore[arg-type]
            raise MisconfigurationException(
                f"{_OWNER}: expected the training set to keep its {self.trajectories.num_samples} "
                f"samples, got {len(loader.dataset)}. Losses are remembered by index; use a new "  # type: ignore[arg-type]
                "callback for another set."
            )
        seed = self.seed
        if seed is None:
            seed = int(os.environ.get("PL_GLOBAL_SEED", "0"))  # what seed_everything leaves
        self._sampler = sampler_for(loader, seed)
        return access.with_sampler(loader, self._sampler)

    def _follow_length(self, trainer: Trainer) -> None:
        """Bring sampler and loop to the epoch that begins; called before each epoch."""
        # A tuner's fit runs without callbacks but through our wrappers: it sees every sample.
        if self._is_armed and self in trainer.callbacks:  # type: ignore[attr-defined]
            self._apply_selection(trainer)

    def _apply_selection(self, trainer: Trainer) -> None:
        assert self._sampler is not None
        selection = self._started().decision.selection
        self._sampler.select(None if selection is None else selection.kept)
        self._sampler.arm()
        self._sampler.set_epoch(access.epochs_processed(trainer))
        access.refresh_epoch_length(trainer)
        if self._holds_length:
            access.hold_finished_epoch_length(trainer)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start or resume the state, and let the selection take effect."""
        loader = check_installed(access.train_loaders(trainer), self._sampler)
        assert self._sampler is not None
        if self._reference is not None:
            self._reference.prepare(loader)
        if self._pruner is None:
            self._pruner = self._new_pruner(self._sampler, pl_module)
        self._full_batches = trainer.num_training_batches
        if self._loaded is not None:
            self._load(self._pruner)
            self._finish_interrupted_epoch(trainer, pl_module, self._pruner)
        if self.decision.epoch < access.epochs_processed(trainer):
            # A run that had ended goes on, with a later max_epochs or a second fit.
            self._decide(trainer, self._pruner, access.epochs_processed(trainer))
        self._is_armed = True
        self._apply_selection(trainer)
        self._sampler.skip(access.batches_to_skip(trainer))
        is_resumed = trainer.ckpt_path is not None
        if is_resumed or access.has_fetched(trainer) or self.decision.selection is not None:
            access.restart_iteration(trainer)

    def _new_pruner(self, sampler: PrunedSampler, module: LightningModule) -> Pruner:
        return Pruner(
            sampler.num_samples,
            self.signal,
            self.score,
            self.policy,
            self.schedule,
            seed=sampler.seed,
            device="cpu" if self.device == "cpu" else module.device,
            dtype=self.dtype,
            keep_history=self.keep_history,
        )

    # ---- the batch path ---------------------------------------------------------------------

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Tell the tap which samples the batch holds and what they weigh."""
        if self._holds_length:
            self._holds_length = False
            access.refresh_epoch_length(trainer)
        assert self._sampler is not None
        assert self._recorder is not None
        selection = self.decision.selection
        weights = None if selection is None else selection.weights
        self._recorder.arm(self._sampler, batch_idx, weights, self.trajectories.device)

    @override
    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Record the losses of the batch."""
        assert self._recorder is not None
        collected = self._recorder.collect()
        if collected is not None:
            self.trajectories.record(*collected)

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the tap on the validation pass if it is the reference."""
        if self._reference is not None and not trainer.sanity_checking:
            self._reference.open_validation()

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close it; of several passes in an epoch the last one counts."""
        if self._reference is not None:
            self._reference.close_validation(pl_module.device)

    # ---- the epoch end ----------------------------------------------------------------------

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Run the reference set, score, and select the samples of the next epoch."""
        started = time.perf_counter()
        pruner = self._started()
        epoch = access.epochs_processed(trainer) - 1
        reference = self._conclude(trainer, pl_module, pruner, epoch)
        values = pruner.metrics()
        if reference is not None:
            values["reference_loss"] = reference
        values["scoring_seconds"] = time.perf_counter() - started
        for name, value in values.items():
            in_bar = name == "kept_fraction"
            pl_module.log(f"pruning/{name}", value, prog_bar=in_bar, sync_dist=True)

    def _conclude(
        self, trainer: Trainer, module: LightningModule, pruner: Pruner, epoch: int
    ) -> Tensor | None:
        reference = self._reference.loss(trainer, module) if self._reference else None
        try:
            pruner.close_epoch(epoch, reference, self.on_nonfinite_loss == "skip")
        except BadLossError as error:
            raise RuntimeError(f"{_OWNER}: {error}") from None
        if epoch + 1 != trainer.max_epochs:
            self._decide(trainer, pruner, epoch + 1)
        return reference

    def _decide(self, trainer: Trainer, pruner: Pruner, epoch: int) -> None:
        steps = access.steps_per_epoch(trainer, self._full_batches)
        progress = progress_after_epoch(
            epoch, trainer.max_epochs, trainer.global_step, steps, trainer.max_steps
        )
        if pruner.decide(epoch, progress).is_fallback:
            rank_zero_warn(
                f"{_OWNER}: {type(self.policy).__name__} kept no sample for epoch {epoch}; "
                "that epoch trains on all of them."
            )

    # ---- state ------------------------------------------------------------------------------

    @override
    def state_dict(self) -> dict[str, Any]:
        """Trajectories, the running epoch, the selection: tensors and primitives only."""
        if self._pruner is None:
            return self._loaded or {}
        return self._pruner.state_dict()

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state until the length of the training set is known."""
        self._loaded = state_dict or None

    def _load(self, pruner: Pruner) -> None:
        assert self._loaded is not None
        try:
            pruner.load_state_dict(self._loaded)
        except ValueError as error:
            raise MisconfigurationException(f"{_OWNER}: {error}") from None
        self._loaded = None

    def _finish_interrupted_epoch(
        self, trainer: Trainer, module: LightningModule, pruner: Pruner
    ) -> None:
        # Saved on the very last batch: Lightning counts that epoch as done and never runs its end.
        running = pruner.trajectories.running
        epoch = access.epochs_processed(trainer)
        if epoch > pruner.decision.epoch and not bool(running.isnan().all()):
            self._conclude(trainer, module, pruner, epoch - 1)
            self._holds_length = True

    def _release(self) -> None:
        if self._taps is not None:
            self._taps.remove()
        self._taps = None
        self._is_armed = self._holds_length = False

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the wrappers off."""
        self._release()

    @override
    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Take the wrappers off: Lightning does not call ``teardown`` after an exception."""
        self._release()
