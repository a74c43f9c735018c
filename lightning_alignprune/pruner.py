"""`Pruner`: signal, score, policy and schedule at work on the trajectories, without a Trainer."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_alignprune._checks import shape_of
from lightning_alignprune.functional.selection import Selection, draw_fixed_count
from lightning_alignprune.policies import Policy, SelectionContext
from lightning_alignprune.schedule import PruningSchedule
from lightning_alignprune.scores import Score
from lightning_alignprune.signals import AveragedSignal, Signal
from lightning_alignprune.state.bad_losses import BadLossError, count_seen
from lightning_alignprune.state.decision import Decision, checked, checked_scores
from lightning_alignprune.state.row_means import RowMeans
from lightning_alignprune.state.run_record import RunRecord
from lightning_alignprune.state.sample_record import CALIBRATED_LOSS, SampleRecord
from lightning_alignprune.state.shard import Shard
from lightning_alignprune.state.trajectories import LossTrajectories, StorageDtype
from lightning_alignprune.state.trusted import TrustedSamples

__all__ = ["BadLossError", "Decision", "Parts", "Pruner"]

STATE_VERSION = 1
_FINISH_STREAM = 1


class Parts(NamedTuple):
    """The four objects that a method is made of."""

    signal: Signal
    score: Score
    policy: Policy
    schedule: PruningSchedule


class Pruner:
    """Own the trajectories and decide, after each epoch, what the next one trains on.

    Args:
        num_samples: N, the length of the training set.
        signal: What is recorded.
        score: How good a sample is.
        policy: Which samples train.
        schedule: When.
        seed: Seed of the policy's draws.
        device: Where trajectories and scores live.
        dtype: Storage type of closed rows.
        keep_history: Keep the rows of all epochs, whatever the score needs.
        shard: The samples whose losses are kept here; None for all.

    Attributes:
        labels: Class labels of the kept samples, shape (N,), int64, or None.
        trusted: The samples that are never left out, or None; see :meth:`trust`.
        record: What each epoch trained and how long that took.
        samples: What was noted of each sample's label; None for a score that judges none.
        fewest: How many samples of a shard must be kept for an epoch to have a batch.
        has_reference: Whether the run has a reference, measured or not yet.
        has_looks: Whether what is left out is looked at as the policy asks.
        decision: What the next epoch trains on.
        num_selections: How many selections the policy has made.
        num_trained: Passes of the epochs that were closed.
        num_possible: Passes that they would have taken without pruning.
    """

    def __init__(
        self,
        num_samples: int,
        signal: Signal,
        score: Score,
        policy: Policy,
        schedule: PruningSchedule,
        seed: int = 0,
        device: torch.device | str = "cpu",
        dtype: StorageDtype = "float32",
        keep_history: bool = False,
        shard: Shard | None = None,
    ) -> None:
        self.signal, self.score, self.policy, self.schedule = signal, score, policy, schedule
        self.seed = seed
        windows = (score.window, policy.window)
        window = None if keep_history or None in windows else max(w for w in windows if w)
        keep_best = score.gate == "reference"
        self.shard = shard or Shard(num_samples)
        self.trajectories = LossTrajectories(
            self.shard.num_own, window, device, dtype, keep_best, score.needs_first
        )
        self.indices = self.shard.indices(device)
        self.record = RunRecord(self.shard.num_samples)
        judges = score.judges_labels is not None
        self.samples = SampleRecord(self.shard.num_own, device) if judges else None
        self.labels: Tensor | None = None
        self.trusted: TrustedSamples | None = None
        self._is_trusted: Tensor | None = None
        self.fewest = 1
        self.has_reference = self.has_looks = False
        self._num_looked = 0
        self.decision = Decision(0, None)
        self.num_selections = 0
        self.num_trained = 0
        self.num_possible = 0

    @property
    def finish(self) -> str:
        """How the run finishes: the schedule's word, else the policy's habit."""
        return self.schedule.finish or self.policy.finish

    @property
    def policy_name(self) -> str:
        """Class name of the policy, for messages."""
        return type(self.policy).__name__

    @property
    def kept_fraction(self) -> float:
        """Share of all samples that the epoch of the newest decision trains on."""
        return self.decision.num_kept(self.shard) / self.shard.num_samples

    def trust(self, trusted: TrustedSamples | None) -> None:
        """Keep these samples in every selection from now on, whatever score and policy say."""
        self.trusted = trusted
        self._is_trusted = None if trusted is None else trusted.mask_of(self.indices)

    def take(self, indices: Tensor, values: Tensor, notes: Tensor | None = None) -> None:
        """Record a batch.

        Args:
            indices: Shape (B,), int64, positions in the shard.
            values: Shape (B,), float32.
            notes: Shape (5, B), float32, what the step says of the labels; None if nothing.
        """
        self.trajectories.record(indices, values)
        if self.samples is not None and notes is not None:
            self.samples.note(indices, notes.to(self.samples.running))

    def left_out(self) -> Tensor:
        """Say which samples are to be looked at after the running epoch, shape (n,), bool."""
        unseen = self.trajectories.running.isnan()
        selection = self.decision.selection
        if selection is None:
            return torch.zeros_like(unseen)
        return unseen & self.policy.to_look_at(selection.kept)

    def take_look(self, indices: Tensor, values: Tensor, notes: Tensor | None = None) -> None:
        """Record samples that the epoch left out and that were looked at after it, as :meth:`take`.

        A value that is not finite counts as not observed: nothing was trained on it. Calibrated
        losses are left out: where samples that were only looked at are ranked beside trained ones,
        more wrong labels come back.
        """
        seen = values.isfinite()
        self.trajectories.running[indices[seen]] = values[seen]
        self._num_looked += int(self.shard.total(seen.sum()))
        if self.samples is not None and notes is not None:
            looked = notes[:, seen].to(self.samples.running)
            looked[CALIBRATED_LOSS] = torch.nan
            self.samples.note(indices[seen], looked)

    def forget_running(self) -> None:
        """Forget what was recorded of an epoch that is not over."""
        self.trajectories.clear_running()
        self.record.forget_running()
        self._num_looked = 0
        if self.samples is not None:
            self.samples.forget_running()
        self.signal.load_sums({name: sums * 0 for name, sums in self.signal.sums().items()})

    def close_epoch(
        self,
        epoch: int,
        reference: Tensor | None,
        skip_bad: bool = False,
        reference_samples: Tensor | None = None,
    ) -> int:
        """Take the running epoch into the history.

        Args:
            epoch: The epoch that ended.
            reference: Mean loss of the reference set, a scalar.
            skip_bad: Treat NaN and infinite losses as not observed instead of raising.
            reference_samples: Losses of the reference samples, shape (n,), where they are needed.

        Returns:
            How many passes the epoch took: samples that were trained, and a third of those that
            were looked at.

        Raises:
            BadLossError: If a loss is NaN or infinite and ``skip_bad`` is off.

        Note:
            One host synchronisation; with several shards one collective.
        """
        running = self.trajectories.running
        num_seen = count_seen(running, self.indices, self.shard, epoch, skip_bad)
        num_looked, self._num_looked = self._num_looked, 0
        # A forward pass without gradients is about a third of a training step's work.
        num_seen -= num_looked - round(num_looked / 3)
        self.num_trained += num_seen
        self.num_possible += self.shard.num_samples
        # Without a transform the bank need not work out every sample's last loss.
        transform = None if self.signal.keeps_raw_values else self._transformed
        self.trajectories.close_epoch(epoch, reference, transform, reference_samples)
        if self.samples is not None:
            self.signal.close_notes(self.samples.running[CALIBRATED_LOSS])
            self.samples.close_epoch(epoch)
        self.record.close_epoch(
            epoch,
            self.kept_fraction,
            self.decision.selection is None,
            num_seen,
            math.nan if reference is None else float(reference),
            self.noise_share(),
        )
        return num_seen

    def noise_share(self) -> float:
        """Return the estimated share of wrong labels that is in use; NaN if there is none."""
        found = {**self.policy.metrics(), **self.signal.metrics()}
        return float(found.get("noise_share", math.nan))

    def _transformed(self, row: Tensor, last: Tensor) -> Tensor:
        kept = self.signal.close_epoch(row, last)
        if not isinstance(kept, Tensor) or kept.shape != row.shape:
            raise ValueError(
                f"{type(self.signal).__name__}.close_epoch: expected a tensor of shape "
                f"{tuple(row.shape)}, got {shape_of(kept)}. Look at the signal."
            )
        return kept

    def decide(self, epoch: int, progress_after: float) -> Decision:
        """Decide what ``epoch`` trains on.

        Args:
            epoch: The next epoch.
            progress_after: Share of the run done when that epoch ends.
        """
        finishing = self.schedule.is_finishing(progress_after)
        has_begun = epoch >= self.schedule.start_epoch or self.policy.selects_first_epoch
        scores = None
        if has_begun and (not finishing or self.finish == "selected"):
            scores = self._computed_scores()
        selection: Selection | None = None
        if scores is not None:
            selection = self.policy.select(scores, self._context(epoch, finishing))
            self.num_selections += 1
        elif finishing and self.finish == "partial":
            selection = self._random_share(epoch)
        decision = Decision(epoch, selection, scores)
        self.decision = checked(
            decision, self.policy_name, self.shard, self.fewest, self._is_trusted
        )
        if self.samples is not None:
            chosen = self.decision.selection
            kept = None
            if chosen is not None:  # an easy sample that sits out an epoch is not cut
                kept = chosen.kept | ~self.policy.to_look_at(chosen.kept)
            self.samples.follow(epoch, kept)
        return self.decision

    def _computed_scores(self) -> Tensor:
        if not self.trajectories.epochs:
            return torch.full_like(self.trajectories.running, torch.nan)
        computed = self.score.compute(self.trajectories)
        return checked_scores(computed, type(self.score).__name__, self.shard)

    def first_pruned_epoch(self, max_epochs: int) -> int | None:
        """Return the first epoch of a run of that length that can be pruned; None if none can."""
        if self.policy.selects_first_epoch:
            return 0
        finish, needed = self.policy.finish, self.score.min_observations
        return self.schedule.first_pruned_epoch(max_epochs, finish, needed)

    def _context(self, epoch: int, is_finishing: bool) -> SelectionContext:
        since = self.trajectories.epochs_since_best
        if since is None and self.has_reference:
            since = 0
        uses_reference = self.policy.uses_reference_scores
        estimate = self.signal.noise_estimate
        return SelectionContext(
            epoch,
            self.num_selections,
            self.seed,
            self.indices,
            self.trajectories,
            self.shard.all_reduce,
            easy_end=self.score.easy_end,
            reference_scores=(
                self.score.compute_reference(self.trajectories) if uses_reference else None
            ),
            labels=self.labels,
            epochs_since_best=since,
            is_learning=since == 0 or self.score.gate == "none",
            has_looks=self.has_looks,
            is_finishing=is_finishing,
            estimates_since_peak=self.signal.estimates_since_peak,
            noise_share=None if estimate is None else estimate[0],
            noise_share_error=None if estimate is None else estimate[1],
            loss_ranks=self.signal.loss_ranks,
        )

    def _random_share(self, epoch: int) -> Selection:
        return Selection(
            draw_fixed_count(
                torch.ones_like(self.indices, dtype=torch.bool),
                int(self.policy.keep_fraction * self.shard.num_samples),
                self.indices,
                self.seed,
                epoch,
                stream=_FINISH_STREAM,
                all_reduce=self.shard.all_reduce,
            )
        )

    def continues(self, epoch: int) -> bool:
        """Say whether ``epoch`` may follow what was recorded, as in a second fit of one Trainer."""
        epochs = self.trajectories.epochs
        return not epochs or epoch > epochs[-1]

    def metrics(self) -> dict[str, float | Tensor]:
        """Return what is worth logging about the newest decision and the run so far."""
        return {
            **self.decision.metrics(self.shard),
            **self.signal.metrics(),
            **self.policy.metrics(),
            "pruned_share_so_far": 1.0 - self.num_trained / max(1, self.num_possible),
        }

    def warnings(self) -> list[str]:
        """Say what a user should know of the newest decision, a sentence or more each."""
        found = [self.decision.warning(self.policy_name)]
        if self.decision.scores is not None and (warning := self.policy.warning()) is not None:
            found.append(f"{self.policy_name} for epoch {self.decision.epoch}: {warning}")
        return [warning for warning in found if warning is not None]

    def _newest_scores(self) -> Tensor | None:
        decision, epochs = self.decision, self.trajectories.epochs
        is_newest = bool(epochs) and decision.epoch == epochs[-1] + 1
        if self.samples is None or not epochs or (is_newest and decision.scores is not None):
            return decision.scores
        return self.score.compute(self.trajectories)

    def findings(self, notes: Tensor | None = None) -> dict[str, Any]:
        """Return what was found of the labels, tensors and primitives; the audit reads it.

        Args:
            notes: The running notes of all ranks; None for this process's own.
        """
        scores, meaning = self._newest_scores(), self.score.judges_labels
        quality = None
        if meaning == "average" and isinstance(self.signal, AveragedSignal):
            quality = self.signal.label_quality(self.trajectories.last)
        # A mean of losses begins with an epoch that the reference was not seen before.
        compares = self.score.needs_reference_samples and bool(self.trajectories.epochs)
        reference = self.score.compute_reference(self.trajectories) if compares else None
        per_sample = {
            "scores": scores,
            "quality": quality,
            "samples": None if self.samples is None else self.samples.state_dict(notes),
        }
        return {
            "meaning": meaning,
            "noise": self.signal.noise_estimate,
            "reference_scores": reference,
            **self.shard.gathered(per_sample),
        }

    def state_dict(
        self,
        running: Tensor | None = None,
        row_means: RowMeans | None = None,
        notes: Tensor | None = None,
    ) -> dict[str, Any]:
        """Return tensors and primitives only; over several shards only rank 0 gets the whole.

        Args:
            running: The running row to save, of all ranks; None for this process's own.
            row_means: What it is the mean of, likewise, where rows are averaged.
            notes: The running notes of labels, likewise.
        """
        selection = self.decision.selection
        trajectories = self.trajectories.state_dict()
        if running is not None:
            trajectories["running"] = running.clone()
        if row_means is not None:
            trajectories["row_means"] = row_means.state_dict()
        per_sample = {
            "signal": self.signal.state_dict(),
            "policy": self.policy.state_dict(),
            "kept": None if selection is None else selection.kept,
            "weights": None if selection is None else selection.weights,
        }
        return {
            "version": STATE_VERSION,
            "made_by": self._made_by(),
            "trajectories": self.shard.gathered_trajectories(trajectories),
            **self.shard.gathered(per_sample),
            "epoch": self.decision.epoch,
            "num_selections": self.num_selections,
            "num_trained": self.num_trained,
            "num_possible": self.num_possible,
            "record": self.record.state_dict(),
            "findings": self.findings(notes),
            "seed": self.seed,
            "trusted": None if self.trusted is None else self.trusted.digest,
        }

    def _made_by(self) -> dict[str, str]:
        parts = {"signal": self.signal, "score": self.score, "policy": self.policy}
        return {role: type(part).__name__ for role, part in parts.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a saved state.

        Raises:
            ValueError: If it was saved for another number of samples, by another signal, score or
                policy, with other trusted samples, or by a newer version of this package.
        """
        if state["version"] > STATE_VERSION:
            raise ValueError(
                f"expected a checkpoint state of version {STATE_VERSION} or older, got "
                f"{state['version']}. Update lightning-alignprune."
            )
        saved, ours = state["made_by"], self._made_by()
        changed = [role for role in ours if saved[role] != ours[role]]
        if changed:
            was = ", ".join(f"{role}={saved[role]}" for role in changed)
            now = ", ".join(f"{role}={ours[role]}" for role in changed)
            raise ValueError(
                f"expected the checkpoint's {was}, got {now}. Resume with the same objects, or "
                "start a new run from the weights alone."
            )
        self._check_trusted(state.get("trusted"))  # older checkpoints have none
        own = self.shard.own
        self.trajectories.load_state_dict(self.shard.own_trajectories(state["trajectories"]))
        self.signal.load_state_dict(own(state["signal"]))
        self.policy.load_state_dict(own(state["policy"]))
        device = self.indices.device
        kept, weights = own(state["kept"]), own(state["weights"])
        self.decision = Decision(state["epoch"], None)
        if kept is not None:
            weights = None if weights is None else weights.to(device)
            self.decision.selection = Selection(kept.to(device), weights)
            self.decision.counts = self.shard.counts(kept.sum().to(device))
        self.num_selections = state["num_selections"]
        self.num_trained = state["num_trained"]
        self.num_possible = state["num_possible"]
        self.record.load_state_dict(state.get("record"))  # older checkpoints have none
        if self.samples is not None:
            self.samples.load_state_dict(own(state.get("findings", {}).get("samples")))
        self.seed = state["seed"]

    def _check_trusted(self, saved: str | None) -> None:
        ours = None if self.trusted is None else self.trusted.digest
        if saved != ours:
            was, now = ("none" if given is None else "others" for given in (saved, ours))
            raise ValueError(
                f"expected the trusted samples of the checkpoint, which has {was}, got {now}. "
                "Resume with the same trusted=, or start a new run from the weights alone."
            )
