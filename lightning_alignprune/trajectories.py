"""`LossTrajectories`: every sample's recorded losses, epoch by epoch, beside the reference's.

State only: no Trainer, no scores. Legend: ``N`` samples, ``T`` recorded epochs.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_alignprune._checks import check_choice, check_number

StorageDtype = Literal["float32", "float16", "bfloat16"]
STATE_VERSION = 1


class LossTrajectories:
    """Record losses by sample index and keep the rows of the last epochs.

    The running epoch is one row of N values. Closing the epoch turns the row into history beside
    the reference loss of that epoch; rows that no score needs any more are dropped, after their
    values went into :attr:`before`, so that the last loss of a long-unseen sample is never lost.

    NaN marks "not seen in that epoch"; an infinite entry marks a loss that was NaN or infinite.

    Args:
        num_samples: N.
        window: Number of epochs to keep; None keeps all.
        device: Where the rows live.
        dtype: Storage type of the closed rows. Half precision halves memory and checkpoint size;
            the running row is always float32.

    Raises:
        ValueError: If ``num_samples`` or ``window`` is below 1 or the dtype is unknown.

    Example:
        >>> bank = LossTrajectories(num_samples=3, window=2)
        >>> bank.record(torch.tensor([0, 2]), torch.tensor([1.5, 0.5]))
        >>> bank.close_epoch(epoch=0, reference=torch.tensor(1.0))
        >>> bank.rows[0], bank.epochs
        (tensor([1.5000,    nan, 0.5000]), [0])

    Note:
        Memory: ``(T * bytes + 8) * N``; with window 25 that is 108 bytes a sample in float32 and
        58 in half precision. ``record`` is one indexed write: no host wait, no per-sample Python.
    """

    def __init__(
        self,
        num_samples: int,
        window: int | None = 25,
        device: torch.device | str = "cpu",
        dtype: StorageDtype = "float32",
    ) -> None:
        owner = "LossTrajectories"
        check_number(
            owner, "num_samples", num_samples, low=1, integer=True, remedy="Is the data set empty?"
        )
        if window is not None:
            check_number(
                owner, "window", window, low=1, integer=True, remedy="Use None to keep all epochs."
            )
        check_choice(owner, "dtype", dtype, ("float32", "float16", "bfloat16"))
        self.num_samples = num_samples
        self.window = window
        self.device = torch.device(device)
        self.dtype: torch.dtype = getattr(torch, dtype)
        self.rows: list[Tensor] = []
        self.epochs: list[int] = []
        self._reference: list[Tensor] = []
        self.before = self._empty()
        self.running = self._empty()

    def _empty(self) -> Tensor:
        return torch.full((self.num_samples,), torch.nan, device=self.device)

    def record(self, indices: Tensor, losses: Tensor) -> None:
        """Write the losses of one batch into the running epoch; the last write of a sample wins.

        Args:
            indices: Shape (B,), int64, on the device of the trajectories.
            losses: Shape (B,), float32, on the same device. NaN means "not observed".
        """
        self.running.index_copy_(0, indices, losses)

    @property
    def reference(self) -> Tensor:
        """Reference losses of :attr:`epochs`, shape (T,), float32; NaN where there was none."""
        if not self._reference:
            return torch.empty(0, device=self.device)
        return torch.stack(self._reference)

    @property
    def last(self) -> Tensor:
        """Each sample's most recent loss, shape (N,), float32; NaN if it was never seen."""
        last = self.before
        for row in self.rows:
            last = torch.where(row.isnan(), last, row.float())
        return last

    def close_epoch(
        self,
        epoch: int,
        reference: Tensor | None = None,
        transform: Callable[[Tensor, Tensor], Tensor] | None = None,
        retain: Callable[[Sequence[int], Tensor], Sequence[int]] | None = None,
    ) -> None:
        """Turn the running row into the row of ``epoch`` and start an empty one.

        Args:
            epoch: Number of the epoch that ended.
            reference: Mean loss of the reference set after this epoch, a scalar.
            transform: Called with the running row and :attr:`last`; returns the row to keep. This
                is how a signal such as an EMA is made from raw batch losses.
            retain: Called with all epochs and reference losses; returns the epochs whose rows stay.
                By default the last ``window`` epochs.

        Raises:
            ValueError: If the epoch was closed already.
        """
        if self.epochs and epoch <= self.epochs[-1]:
            raise ValueError(
                f"LossTrajectories: expected an epoch after {self.epochs[-1]}, got {epoch}. "
                "Each epoch can be closed once."
            )
        row = self.running if transform is None else transform(self.running, self.last)
        self.rows.append(row.to(self.dtype))
        self.epochs.append(epoch)
        value = torch.tensor(torch.nan) if reference is None else reference.detach()
        self._reference.append(value.to(device=self.device, dtype=torch.float32))
        self.running = self._empty()
        if retain is not None:
            self._drop_all_but(set(retain(self.epochs, self.reference)))
        elif self.window is not None:
            self._drop_all_but(set(self.epochs[-self.window :]))

    def _drop_all_but(self, kept: set[int]) -> None:
        # `before` may only take rows older than every row that stays, or "last" would go wrong.
        while self.epochs and self.epochs[0] not in kept:
            row = self.rows.pop(0)
            self.before = torch.where(row.isnan(), self.before, row.float())
            self.epochs.pop(0)
            self._reference.pop(0)
        drop = [t for t, epoch in enumerate(self.epochs) if epoch not in kept]
        for t in reversed(drop):
            del self.rows[t], self.epochs[t], self._reference[t]

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and primitives only, so that it loads with ``weights_only=True``."""
        return {
            "version": STATE_VERSION,
            "num_samples": self.num_samples,
            "epochs": list(self.epochs),
            "reference": self.reference.cpu(),
            "rows": list(self.rows),
            "before": self.before,
            "running": self.running.clone(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a saved state; a window or dtype that changed since is applied to it.

        Raises:
            ValueError: If the state belongs to another number of samples.
            KeyError: If an entry is missing.
        """
        if state["num_samples"] != self.num_samples:
            raise ValueError(
                f"LossTrajectories: expected a state of {self.num_samples} samples, got "
                f"{state['num_samples']}. Resume with the data set that the run was started with."
            )
        self.epochs = list(state["epochs"])
        self._reference = list(state["reference"].to(self.device).float().unbind())
        self.rows = [row.to(device=self.device, dtype=self.dtype) for row in state["rows"]]
        self.before = state["before"].to(self.device).float()
        self.running = state["running"].to(self.device).float().clone()
        if self.window is not None and len(self.epochs) > self.window:
            self._drop_all_but(set(self.epochs[-self.window :]))
