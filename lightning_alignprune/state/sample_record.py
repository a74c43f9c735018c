"""`SampleRecord`: what a run notes of each sample's label, for the audit after it.

State only: knows nothing of Lightning. Legend: ``N`` samples, ``B`` of a batch, ``C`` classes.
"""

from typing import Any

import torch
from torch import Tensor

NUM_NOTES = 5  # a batch's notes: loss, given label, suggested label, support, calibrated loss
CALIBRATED_LOSS = 4  # the row of the notes that has it
MAX_EPOCHS = 8  # whose losses are kept to be looked at
_LARGEST = torch.finfo(torch.float16).max


class SampleRecord:
    """Given and suggested label of each sample, its losses at a few epochs, and when it was cut.

    A batch's notes are the sample's plain loss, its given label, the likeliest other class, how
    likely that one is (its support), and the loss of the calibrated prediction. Over the epochs the
    suggestions are counted as votes, weighted by their support (a majority vote in two numbers a
    sample, after Boyer and Moore): exact where one class has more than half of the weight.

    Losses are kept of at most eight epochs: the first, the newest, and those between that lie most
    evenly on a logarithmic scale.

    Args:
        num_samples: N.
        device: Where the record lives.

    Attributes:
        given: Shape (N,), int32. The label that the loss function got; -1 where none was seen.
        suggested: Shape (N,), int32. The other class with the most votes; -1 likewise.
        cut_since: Shape (N,), int32. First epoch of those, up to the newest decision, from which
            the sample was left out; -1 where it is kept.
        epochs: Epochs whose losses are kept.
        losses: One row for each of them, shape (N,), float16; NaN where a sample was not seen.

    Example:
        >>> record = SampleRecord(num_samples=2)
        >>> notes = torch.tensor([[0.1, 3.0], [0.0, 1.0], [1.0, 2.0], [0.1, 0.9], [0.1, 2.5]])
        >>> record.note(torch.tensor([0, 1]), notes)
        >>> record.close_epoch(0)
        >>> record.given.tolist(), record.suggested.tolist(), record.losses[0][1].item()
        ([0, 1], [1, 2], 3.0)

    Note:
        Memory: 52 bytes a sample. A step costs one indexed write and no host wait.
    """

    def __init__(self, num_samples: int, device: torch.device | str = "cpu") -> None:
        self.running = torch.full((NUM_NOTES, num_samples), torch.nan, device=device)
        self.given = torch.full((num_samples,), -1, dtype=torch.int32, device=device)
        self.suggested = self.given.clone()
        self.cut_since = self.given.clone()
        self._support = torch.zeros(num_samples, device=device)
        self.epochs: list[int] = []
        self.losses: list[Tensor] = []

    def note(self, indices: Tensor, notes: Tensor) -> None:
        """Write down the notes of one batch.

        Args:
            indices: Shape (B,), int64, on the record's device.
            notes: Shape (5, B), float32: loss, given label, suggested label, support of at least 0,
                calibrated loss. NaN for a sample without a label.
        """
        self.running[:, indices] = notes

    def forget_running(self) -> None:
        """Forget the notes of an epoch that is not over."""
        self.running = torch.full_like(self.running, torch.nan)

    def close_epoch(self, epoch: int) -> None:
        """Take the running epoch's notes into the record."""
        losses, given, suggested, support, _ = self.running
        seen = ~given.isnan()
        self.given = torch.where(seen, given, self.given).int()
        agrees = seen & (suggested == self.suggested)
        votes = torch.where(seen, torch.where(agrees, support, -support), 0.0)
        total = self._support + votes
        changes = seen & ((total < 0) | (self.suggested < 0))
        self.suggested = torch.where(changes, suggested, self.suggested).int()
        self._support = total.abs()
        self.epochs.append(epoch)
        self.losses.append(losses.clamp(-_LARGEST, _LARGEST).half())
        if len(self.epochs) > MAX_EPOCHS:
            self._thin_out()
        self.forget_running()

    def _thin_out(self) -> None:
        places = [torch.tensor(epoch + 1.0).log().item() for epoch in self.epochs]
        # The one whose neighbours lie closest together is missed least.
        gaps = [places[t + 1] - places[t - 1] for t in range(1, len(places) - 1)]
        least = 1 + gaps.index(min(gaps))
        del self.epochs[least], self.losses[least]

    def follow(self, epoch: int, kept: Tensor | None) -> None:
        """Note which samples are cut from an epoch on, and which are cut no longer.

        Args:
            epoch: The epoch of a decision.
            kept: Shape (N,), bool; None keeps all.
        """
        if kept is None:
            self.cut_since = torch.full_like(self.cut_since, -1)
            return
        still = torch.where(self.cut_since < 0, epoch, self.cut_since)
        self.cut_since = torch.where(kept, -1, still).int()

    def state_dict(self, running: Tensor | None = None) -> dict[str, Any]:
        """Return tensors of shape (N,) and primitives only.

        Args:
            running: The running notes to save, of all ranks; None for this process's own.
        """
        notes = self.running if running is None else running
        return {
            "given": self.given,
            "suggested": self.suggested,
            "support": self._support,
            "cut_since": self.cut_since,
            "epochs": list(self.epochs),
            "losses": list(self.losses),
            "running": [row.clone() for row in notes],
        }

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Take over a saved state; an older checkpoint has none, and the record begins anew."""
        if state is None:
            return
        here = self.given.device
        self.given, self.suggested = state["given"].to(here), state["suggested"].to(here)
        self.cut_since, self._support = state["cut_since"].to(here), state["support"].to(here)
        self.epochs = list(state["epochs"])
        self.losses = [row.to(here) for row in state["losses"]]
        rows = [row.to(here) for row in state["running"]]
        # An older checkpoint has no calibrated losses.
        missing = [torch.full_like(rows[0], torch.nan)] * (NUM_NOTES - len(rows))
        self.running = torch.stack(rows + missing)
