"""`LossTrajectories`: every sample's recorded losses, epoch by epoch, beside the reference's.

`TrajectoryView` is the part of them that a score looks at.

State only: no Trainer, no scores. Legend: ``N`` samples, ``n`` reference samples, ``T`` recorded
epochs. A *row* holds the losses of one epoch.
"""

import math
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from lightning_alignprune._checks import check_bool, check_choice, check_int
from lightning_alignprune.state.row_means import RowMeans

StorageDtype = Literal["float32", "float16", "bfloat16"]
STORAGE_DTYPES: tuple[StorageDtype, ...] = get_args(StorageDtype)
STATE_VERSION = 1
_NONE_YET = (math.inf, 0)  # a reference loss, and how many came after it


def later_loss(older: Tensor | None, newer: Tensor | None) -> Tensor | None:
    """Take the newer loss where there is one; the result is never a row of the bank itself."""
    if older is None or newer is None:
        return older if newer is None else newer.to(torch.float32, copy=True)
    return torch.where(newer.isnan(), older, newer.float())


class TrajectoryView:
    """The recorded epochs that a score looks at; nothing is copied.

    Attributes:
        rows: One tensor of shape (N,) per epoch, oldest first, in the storage dtype.
        epochs: The epochs of the rows.
        reference: Shape (T,), float32. Reference loss after each of these epochs; NaN if none.
        reference_rows: One tensor of shape (n,) per epoch, float32: the losses of the reference
            samples in mid-epoch; None where they were not recorded.
    """

    def __init__(
        self,
        rows: list[Tensor],
        epochs: list[int],
        reference: Tensor,
        older: Sequence[Tensor | None],
        empty: Callable[[], Tensor],
        reference_rows: Sequence[Tensor | None] = (),
    ) -> None:
        self.rows, self.epochs, self.reference = rows, epochs, reference
        self.reference_rows = list(reference_rows)
        self._older, self._empty = older, empty

    @property
    def before(self) -> Tensor:
        """Each sample's last loss before the first row, shape (N,), float32; NaN where none."""
        last = reduce(later_loss, self._older)
        return self._empty() if last is None else last


