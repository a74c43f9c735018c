"""`FitSession`: one fit, from the checks before it to what a resume needs of it."""

import copy
import math
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from lightning_alignprune.fit.announcements import Announcements
from lightning_alignprune.fit.batch_indices import BatchIndices
from lightning_alignprune.fit.in_batch import InBatch
from lightning_alignprune.fit.look import is_due, look_at_left_out
from lightning_alignprune.fit.lr_alignment import ScheduleAlignment
from lightning_alignprune.fit.preflight import (
    check_averages,
    check_fixed,
    check_order_free,
    check_step,
    check_trainer,
    check_trusted,
)
from lightning_alignprune.fit.rehearsal import rehearse_weights
from lightning_alignprune.fit.rng_state import collect_rng_states, restore_own_states
from lightning_alignprune.fit.sample_losses import check_sample_losses, share_sample_losses
from lightning_alignprune.fit.self_check import SelfCheck
from lightning_alignprune.fit.step_recorder import StepRecorder
from lightning_alignprune.functional.draws import draw_seed
from lightning_alignprune.in_batch import BatchChoice
from lightning_alignprune.presets import OnNonfiniteLoss, ReferenceSource, TrajectoryDevice
from lightning_alignprune.pruner import BadLossError, Decision, Parts, Pruner
from lightning_alignprune.reference import (
    ReferenceWeights,
    find_reference,
    learn_from_reference,
)
from lightning_alignprune.schedule import progress_after_epoch
from lightning_alignprune.state import PrunedSampler, StorageDtype
from lightning_alignprune.state.row_means import RowMeans
from lightning_alignprune.state.shard import Shard
from lightning_alignprune.state.trusted import TrustedSamples
from lightning_alignprune.trainer_access import internals as access
from lightning_alignprune.trainer_access.batch_items import TrainItems
from lightning_alignprune.trainer_access.dataset_labels import labels_of
from lightning_alignprune.trainer_access.dataset_samples import (
    check_same_on_ranks,
    check_same_samples,
    hash_of_samples,
)
from lightning_alignprune.trainer_access.errors import OWNER
from lightning_alignprune.trainer_access.loaders import (
    check_installed,
    check_length,
    check_loader,
    sampler_for,
)
from lightning_alignprune.trainer_access.ranks import Partition, RankExchange
from lightning_alignprune.trainer_access.running_fit import RunningFit

_WORKER_STREAM = 7


class PruningSettings(Protocol):
    """What a session reads of its callback; the callback's docs say what each means."""

    parts: Parts
    reference: ReferenceSource
    seed: int | None
    device: TrajectoryDevice
    dtype: StorageDtype
    keep_history: bool
    on_nonfinite_loss: OnNonfiniteLoss
    align_lr_schedules: bool
    restore_rng: bool
    partition: Partition
    self_check: bool
    sample_index: int | str | None
    trusted: TrustedSamples | None
    reference_weights: ReferenceWeights
    in_batch: BatchChoice | None
    verbose: bool


class _Running(NamedTuple):
    """What the running epoch has recorded, of all ranks.

    Attributes:
        losses: Shape (N,).
        means: What they are the means of, where rows are averaged.
        notes: Shape (5, N), or None where the score judges no labels.
    """

    losses: Tensor
    means: RowMeans | None
    notes: Tensor | None


