"""What a run says, once each: its plan, its first cut, and what that saved.

Words only; nothing here is on the batch path. A *pass* is one training step's work on one sample.
"""

import math

from lightning.pytorch import Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from lightning_alignprune.fit.in_batch import InBatch
from lightning_alignprune.policies import DynamicRandom, InfoBatch
from lightning_alignprune.pruner import Pruner
from lightning_alignprune.reference import Reference
from lightning_alignprune.scores import DynamicAlignment, LastLoss
from lightning_alignprune.signals import BatchLoss, SampleLoss
from lightning_alignprune.state.run_record import RunRecord
from lightning_alignprune.trainer_access.errors import OWNER

_FINISHES = {"full": "full", "partial": "on a random share", "selected": "pruned too"}


class Announcements:
    """Say what a run will do, what it found first, and what it saved.

    Args:
        pruner: Signal, score, policy and schedule in use.
        is_on: Whether anything is said.
        in_batch: What chooses within batches, or None.
    """

    def __init__(self, pruner: Pruner, is_on: bool, in_batch: InBatch | None = None) -> None:
        self._in_batch = in_batch
        self._pruner = pruner
        self._is_on = is_on
        self._has_cut = self._is_cut() or any(not e.is_full for e in pruner.record.epochs)

    def _say(self, text: str) -> None:
        if self._is_on:
            rank_zero_info(f"{OWNER}: {text}")

    def begin(self, trainer: Trainer, reference: Reference | None) -> None:
        """Say what the run will do: once a fit, before its first step."""
        parts = [method_name(self._pruner)]
        if reference is not None:
            parts.append(f"reference: {reference.description}")
        # With max_steps an epoch's number does not tell how far the run is.
        max_epochs = trainer.max_epochs if trainer.max_steps == -1 else None
        parts += plan(self._pruner, max_epochs)
        if self._in_batch is not None:
            parts.append(f"{self._in_batch.choice.description}, after a forward pass of all of it")
        self._say("; ".join(parts) + ".")

    def follow(self) -> None:
        """Say what is cut, the first time that something is; after each decision."""
        if self._has_cut or not self._is_cut():
            return
        self._has_cut, pruner = True, self._pruner
        num_samples, share = pruner.shard.num_samples, pruner.noise_share()
        num_kept = pruner.decision.num_kept(pruner.shard)
        noise = "" if math.isnan(share) else f"; {100 * share:.0f} % of the labels look wrong"
        self._say(
            f"first cut: epoch {pruner.decision.epoch} trains on {num_kept} of {num_samples} "
            f"samples ({100 * num_kept / num_samples:.0f} %){noise}."
        )

    def _is_cut(self) -> bool:
        pruner = self._pruner
        return pruner.decision.num_kept(pruner.shard) < pruner.shard.num_samples

    def end(self) -> None:
        """Say what was saved and what to call next: once a fit, at its end."""
        judges = self._pruner.score.judges_labels is not None
        calls = 'report("report.html") for a page about the run'
        if judges:
            calls = f"label_issues() for the labels that look wrong, {calls}"
        within = "" if self._in_batch is None else f" {within_batches(self._in_batch)}"
        self._say(f"{outcome(self._pruner.record)}{within} Next, on this callback: {calls}.")


def method_name(pruner: Pruner) -> str:
    """Name the method as its paper does, or else by its parts.

    Example:
        >>> from lightning_alignprune.policies import InfoBatch
        >>> from lightning_alignprune.schedule import PruningSchedule
        >>> parts = SampleLoss(), DynamicAlignment(), InfoBatch(), PruningSchedule()
        >>> method_name(Pruner(10, *parts))
        'AlignPrune on InfoBatch'
    """
    signal, score, policy = pruner.signal, pruner.score, pruner.policy_name
    signals = {SampleLoss: "", BatchLoss: "BLS on "}
    scores = {LastLoss: "", DynamicAlignment: "AlignPrune on "}
    if type(signal) in signals and type(score) in scores:
        return f"{scores[type(score)]}{signals[type(signal)]}{policy}"
    recorded = "" if type(signal) is SampleLoss else f" of {type(signal).__name__}"
    return f"{policy} by {type(score).__name__}{recorded}"


def plan(pruner: Pruner, max_epochs: int | None) -> list[str]:
    """Say when pruning happens, in parts of a sentence.

    Args:
        pruner: Its schedule, and what its score and policy need.
        max_epochs: Length of the run; None or -1 if epochs do not tell.
    """
    schedule, needed = pruner.schedule, pruner.score.min_observations
    policy = pruner.policy
    if isinstance(policy, DynamicRandom | InfoBatch) and policy.keep_fraction == 1.0:
        return ["nothing is left out of an epoch"]
    start = 0 if policy.selects_first_epoch else max(schedule.start_epoch, needed)
    if max_epochs in (None, -1):
        return [f"pruning from epoch {start} at the earliest"]
    first = pruner.first_pruned_epoch(max_epochs)
    if first is None:
        return ["nothing will be pruned"]
    last = sum(schedule.is_finishing((epoch + 1) / max_epochs) for epoch in range(max_epochs))
    finish = _FINISHES[pruner.finish]
    count = "last epoch" if last == 1 else f"last {last} epochs"
    return [f"pruning from epoch {first} at the earliest", *([f"{count} {finish}"] if last else [])]


def within_batches(in_batch: InBatch) -> str:
    """Say which part of what was forwarded got a gradient."""
    seen, trained = in_batch.num_seen, in_batch.num_trained
    return (
        f"Of {seen} samples in this process's batches {trained} were trained "
        f"({100 * trained / max(1, seen):.0f} %), after a forward pass of all."
    )


def outcome(record: RunRecord) -> str:
    """Say what was saved, in passes and, where a full epoch was measured, in seconds.

    Example:
        >>> ticks = iter([0.0, 4.0, 4.0, 5.0])
        >>> record = RunRecord(num_samples=100, clock=lambda: next(ticks))
        >>> record.start()
        >>> record.close_epoch(0, kept_fraction=1.0, is_full=True, num_trained=100)
        >>> record.start()
        >>> record.close_epoch(1, kept_fraction=0.3, is_full=False, num_trained=30)
        >>> outcome(record)
        'saved 70 of 200 passes (35 %) and 3.0 of 8.0 seconds (38 %).'
    """
    saved, possible = record.passes_saved, record.passes + record.passes_saved
    if not saved:
        return "nothing was left out."
    passes = f"saved {saved} of {possible} passes ({100 * saved / possible:.0f} %)"
    seconds = record.seconds_saved
    if seconds is None:
        return f"{passes}."
    without = record.seconds + seconds
    if seconds < 0:
        return f"{passes}; choosing took {-seconds:.1f} seconds more than that saved."
    return f"{passes} and {seconds:.1f} of {without:.1f} seconds ({100 * seconds / without:.0f} %)."