class LossTrajectories:
    """Record losses by sample index and keep the rows of the epochs that are needed.

    The running epoch is one row of N values. Closing the epoch turns the row into history beside
    the reference loss of that epoch. A row that no score needs any more is dropped; of what it held
    only each sample's last loss stays, so that :attr:`last` is right for a long-unseen sample.

    NaN marks "not seen in that epoch"; an infinite entry marks a loss that was NaN or infinite. A
    finite loss beyond the storage type's range (65,504 in float16) is kept as its largest value.

    Args:
        num_samples: N.
        window: Number of last epochs to keep; None keeps all.
        device: Where the rows live.
        dtype: Storage type of the closed rows; the running row is always float32.
        keep_best: Keep also the window that ends at the epoch with the lowest reference loss.
        keep_first: Keep each sample's first loss in :attr:`first`.

    Attributes:
        rows: One tensor of shape (N,) per kept epoch, oldest first, in the storage dtype.
        epochs: The epochs of the rows.
        running: Shape (N,), float32. The losses of the running epoch so far.
        row_means: What the running losses are means of after :meth:`average_rows`, else None.

    Raises:
        TypeError: If a value is of the wrong kind.
        ValueError: If ``num_samples`` or ``window`` is below 1 or the dtype is unknown.

    Example:
        >>> bank = LossTrajectories(num_samples=3, window=2)
        >>> bank.record(torch.tensor([0, 2]), torch.tensor([1.5, 0.5]))
        >>> bank.close_epoch(epoch=0, reference=torch.tensor(1.0))
        >>> bank.rows[0], bank.epochs
        (tensor([1.5000,    nan, 0.5000]), [0])

    Note:
        Memory: ``(T * bytes + 8) * N``: 108 bytes a sample for window 25 in float32, 58 in half
        precision, up to twice as much with ``keep_best``. ``record`` never waits for the device.
    """

    def __init__(
        self,
        num_samples: int,
        window: int | None = 25,
        device: torch.device | str = "cpu",
        dtype: StorageDtype = "float32",
        keep_best: bool = False,
        keep_first: bool = False,
    ) -> None:
        owner = "LossTrajectories"
        remedy = "Is the data set empty?"
        self.num_samples = check_int(owner, "num_samples", num_samples, low=1, remedy=remedy)
        remedy = "Use None to keep all epochs."
        self.window = check_int(owner, "window", window, low=1, optional=True, remedy=remedy)
        self.device = torch.device(device)
        name = check_choice(owner, "dtype", dtype, STORAGE_DTYPES)
        self.dtype: torch.dtype = getattr(torch, name)
        self.keep_best = check_bool(owner, "keep_best", keep_best)
        self.keep_first = check_bool(owner, "keep_first", keep_first)
        self._first: Tensor | None = None
        self.rows: list[Tensor] = []
        self.epochs: list[int] = []
        self._reference: list[float] = []
        self._reference_rows: list[Tensor | None] = []
        self._reference_after: Tensor | None = None
        self._lowest = _NONE_YET
        # _dropped[t]: last losses of the rows dropped just before row t; the entry T follows all.
        self._dropped: list[Tensor | None] = [None]
        self.running = self._empty()
        self.row_means: RowMeans | None = None

    def _empty(self) -> Tensor:
        return torch.full((self.num_samples,), torch.nan, device=self.device)

    def record(self, indices: Tensor, losses: Tensor) -> None:
        """Write the losses of one batch into the running epoch.

        The last write of a sample wins, unless :meth:`average_rows` was called.

        Args:
            indices: Shape (B,), int64, on the device of the trajectories.
            losses: Shape (B,), float32, on the same device. NaN means "not observed".
        """
        if self.row_means is not None:
            losses = self.row_means.add(indices, losses)
        self.running.index_copy_(0, indices, losses)

    def average_rows(self) -> None:
        """Let :meth:`record` average what it is given of a sample in an epoch, from now on.

        It costs 12 bytes per sample and some small kernels per batch.
        """
        if self.row_means is None:
            self.row_means = RowMeans(self.num_samples, self.device)
            self.row_means.load_state_dict(None, self.running)

    def clear_running(self) -> None:
        """Forget what was recorded of an epoch that begins anew."""
        self.running = self._empty()
        if self.row_means is not None:
            self.row_means.clear()

    @property
    def reference(self) -> Tensor:
        """Reference losses of :attr:`epochs`, shape (T,), float32; NaN where there was none."""
        return torch.tensor(self._reference, dtype=torch.float32, device=self.device)

    def replace_reference(self, values: Tensor) -> None:
        """Set the reference losses of all kept epochs, shape (T,); those of dropped ones go."""
        self._reference, self._lowest = values.tolist(), _NONE_YET
        for value in self._reference:
            self._count(value)

    @property
    def best_epoch(self) -> int | None:
        """The epoch with the lowest reference loss so far (the first of equals), or None."""
        seen = [t for t, u in enumerate(self._reference) if not math.isnan(u)]
        return self.epochs[min(seen, key=self._reference.__getitem__)] if seen else None

    @property
    def epochs_since_best(self) -> int | None:
        """How many reference losses, dropped ones included, came after the lowest; None if none."""
        return self._lowest[1] if self._lowest[0] < math.inf else None

    def _count(self, reference: float) -> None:
        lowest, since = self._lowest
        if not math.isnan(reference):  # an epoch without a pass shows no lack of progress
            self._lowest = (reference, 0) if reference < lowest else (lowest, since + 1)

    @property
    def last(self) -> Tensor:
        """Each sample's most recent loss, shape (N,), float32; NaN if it was never seen."""
        older = self._older(len(self.rows))
        return TrajectoryView([], [], self.reference, older, self._empty).before

    @property
    def first(self) -> Tensor:
        """Each sample's first loss, shape (N,), float32; NaN if never seen, or not kept."""
        return self._empty() if self._first is None else self._first

    def view(self, window: int | None = None, until: int | None = None) -> TrajectoryView:
        """Look at the last epochs, or at the last up to a given one.

        Args:
            window: How many recorded epochs; None for all that are kept.
            until: The last epoch that counts; None for the newest.
        """
        stop = len(self.epochs) if until is None else sum(epoch <= until for epoch in self.epochs)
        start = 0 if window is None else max(0, stop - window)
        part = slice(start, stop)
        return TrajectoryView(
            self.rows[part],
            self.epochs[part],
            self.reference[part],
            self._older(start),
            self._empty,
            self._reference_rows[part],
        )

    def _older(self, stop: int) -> list[Tensor | None]:
        older = [self._dropped[0]]
        for row, dropped in zip(self.rows[:stop], self._dropped[1:], strict=False):
            older += [row, dropped]
        return older

    def close_epoch(
        self,
        epoch: int,
        reference: Tensor | float | None = None,
        transform: Callable[[Tensor, Tensor], Tensor] | None = None,
        reference_samples: Tensor | None = None,
    ) -> None:
        """Turn the running row into the row of ``epoch`` and start an empty one.

        Args:
            epoch: Number of the epoch that ended.
            reference: Mean loss of the reference set after this epoch, a scalar.
            transform: Called with the running row and :attr:`last`; returns the row to keep, such
                as an EMA of the raw batch losses.
            reference_samples: Losses of the reference samples after this epoch, shape (n,).

        Raises:
            ValueError: If the epoch was closed already.
        """
        if self.epochs and epoch <= self.epochs[-1]:
            raise ValueError(
                f"LossTrajectories: expected an epoch after {self.epochs[-1]}, got {epoch}. "
                "Each epoch can be closed once."
            )
        row = self.running if transform is None else transform(self.running, self.last)
        self.rows.append(self._stored(row))
        if self.keep_first:
            self._first = later_loss(row, self._first)
        self._dropped.append(None)
        self.epochs.append(epoch)
        self._reference.append(float("nan") if reference is None else float(reference))
        self._count(self._reference[-1])
        self._reference_rows.append(self._in_mid_epoch(self._here(reference_samples)))
        self.clear_running()
        self._drop_unneeded()

    def _stored(self, row: Tensor) -> Tensor:
        # A finite loss too large for the storage type must not become infinite, which means "bad".
        if row.dtype == self.dtype:
            return row
        most = torch.finfo(self.dtype).max
        return torch.where(row.isfinite(), row.clamp(-most, most), row).to(self.dtype)

    def _in_mid_epoch(self, after: Tensor | None) -> Tensor | None:
        # Samples are trained in the midst of an epoch; compared with the reference after it, right
        # labels would look too bad while the network still learns fast.
        before, self._reference_after = self._reference_after, after
        if after is None or before is None or before.shape != after.shape:
            return after
        return (before + after) / 2

    def _here(self, losses: Tensor | None) -> Tensor | None:
        return None if losses is None else losses.to(self.device)

    def _drop_unneeded(self) -> None:
        if self.window is None:
            return
        needed = set(self.epochs[-self.window :])
        best = self.best_epoch if self.keep_best else None
        if best is not None:
            needed |= set(self.view(self.window, until=best).epochs)
        for t in reversed(range(len(self.epochs))):
            if self.epochs[t] not in needed:
                self._drop(t)

    def _drop(self, t: int) -> None:
        older = later_loss(self._dropped.pop(t), self.rows.pop(t))
        self._dropped[t] = later_loss(older, self._dropped[t])  # now before the row that follows
        del self.epochs[t], self._reference[t], self._reference_rows[t]

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and primitives only, so that it loads with ``weights_only=True``."""
        return {
            "version": STATE_VERSION,
            "num_samples": self.num_samples,
            "epochs": list(self.epochs),
            "reference": self.reference.cpu(),
            "reference_rows": list(self._reference_rows),
            "reference_after": self._reference_after,
            "lowest": self._lowest,
            "rows": list(self.rows),
            "dropped": list(self._dropped),
            "first": self._first,
            "running": self.running.clone(),
            "row_means": None if self.row_means is None else self.row_means.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a saved state; a window or dtype that changed since is applied to it.

        Raises:
            ValueError: If the state belongs to another number of samples.
        """
        if state["num_samples"] != self.num_samples:
            raise ValueError(
                f"LossTrajectories: expected a state of {self.num_samples} samples, got "
                f"{state['num_samples']}. Resume with the data set that the run was started with."
            )
        self.epochs = list(state["epochs"])
        self._reference = state["reference"].tolist()
        # A checkpoint of an older version has no reference rows.
        own = state.get("reference_rows", [None] * len(self.epochs))
        self._reference_rows = [self._here(losses) for losses in own]
        self._reference_after = self._here(state.get("reference_after"))
        self._lowest = tuple(state.get("lowest", _NONE_YET))
        self.rows = [self._stored(row.to(self.device)) for row in state["rows"]]
        self._dropped = [self._here(losses) for losses in state["dropped"]]
        self._first = self._here(state.get("first"))
        self.running = state["running"].to(self.device).float().clone()
        if self.row_means is not None:
            self.row_means.load_state_dict(state.get("row_means"), self.running)
        self._drop_unneeded()