class FitSession:
    """Check a fit, connect a pruner to it, and keep what it found.

    Args:
        callback: The callback whose session this is, with its settings.
        trainer: The Trainer.
        module: Its module.

    Raises:
        MisconfigurationException: If this fit cannot be pruned; nothing is changed then.

    Attributes:
        pruner: Signal, score and policy in use, and what they found; None before the fit begins.
        sampler: What the train loader draws from; None before the loader is there.
        is_running: Whether the Trainer is still wired to this session.
    """

    def __init__(
        self, callback: PruningSettings, trainer: Trainer, module: LightningModule
    ) -> None:
        parts = callback.parts
        _check_settings(callback, trainer, module)
        self._callback = callback
        self._fit = RunningFit(trainer, module, RankExchange(trainer, callback.partition))
        self._reference = find_reference(
            callback.reference, self._fit, *parts[:3], callback.reference_weights
        )
        seed = callback.seed
        self._seed = access.global_seed() if seed is None else seed
        self._generator = torch.Generator() if callback.restore_rng else None
        self._recorder = StepRecorder(
            parts.signal, not module.automatic_optimization, self._rehearse_weights, module
        )
        if callback.in_batch is not None:
            self._recorder.in_batch = InBatch(self._fit, copy.deepcopy(callback.in_batch))
        self._lr: ScheduleAlignment | None = None
        self._full_batches: int | float = 0
        self._holds_length = self._is_wired = False
        self._num_overfit: int | None = None
        self._extra: dict[str, Any] = {}
        self._rng_before: dict[str, Any] | None = None
        self._samples: str | None = None
        self._samples_elsewhere: str | None = None
        self._dataset: Any = None
        self._announcements: Announcements | None = None
        self.pruner: Pruner | None = None
        self.sampler: PrunedSampler | None = None
        self._of_trainer: Callable[[], Trainer | None] = weakref.ref(trainer)
        reference = self._reference
        self._taps = access.FitTaps(
            trainer,
            on_train_loader=self._take_loader,
            on_lengths=self._follow_length,
            around_training_step=self._recorder.run,
            around_validation_step=reference.around_validation_step if reference else None,
        )
        self.is_running = True

    def _rehearse_weights(self, indices: Tensor, args: Any, kwargs: Any) -> bool | None:
        return rehearse_weights(self._fit, indices, args, kwargs)

    def go_on_from(self, before: "FitSession | None") -> None:
        """Take over the pruner of the fit before if this is its Trainer, which goes on.

        Another Trainer's fit is a new run, from its own beginning.
        """
        trainer = self._fit.trainer
        if before is None or before.pruner is None or before._of_trainer() is not trainer:
            return
        if before.pruner.continues(access.epochs_processed(trainer)):
            self.pruner, self._samples = before.pruner, before._samples
            if self._recorder.in_batch is not None:
                self._recorder.in_batch.load_state_dict(before._extra.get("in_batch"))

    # ---- the loader -------------------------------------------------------------------------

    def _take_loader(self, dataloader: object) -> object:
        loader = check_loader(dataloader, self._callback.sample_index is not None)
        if self.pruner is not None:
            check_length(loader, self.pruner.shard.num_samples)
        if loader.dataset is not self._dataset:
            samples = hash_of_samples(loader.dataset)
            if self.pruner is not None:
                check_same_samples(samples, self._samples, "in the epochs before")
            self._dataset, self._samples = loader.dataset, samples
        self.sampler = sampler_for(loader, self._seed, self._fit.exchange)
        self._num_overfit = access.num_overfit_batches(self._fit.trainer, loader)
        if self._num_overfit is not None:
            of_ranks = self.sampler.batch_size * self.sampler.num_replicas
            self.sampler.num_first = self._num_overfit * of_ranks
        installed = access.with_sampler(loader, self.sampler, self._generator)
        if self._callback.self_check and not self._recorder.is_manual:
            self._check_on(TrainItems(installed, self.sampler), self.sampler)
        return installed

    def _check_on(self, items: TrainItems, sampler: PrunedSampler) -> None:
        if self._recorder.self_check is None:
            where = self._batch_indices(sampler.shard)
            self._recorder.self_check = SelfCheck(self._fit, items, where)
        else:
            self._recorder.self_check.follow_loader(items)

    def _follow_length(self) -> None:
        # Called before each epoch. A tuner's fit has no callbacks: it sees every sample.
        if self._is_wired and self._callback in access.callbacks(self._fit.trainer):
            self._apply_selection()

    def _apply_selection(self) -> None:
        assert self.sampler is not None
        assert self.pruner is not None
        trainer, decision = self._fit.trainer, self.pruner.decision
        selection = decision.selection
        epoch = access.epochs_processed(trainer)
        self.sampler.select(None if selection is None else selection.kept, decision.num_each)
        self.sampler.arm()
        self.sampler.set_epoch(epoch)
        if self._generator is not None:
            self._generator.manual_seed(draw_seed(self._seed, epoch, _WORKER_STREAM))
        access.refresh_epoch_length(trainer, self._num_overfit)
        if self.sampler.has_fallen_back:  # seen from what a user's sampler draws
            decision.fall_back()
            if self.pruner.samples is not None:
                self.pruner.samples.follow(decision.epoch, None)
            values = decision.metrics(self.pruner.shard)
            access.correct_logged(trainer, {f"pruning/{k}": v for k, v in values.items()})
        if self._holds_length:
            access.hold_finished_epoch_length(trainer)

    # ---- the start --------------------------------------------------------------------------

    def start(self, state: dict[str, Any] | None) -> None:
        """Check loader and reference, now that the data are there; begin, or resume from a state.

        Raises:
            MisconfigurationException: If loader, reference or state do not fit.
        """
        trainer, module, exchange = self._fit
        loader = check_installed(access.train_loaders(trainer), self.sampler)
        sampler = self.sampler
        assert sampler is not None  # check_installed saw it
        self._check_samples(sampler.num_samples)
        if self._reference is not None:
            self._reference.prepare(loader)
        self._full_batches = trainer.num_training_batches
        if self._callback.align_lr_schedules:
            self._lr = ScheduleAlignment(trainer, module, int(self._full_batches))
        if self.pruner is None:
            self.pruner = self._new_pruner(sampler)
            self._warn_if_too_short(self.pruner)
        pruner = self.pruner
        self._follow_settings(pruner)
        self._begin_with(pruner, state)
        pruner.has_reference, pruner.fewest = self._reference is not None, sampler.fewest
        # A step by hand trains, whatever it is run for.
        pruner.has_looks = self._recorder.batch_indices is None and not self._recorder.is_manual
        if pruner.policy.uses_labels:
            pruner.labels = labels_of(loader.dataset, pruner.indices)
        self._catch_up(pruner, state)
        self._recorder.signal = pruner.signal
        self._recorder.will_weigh = pruner.policy.weighs_samples
        self._recorder.takes_notes = pruner.samples is not None
        sampler.seed = self._seed = pruner.seed  # of the checkpoint, if there is one
        self._is_wired = True
        self._apply_selection()
        num_behind = access.batches_to_skip(trainer)
        access.forget_unfinished_last_batch(trainer)
        sampler.skip(num_behind)
        if num_behind and state:
            exchange.warn_of_other_layout(state)
        is_begun = trainer.ckpt_path is not None or access.has_fetched(trainer)
        if is_begun or pruner.decision.selection is not None:
            access.restart_iteration(trainer)
        if state and self._generator is not None and state.get("rng"):
            restore_own_states(state["rng"], trainer.global_rank, trainer.world_size)
        self.note_rng()

    def _check_samples(self, num_samples: int) -> None:
        exchange = self._fit.exchange
        self._samples_elsewhere = hash_of_samples(self._dataset, in_process=False)
        check_same_on_ranks(self._samples_elsewhere, exchange)
        check_trusted(self._callback.trusted, num_samples, exchange)
        check_sample_losses(self._fit, num_samples)

    def _follow_settings(self, pruner: Pruner) -> None:
        """Trust what is trusted; let batches say which samples they hold, if they do."""
        pruner.trust(self._callback.trusted)
        self._recorder.batch_indices = where = self._batch_indices(pruner.shard)
        if where is not None:
            pruner.trajectories.average_rows()

    def _batch_indices(self, shard: Shard) -> BatchIndices | None:
        key = self._callback.sample_index
        return None if key is None else BatchIndices(key, shard)

    def _new_pruner(self, sampler: PrunedSampler) -> Pruner:
        callback = self._callback
        # Copies: a second run with this callback must not start from the first one's EMA.
        return Pruner(
            sampler.num_samples,
            *copy.deepcopy(callback.parts),
            seed=sampler.seed,
            device="cpu" if callback.device == "cpu" else self._fit.module.device,
            dtype=callback.dtype,
            keep_history=callback.keep_history,
            shard=sampler.shard,
        )

    def _warn_if_too_short(self, pruner: Pruner) -> None:
        trainer, schedule = self._fit.trainer, pruner.schedule
        max_epochs, needed = trainer.max_epochs, pruner.score.min_observations
        # With max_steps an epoch's number does not tell how far the run is.
        if max_epochs in (None, -1) or trainer.max_steps != -1 or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        if pruner.first_pruned_epoch(max_epochs) is None:
            rank_zero_warn(
                f"{OWNER}: nothing will be pruned: max_epochs={max_epochs} leaves no epoch between "
                f"the first one that can be ({max(schedule.start_epoch, needed)}, given "
                f"{type(pruner.score).__name__} and start_epoch={schedule.start_epoch}) and the "
                f"finish (stop_fraction={schedule.stop_fraction:g}). Train longer, or use a score "
                "that needs fewer epochs."
            )

    def _begin_with(self, pruner: Pruner, state: dict[str, Any] | None) -> None:
        """Take over the state, if there is one, and say what the run will do."""
        if state is None:
            pruner.forget_running()  # a crash may have left part of an epoch
        else:
            self._load(pruner, state)
        self._announcements = Announcements(pruner, self._callback.verbose, self._recorder.in_batch)
        self._announcements.begin(self._fit.trainer, self._reference)

    def _load(self, pruner: Pruner, state: dict[str, Any]) -> None:
        try:
            pruner.load_state_dict(state)
        except ValueError as error:
            raise MisconfigurationException(f"{OWNER}: {error}") from None
        saved = state.get("samples")
        check_same_samples(self._samples_elsewhere, saved, "when the checkpoint was written")
        means = pruner.trajectories.row_means
        if means is not None and pruner.shard.is_whole and self._fit.exchange.rank > 0:
            means.clear()  # they are of all ranks: the first one goes on from them
        self._deal_out(pruner, state.get("signal_sums", {}))
        if self._recorder.in_batch is not None:
            self._recorder.in_batch.load_state_dict(state.get("in_batch"))
        if by_rank := state.get("usual_factors"):
            others = next(iter(by_rank.values()))
            self._recorder.usual.load_state_dict(by_rank.get(self._fit.exchange.rank, others))
        if self._lr is not None and state.get("lr"):
            self._lr.load_state_dict(state["lr"])
        if self._reference is not None and state.get("reference"):
            self._reference.load_state_dict(state["reference"])

    def _catch_up(self, pruner: Pruner, state: dict[str, Any] | None) -> None:
        """Do what the end of the epoch before would have done, if it was not done."""
        epoch = access.epochs_processed(self._fit.trainer)
        has_losses = not bool(pruner.trajectories.running.isnan().all())
        if state and epoch > pruner.decision.epoch and has_losses:
            # Saved on the last batch: Lightning never runs the end of that epoch.
            self.conclude(epoch - 1)
            self._holds_length = True
        is_new = epoch == 0 and state is None and pruner.policy.selects_first_epoch
        if pruner.decision.epoch < epoch or is_new:
            # A run that had ended goes on: later max_epochs, second fit.
            self._decide(pruner, epoch)

    # ---- the batch path ---------------------------------------------------------------------

    def start_epoch(self) -> None:
        """Have the first step looked at; note the random states with which the epoch begins."""
        self._recorder.start_epoch()
        self.note_rng()
        self.started().record.start()

    def before_batch(self, batch_idx: int) -> None:
        """Tell the tap which samples the batch holds and what they weigh."""
        assert self.sampler is not None
        pruner = self.started()
        pruner.record.start()  # an epoch that is resumed has no beginning
        if self._holds_length:
            self._holds_length = False
            access.refresh_epoch_length(self._fit.trainer, self._num_overfit)
        selection = pruner.decision.selection
        weights = None if selection is None else selection.weights
        self._recorder.arm(self.sampler, batch_idx, weights, pruner.trajectories.device)
        if self._reference is not None:
            self._reference.before_batch(batch_idx)
        if self._lr is not None:
            self._lr.before_batch(batch_idx)

    def after_batch(self) -> None:
        """Record the losses of the batch; let LR schedules catch up."""
        self._take_in()
        self.note_rng()

    def note_rng(self) -> None:
        """Note the random states before a batch is drawn, for a checkpoint written inside it."""
        if self._generator is not None:
            self._rng_before = collect_rng_states()

    def _take_in(self) -> None:
        self._fit.exchange.has_news = True
        if self._recorder.in_batch is not None:
            self._recorder.in_batch.after_batch()
        if (collected := self._recorder.collect()) is not None:
            self.started().take(*collected)
        if self._reference is not None:
            self._reference.after_batch()
        if self._lr is not None:
            self._lr.after_batch()

    # ---- the epoch end ----------------------------------------------------------------------

    def start_validation(self) -> None:
        """Called when a validation pass begins, which may be the reference."""
        self.started().record.pause()
        if self._reference is not None:
            self._reference.start_validation()

    def end_validation(self) -> None:
        """Called when it has ended."""
        if self._reference is not None:
            self._reference.end_validation()
        self.note_rng()
        self.started().record.start()

    def close_epoch(self) -> Tensor | None:
        """Close the epoch whose batches are all done; return its reference loss."""
        return self.conclude(access.epochs_processed(self._fit.trainer) - 1)

    def conclude(self, epoch: int) -> Tensor | None:
        """Run the reference, close the epoch and decide about the next; return the reference loss.

        Raises:
            RuntimeError: If a recorded loss is NaN or infinite and that is not to be skipped.
        """
        pruner, reference, exchange = self.started(), self._reference, self._fit.exchange
        share_sample_losses(self._fit.module, exchange)
        loss = self._measured_reference()
        looked = None
        if is_due(pruner, epoch, self._fit.trainer.max_epochs):
            looked = look_at_left_out(self._fit, pruner, self._recorder)
        pruner.signal.load_sums(self._sums(of_all_ranks=True))
        samples = None
        if reference is not None and loss is not None:
            samples = learn_from_reference(reference, pruner.signal, pruner.score)
        if samples is not None and pruner.signal.needs_logits:
            loss = samples.losses.mean()  # in the unit of what is recorded
        running = self._running(pruner)
        pruner.trajectories.running = running.losses
        if pruner.samples is not None and running.notes is not None:
            pruner.samples.running = running.notes
        if looked is not None:
            pruner.take_look(*looked)
        exchange.has_news = False
        try:
            compares = pruner.signal.compares_with_reference
            losses = samples.losses if samples is not None and compares else None
            skips_bad = self._callback.on_nonfinite_loss == "skip"
            pruner.close_epoch(epoch, loss, skips_bad, losses)
        except BadLossError as error:
            raise RuntimeError(f"{OWNER}: {error}") from None
        self._deal_out(pruner, self._sums())
        if reference is not None and loss is None:
            loss = reference.follow(pruner.trajectories)
        if self._lr is not None:
            self._lr.close_epoch()
        if epoch + 1 != self._fit.trainer.max_epochs:
            self._decide(pruner, epoch + 1)
        return loss

    def _running(self, pruner: Pruner) -> "_Running":
        """Return what the running epoch has recorded, of all ranks."""
        bank, exchange = pruner.trajectories, self._fit.exchange
        notes = None if pruner.samples is None else pruner.samples.running
        if bank.row_means is None:
            losses, notes = exchange.running(bank.running, notes, self.sampler)
            return _Running(losses, None, notes)
        if notes is not None:
            _, notes = exchange.running(bank.running, notes, self.sampler)
        means = exchange.row_means(bank.row_means)
        losses = bank.running if means is bank.row_means else means.values()
        return _Running(losses, means, notes)

    def _measured_reference(self) -> Tensor | None:
        loss = None if self._reference is None else self._reference.measure()
        if loss is None or bool(loss.isfinite()):
            return loss
        rank_zero_warn(f"{OWNER}: the reference loss is {loss.item()}; scores leave it out.")
        return None

    def _decide(self, pruner: Pruner, epoch: int) -> Decision:
        trainer = self._fit.trainer
        steps = math.ceil(self._full_batches / trainer.accumulate_grad_batches)
        progress = progress_after_epoch(
            epoch, trainer.max_epochs, trainer.global_step, steps, trainer.max_steps
        )
        decision = pruner.decide(epoch, progress)
        self.announced().follow()
        for warning in pruner.warnings():
            rank_zero_warn(f"{OWNER}: {warning}")
        return decision

    # ---- what stays -------------------------------------------------------------------------

    def announced(self) -> Announcements:
        """Return the announcements of a fit that has begun."""
        assert self._announcements is not None, "a hook of a fit ran before on_train_start"
        return self._announcements

    def started(self) -> Pruner:
        """Return the pruner of a fit that has begun."""
        assert self.pruner is not None, "a hook of a fit ran before on_train_start"
        return self.pruner

    def state_dict(self) -> dict[str, Any]:
        """Return the pruner's state, of all ranks, and what a resume needs beside it."""
        pruner = self.started()
        if not self.is_running:  # saved after the fit
            return {**pruner.state_dict(), **self._extra}
        self._settle()
        share_sample_losses(self._fit.module, self._fit.exchange)
        merged = self._running(pruner)
        extra = self._extra_state()
        for name in ("rng", "in_batch", "usual_factors"):  # each rank has its own
            if extra[name] is not None:
                extra[name] = self._fit.exchange.united(extra[name])
        extra["signal_sums"] = self._sums(of_all_ranks=True)
        return {**pruner.state_dict(*merged), **extra}

    def _sums(self, of_all_ranks: bool = False) -> dict[str, Tensor]:
        sums = {} if self.pruner is None else self.pruner.signal.sums()
        if not of_all_ranks:
            return sums
        return {name: self._fit.exchange.all_reduce(value) for name, value in sums.items()}

    def _deal_out(self, pruner: Pruner, sums: dict[str, Tensor]) -> None:
        """Give rank 0 the sums of all ranks, so that they are added up once."""
        is_mine = int(self._fit.exchange.rank == 0)
        pruner.signal.load_sums({name: value * is_mine for name, value in sums.items()})

    def _settle(self) -> None:
        """Take in a batch that is over, where another's hook saves before ours has run."""
        if self._is_wired and self._recorder.is_armed and not access.is_in_batch(self._fit.trainer):
            self._take_in()

    def _rng_states(self) -> dict[int, Any] | None:
        if self._generator is None:
            return None
        trainer = self._fit.trainer
        # A batch that was begun is drawn and trained again.
        is_again = access.is_in_batch(trainer) and self._rng_before is not None
        return {trainer.global_rank: self._rng_before if is_again else collect_rng_states()}

    def _extra_state(self) -> dict[str, Any]:
        in_batch = self._recorder.in_batch
        return {
            **self._fit.exchange.layout(),
            "samples": self._samples_elsewhere,
            "reference": None if self._reference is None else self._reference.state_dict(),
            "lr": None if self._lr is None else self._lr.state_dict(),
            "rng": self._rng_states(),
            "in_batch": None if in_batch is None else in_batch.state_dict(),
            "usual_factors": {self._fit.exchange.rank: self._recorder.usual.state_dict()},
            "signal_sums": self._sums(),
        }

    def held_dataset(self) -> Any:
        """Return the training set if the Trainer of this fit still holds it, else None."""
        trainer = self._of_trainer()
        loaders = [] if trainer is None else access.train_loaders(trainer)
        return getattr(loaders[0], "dataset", None) if loaders else None

    def release(self) -> None:
        """Take everything off Trainer and module; what was found stays."""
        if not self.is_running:
            return
        self._settle()
        self._extra = self._extra_state()
        self.is_running = self._is_wired = False
        self._taps.remove()
        if self._lr is not None:
            self._lr.release()
        self._lr = self._reference = self._generator = self._dataset = None
        del self._fit, self._recorder, self._taps

    def __getstate__(self) -> dict[str, Any]:
        """Leave the Trainer behind: a copy of what was found belongs to none."""
        return {**self.__dict__, "_of_trainer": _no_trainer}


def _check_settings(callback: PruningSettings, trainer: Trainer, module: LightningModule) -> None:
    """Refuse what is known not to work before any data are there."""
    schedule, finish = callback.parts.schedule, callback.parts.policy.finish
    check_trainer(trainer)
    check_step(module)
    try:
        schedule.check_ends(trainer.max_epochs, trainer.max_steps, finish)
    except ValueError as error:
        raise MisconfigurationException(f"{OWNER}: {error}") from None
    if callback.reference_weights == "ema":
        check_averages(trainer)
    if callback.partition == "fixed":
        check_fixed(callback.parts.policy, callback.reference)
    if callback.sample_index is not None:
        check_order_free(callback.reference)


def _no_trainer() -> None:
    return None
