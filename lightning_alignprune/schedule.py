"""When pruning happens, and how the run finishes. Pure functions of progress."""

from dataclasses import dataclass
from typing import Literal

from lightning_alignprune._checks import check_choice, check_float, check_int, put

Finish = Literal["full", "partial", "selected"]
FINISHES: tuple[Finish, ...] = ("full", "partial", "selected")


@dataclass(frozen=True)
class PruningSchedule:
    """The epochs in which the policy selects, and what the last epochs train on.

    Epoch ``e`` (0-based) is pruned if ``start_epoch <= e`` and ``e + 1 <= stop_fraction *
    max_epochs``; with ``max_steps`` the same rule holds for the share of steps done. The epochs
    after that are the finish.

    Args:
        start_epoch: First epoch that may be pruned, at least 1: epoch 0 has no scores yet.
        stop_fraction: Share of the run after which the finish begins, in (0, 1]. The papers call
            it delta.
        finish: ``"full"`` trains on every sample with weight 1. ``"partial"`` trains on a fresh
            random share each epoch, as large as the policy's keep share. ``"selected"`` lets the
            policy go on to the end.
            None takes the policy's own habit (InfoBatch: full; SeTa: partial).

    Raises:
        TypeError: If a value is of the wrong kind.
        ValueError: If a value is out of range.

    Example:
        >>> schedule = PruningSchedule(stop_fraction=0.875)
        >>> [schedule.should_prune(e, (e + 1) / 8) for e in range(8)]
        [False, True, True, True, True, True, True, False]
    """

    start_epoch: int = 1
    stop_fraction: float = 0.875
    finish: Finish | None = None

    def __post_init__(self) -> None:
        owner = "PruningSchedule"
        remedy = "Epoch 0 always trains on everything: no sample has a loss yet."
        start = check_int(owner, "start_epoch", self.start_epoch, low=1, remedy=remedy)
        remedy = "Use 1.0 to prune until the end."
        stop = check_float(
            owner, "stop_fraction", self.stop_fraction, above=0, high=1, remedy=remedy
        )
        finish = check_choice(owner, "finish", self.finish, FINISHES, optional=True)
        put(self, start_epoch=start, stop_fraction=stop, finish=finish)

    def check_ends(self, max_epochs: int | None, max_steps: int, policy_finish: Finish) -> None:
        """Raise a ``ValueError`` if the run has no known end but the schedule needs one."""
        endless = max_epochs in (None, -1) and max_steps == -1
        finish = self.finish or policy_finish
        if endless and self.stop_fraction < 1.0 and finish != "selected":
            raise ValueError(
                "expected max_epochs or max_steps, to know when the last "
                f"{1 - self.stop_fraction:g} of the run begins, got neither. Set one, or "
                "PruningSchedule(stop_fraction=1.0)."
            )

    def first_pruned_epoch(
        self, max_epochs: int, policy_finish: Finish, num_recorded: int = 1
    ) -> int | None:
        """Return the first epoch of a run that can be pruned, or None if there is none.

        Args:
            max_epochs: Length of the run.
            policy_finish: What the policy's last epochs train on.
            num_recorded: How many recorded epochs the score needs.

        Example:
            >>> schedule = PruningSchedule(stop_fraction=0.5)
            >>> schedule.first_pruned_epoch(4, "full"), schedule.first_pruned_epoch(2, "full")
            (1, None)
        """
        finish = self.finish or policy_finish
        for epoch in range(max(self.start_epoch, num_recorded), max_epochs):
            if finish != "full" or self.should_prune(epoch, (epoch + 1) / max_epochs):
                return epoch
        return None

    def should_prune(self, epoch: int, progress_after: float) -> bool:
        """Say whether the policy selects for ``epoch``.

        Args:
            epoch: 0-based epoch.
            progress_after: Share of the run that will be done after this epoch, as
                :func:`progress_after_epoch` gives it.
        """
        return epoch >= self.start_epoch and not self.is_finishing(progress_after)

    def is_finishing(self, progress_after: float) -> bool:
        """Say whether an epoch that ends at ``progress_after`` belongs to the finish."""
        # Rounding must not move the boundary: 0.875 * 200 epochs ends at epoch 175 exactly.
        return progress_after > self.stop_fraction + 1e-9


def progress_after_epoch(
    epoch: int,
    max_epochs: int | None,
    global_step: int = 0,
    steps_per_full_epoch: float = 0.0,
    max_steps: int = -1,
) -> float:
    """Share of the run, in [0, 1], that is done when ``epoch`` ends.

    With both limits the one that is nearer counts. A pruned epoch has fewer steps than a full
    one, so under ``max_steps`` the step count itself is the clock, not the epoch number.

    Args:
        epoch: 0-based epoch that would end.
        max_epochs: The Trainer's limit; None or -1 for none.
        global_step: Optimizer steps done before the epoch.
        steps_per_full_epoch: Optimizer steps of an unpruned epoch.
        max_steps: The Trainer's limit; -1 for none.

    Example:
        >>> progress_after_epoch(6, max_epochs=8)
        0.875
        >>> progress_after_epoch(2, None, global_step=30, steps_per_full_epoch=10, max_steps=80)
        0.5
    """
    shares = [0.0]
    if max_epochs is not None and max_epochs > 0:
        shares.append((epoch + 1) / max_epochs)
    if max_steps > 0:
        shares.append((global_step + steps_per_full_epoch) / max_steps)
    return min(1.0, max(shares))
