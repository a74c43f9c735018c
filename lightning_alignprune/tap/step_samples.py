"""Which samples the running step trains, for losses that keep something of each.

Said by what runs the step, for as long as it runs.
"""

from contextvars import ContextVar
from typing import NamedTuple

from torch import Tensor


class StepSamples(NamedTuple):
    """The samples of a training step.

    Attributes:
        indices: Shape (B,), int64, their indices in the data set; None in a fit that is none of the
            run's own, such as a learning-rate finder's.
        weights: Shape (B,), float32, what a policy lets them weigh; None means 1 for all.
    """

    indices: Tensor | None
    weights: Tensor | None = None


_running: ContextVar[StepSamples | None] = ContextVar("samples_in_step", default=None)


class step_of:  # noqa: N801 - used like a function; as a generator it would cost three times as much
    """Say which samples the steps within train."""

    def __init__(self, samples: StepSamples) -> None:
        self._samples = samples

    def __enter__(self) -> None:
        self._before = _running.set(self._samples)

    def __exit__(self, *_: object) -> None:
        _running.reset(self._before)


def samples_in_step() -> StepSamples | None:
    """Return the samples that the running ``training_step`` trains, in the order of its rows.

    For a loss of your own that keeps something of each sample. The callback and ``PruningRun`` know
    them; without either, and outside of training steps, it is None.

    Example:
        >>> import torch
        >>> with step_of(StepSamples(torch.tensor([3, 1]))):
        ...     samples_in_step().indices
        tensor([3, 1])
        >>> samples_in_step() is None
        True
    """
    return _running.get()
