"""`RunRecord`: what each epoch trained, how long it took, and what pruning has saved so far.

State only: knows nothing of Lightning. A *pass* is one training step's work on one sample.
"""

import math
import time
from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple


class EpochRecord(NamedTuple):
    """What an epoch did.

    Attributes:
        epoch: Its number.
        kept_fraction: Share of the training set that it was to train on, in (0, 1].
        is_full: Whether nothing was selected, so that it trained what a run without pruning trains.
        num_trained: Passes: samples whose loss was seen, over all ranks; one that was left out and
            only looked at counts as a third.
        seconds: Wall time of its batches, without validation.
        overhead_seconds: Wall time of the reference pass, the scores and the next selection.
        reference_loss: NaN if there was none.
        noise_share: Estimated share of wrong labels, the estimate in use; NaN if there was none.
    """

    epoch: int
    kept_fraction: float
    is_full: bool
    num_trained: int
    seconds: float
    overhead_seconds: float = 0.0
    reference_loss: float = math.nan
    noise_share: float = math.nan


class RunRecord:
    """The records of a run's epochs, and a stopwatch for the running one.

    Args:
        num_samples: N, what a full epoch trains where none has been seen yet.
        clock: Seconds, from any beginning.

    Attributes:
        epochs: One record per finished epoch, oldest first.

    Example:
        >>> ticks = iter([0.0, 4.0, 4.0, 5.0])
        >>> record = RunRecord(num_samples=100, clock=lambda: next(ticks))
        >>> record.start()
        >>> record.close_epoch(0, kept_fraction=1.0, is_full=True, num_trained=100)
        >>> record.start()
        >>> record.close_epoch(1, kept_fraction=0.3, is_full=False, num_trained=30)
        >>> record.passes_saved, round(record.seconds_saved, 1)
        (70, 3.0)
    """

    def __init__(self, num_samples: int, clock: Callable[[], float] = time.perf_counter) -> None:
        self.num_samples = num_samples
        self.epochs: list[EpochRecord] = []
        self._clock = clock
        self._started: float | None = None
        self._seconds = 0.0

    # ---- the stopwatch ----------------------------------------------------------------------

    def start(self) -> None:
        """Let the stopwatch run: an epoch begins or goes on."""
        if self._started is None:
            self._started = self._clock()

    def pause(self) -> None:
        """Halt it, as for a validation pass within the epoch."""
        if self._started is not None:
            self._seconds += self._clock() - self._started
            self._started = None

    def forget_running(self) -> None:
        """Forget an epoch that was begun and is trained anew."""
        self._started, self._seconds = None, 0.0

    # ---- the epochs -------------------------------------------------------------------------

    def close_epoch(
        self,
        epoch: int,
        kept_fraction: float,
        is_full: bool,
        num_trained: int,
        reference_loss: float = math.nan,
        noise_share: float = math.nan,
    ) -> None:
        """Record an epoch that is over; halts the stopwatch and sets it to zero.

        Args:
            epoch: As in :class:`EpochRecord`, and so are the others.
            kept_fraction: Likewise.
            is_full: Likewise.
            num_trained: Likewise.
            reference_loss: Likewise.
            noise_share: Likewise.
        """
        self.pause()
        seconds, self._seconds = self._seconds, 0.0
        self.epochs.append(
            EpochRecord(
                epoch,
                kept_fraction,
                is_full,
                num_trained,
                seconds,
                reference_loss=reference_loss,
                noise_share=noise_share,
            )
        )

    def add_overhead(self, seconds: float) -> None:
        """Say how long the end of the newest epoch took."""
        if self.epochs:
            newest = self.epochs[-1]
            total = newest.overhead_seconds + seconds
            self.epochs[-1] = newest._replace(overhead_seconds=total)

    # ---- what was saved ---------------------------------------------------------------------

    @property
    def passes_of_full_epoch(self) -> int:
        """Passes of an epoch without pruning: the most that one had, N before the first."""
        return max((e.num_trained for e in self.epochs if e.is_full), default=self.num_samples)

    @property
    def seconds_per_pass(self) -> float | None:
        """Seconds per pass of full epochs, their median; None before the first.

        The first epoch starts workers and compiles: it counts only where there is no other.
        """
        full = [e for e in self.epochs if e.is_full and e.num_trained and e.seconds > 0]
        counted = [e for e in full if e is not self.epochs[0]] or full
        return median(e.seconds / e.num_trained for e in counted) if counted else None

    def passes_saved_in(self, record: EpochRecord) -> int:
        """Passes that this epoch did not need."""
        return 0 if record.is_full else max(0, self.passes_of_full_epoch - record.num_trained)

    def seconds_saved_in(self, record: EpochRecord) -> float | None:
        """Seconds that this epoch was shorter than a full one, less its overhead; None if unknown.

        Negative where choosing the samples took longer than what it saved, as in full epochs.
        """
        each = self.seconds_per_pass
        if each is None:
            return None
        gain = 0.0 if record.is_full else each * self.passes_of_full_epoch - record.seconds
        return gain - record.overhead_seconds

    @property
    def passes(self) -> int:
        """Passes of the run so far."""
        return sum(e.num_trained for e in self.epochs)

    @property
    def passes_saved(self) -> int:
        """Passes that the run so far did not need."""
        return sum(map(self.passes_saved_in, self.epochs))

    @property
    def seconds(self) -> float:
        """Wall time of the run's training epochs so far, overhead included."""
        return sum(e.seconds + e.overhead_seconds for e in self.epochs)

    @property
    def seconds_saved(self) -> float | None:
        """Seconds saved so far, less all overhead; None before a full epoch was measured."""
        saved = [self.seconds_saved_in(record) for record in self.epochs]
        return sum(s for s in saved if s is not None) if saved and saved[0] is not None else None

    # ---- state ------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return primitives only; the running epoch's seconds so far are among them."""
        running = 0.0 if self._started is None else self._clock() - self._started
        return {
            "epochs": [list(record) for record in self.epochs],
            "running_seconds": self._seconds + running,
        }

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Take over a saved state; None, of an older checkpoint, has no epochs."""
        state = state or {"epochs": [], "running_seconds": 0.0}
        self.epochs = [EpochRecord(*values) for values in state["epochs"]]
        self._started, self._seconds = None, state["running_seconds"]
