"""`FitSession`: what one fit needs beside the pruner, wired to its Trainer and gone at its end."""

import math
import os
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from lightning_alignprune.fit.lr_alignment import ScheduleAlignment
from lightning_alignprune.fit.rng_state import collect_rng_states, restore_rng_states
from lightning_alignprune.fit.step_recorder import StepRecorder
from lightning_alignprune.functional.draws import draw_seed
from lightning_alignprune.pruner import BadLossError, Pruner
from lightning_alignprune.reference.following import follow_reference
from lightning_alignprune.reference.reference_set import ReferenceSet
from lightning_alignprune.schedule import progress_after_epoch
from lightning_alignprune.signals import Signal
from lightning_alignprune.state.sampler import PrunedSampler
from lightning_alignprune.trainer_access import internals as access
from lightning_alignprune.trainer_access.dataset_labels import labels_of
from lightning_alignprune.trainer_access.errors import OWNER
from lightning_alignprune.trainer_access.loaders import (
    check_installed,
    check_length,
    check_loader,
    sampler_for,
)
from lightning_alignprune.trainer_access.ranks import Partition, RankExchange

_WORKER_STREAM = 7


class FitSession:
    """Connect a pruner to a running fit.

    Args:
        callback: The callback whose session this is; tuners run fits without it.
        trainer: The Trainer.
        module: Its module.
        signal: What is recorded.
        reference: The reference set, or None.
        seed: Seed of the orders and draws; None takes the one of ``seed_everything``.
        num_samples: Length that the training set must have, or None on a first fit.
        aligns_lr: Whether step-interval LR schedules follow the share of training done.
        restores_rng: Whether random states travel in the checkpoint.
        partition: Whether each rank keeps all losses or those of its share.
    """

    def __init__(
        self,
        callback: Callback,
        trainer: Trainer,
        module: LightningModule,
        signal: Signal,
        reference: ReferenceSet | None,
        seed: int | None,
        num_samples: int | None,
        aligns_lr: bool,
        restores_rng: bool,
        partition: Partition,
    ) -> None:
        self.trainer, self.module, self.reference = trainer, module, reference
        self.recorder = StepRecorder(signal, not module.automatic_optimization)
        self.sampler: PrunedSampler | None = None
        self._dataset: Any = None
        self._callback = callback
        self._num_samples = num_samples
        self._seed = int(os.environ.get("PL_GLOBAL_SEED", "0")) if seed is None else seed
        self._aligns_lr = aligns_lr
        self._generator = torch.Generator() if restores_rng else None
        self._pruner: Pruner | None = None
        self._lr: ScheduleAlignment | None = None
        self._full_batches: int | float = 0
        self._holds_length = False
        self._exchange = RankExchange(trainer, partition)
        self._taps = access.FitTaps(
            trainer,
            on_train_loader=self._take_loader,
            on_lengths=self._follow_length,
            around_training_step=self.recorder.run,
            around_validation_step=reference.run if reference else None,
        )

    def _take_loader(self, dataloader: object) -> object:
        loader = check_loader(dataloader)
        check_length(loader, self._num_samples)
        self.sampler = sampler_for(loader, self._seed, self._exchange)
        return access.with_sampler(loader, self.sampler, self._generator)

    def _follow_length(self) -> None:
        # Called before each epoch. A tuner's fit has no callbacks: it sees every sample.
        if self._pruner is not None and self._callback in access.callbacks(self.trainer):
            self._apply_selection(self._pruner)

    def _apply_selection(self, pruner: Pruner) -> None:
        assert self.sampler is not None
        selection = pruner.decision.selection
        epoch = access.epochs_processed(self.trainer)
        kept = None if selection is None else selection.kept
        self.sampler.select(kept, pruner.decision.num_each)
        self.sampler.arm()
        self.sampler.set_epoch(epoch)
        if self._generator is not None:
            self._generator.manual_seed(draw_seed(self._seed, epoch, _WORKER_STREAM))
        access.refresh_epoch_length(self.trainer)
        if self._holds_length:
            access.hold_finished_epoch_length(self.trainer)

    def check_start(self) -> PrunedSampler:
        """Check loader and reference, now that the data are there; return the sampler."""
        loader = check_installed(access.train_loaders(self.trainer), self.sampler)
        self._dataset = loader.dataset
        if self.reference is not None:
            self.reference.prepare(loader, self.trainer.world_size, self.trainer.global_rank)
        self._full_batches = self.trainer.num_training_batches
        if self._aligns_lr:
            self._lr = ScheduleAlignment(self.trainer, self.module, int(self._full_batches))
        assert self.sampler is not None  # check_installed saw it
        return self.sampler

    def start(self, pruner: Pruner, state: dict[str, Any] | None, skips_bad: bool) -> None:
        """Let the selection take effect, on a fresh start or where a checkpoint left off."""
        trainer, sampler = self.trainer, self.sampler
        assert sampler is not None
        pruner.has_reference = self.reference is not None
        if pruner.policy.uses_labels:
            pruner.labels = labels_of(self._dataset, pruner.indices)
        if state and self._lr is not None and state.get("lr"):
            self._lr.load_state_dict(state["lr"])
        if state and self.reference is not None and state.get("reference"):
            self.reference.load_state_dict(state["reference"])
        epoch = access.epochs_processed(trainer)
        has_losses = not bool(pruner.trajectories.running.isnan().all())
        if state and epoch > pruner.decision.epoch and has_losses:
            # Saved on the last batch: Lightning never runs the end of that epoch.
            self.conclude(pruner, epoch - 1, skips_bad)
            self._holds_length = True
        if pruner.decision.epoch < epoch:
            # A run that had ended goes on: later max_epochs, second fit.
            self._decide(pruner, epoch)
        self._pruner, self.recorder.signal = pruner, pruner.signal
        self.recorder.will_weigh = pruner.policy.weighs_samples
        sampler.seed = self._seed = pruner.seed  # of the checkpoint, if there is one
        self._apply_selection(pruner)
        num_behind = access.batches_to_skip(trainer)
        sampler.skip(num_behind)
        if num_behind and state:
            self._exchange.warn_of_other_layout(state)
        is_begun = trainer.ckpt_path is not None or access.has_fetched(trainer)
        if is_begun or pruner.decision.selection is not None:
            access.restart_iteration(trainer)
        if state and self._generator is not None and state.get("rng"):
            restore_rng_states(state["rng"])

    def before_batch(self, pruner: Pruner, batch_idx: int) -> None:
        """Tell the tap which samples the batch holds and what they weigh."""
        assert self.sampler is not None
        if self._holds_length:
            self._holds_length = False
            access.refresh_epoch_length(self.trainer)
        selection = pruner.decision.selection
        weights = None if selection is None else selection.weights
        self.recorder.arm(self.sampler, batch_idx, weights, pruner.trajectories.device)
        if self._lr is not None:
            self._lr.before_batch(batch_idx)

    def after_batch(self, pruner: Pruner) -> None:
        """Record the losses of the batch; let LR schedules catch up."""
        self._exchange.has_news = True
        if (collected := self.recorder.collect()) is not None:
            pruner.trajectories.record(*collected)
        if self._lr is not None:
            self._lr.after_batch()

    def conclude(self, pruner: Pruner, epoch: int, skips_bad: bool) -> Tensor | None:
        """Run the reference, close the epoch and decide about the next; return the reference loss.

        Raises:
            RuntimeError: If a recorded loss is NaN or infinite and ``skips_bad`` is off.
        """
        reference = self._reference_loss()
        samples = follow_reference(
            self.reference, pruner.signal, pruner.score, reference, self._exchange
        )
        if samples is not None and pruner.signal.needs_logits:
            reference = samples.losses.mean()  # in the unit of what is recorded
        running = pruner.trajectories.running
        pruner.trajectories.running = self._exchange.running(running, self.sampler)
        self._exchange.has_news = False
        try:
            losses = None if samples is None else samples.losses
            pruner.close_epoch(epoch, reference, skips_bad, losses)
        except BadLossError as error:
            raise RuntimeError(f"{OWNER}: {error}") from None
        if self.reference is not None and reference is None:
            reference = self.reference.refresh(self.trainer, self.module, pruner.trajectories)
        if self._lr is not None:
            self._lr.close_epoch()
        if epoch + 1 != self.trainer.max_epochs:
            self._decide(pruner, epoch + 1)
        return reference

    def _reference_loss(self) -> Tensor | None:
        if self.reference is None:
            return None
        exchange = self._exchange
        loss = self.reference.loss(self.trainer, self.module, exchange.all_reduce, exchange.gather)
        if loss is None or bool(loss.isfinite()):
            return loss
        rank_zero_warn(f"{OWNER}: the reference loss is {loss.item()}; scores leave it out.")
        return None

    def close_validation(self) -> None:
        """End a validation pass, which may be the reference."""
        if self.reference is not None:
            exchange, device = self._exchange, self.module.device
            self.reference.close_validation(device, exchange.all_reduce, exchange.gather)

    def _decide(self, pruner: Pruner, epoch: int) -> None:
        trainer = self.trainer
        steps = math.ceil(self._full_batches / trainer.accumulate_grad_batches)
        progress = progress_after_epoch(
            epoch, trainer.max_epochs, trainer.global_step, steps, trainer.max_steps
        )
        warning = pruner.decide(epoch, progress).warning(pruner.policy_name)
        if warning is not None:
            rank_zero_warn(f"{OWNER}: {warning}")

    def state_dict(self, pruner: Pruner) -> dict[str, Any]:
        """Return the pruner's state, of all ranks, and what a resume needs beside it."""
        running = self._exchange.running(pruner.trajectories.running, self.sampler)
        return {**pruner.state_dict(running), **self.extra_state()}

    def extra_state(self) -> dict[str, Any]:
        """Return what a resume needs beside the pruner's state."""
        return {
            **self._exchange.layout(),
            "reference": None if self.reference is None else self.reference.state_dict(),
            "lr": None if self._lr is None else self._lr.state_dict(),
            "rng": None if self._generator is None else collect_rng_states(),
        }

    def release(self) -> None:
        """Take everything off Trainer and module."""
        self._taps.remove()
        self._pruner = None
        if self._lr is not None:
            self._lr.release()
