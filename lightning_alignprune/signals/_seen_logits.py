"""What a signal reads of a step with one classification loss."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_alignprune.functional.calibration import (
    Calibration,
    Calibrator,
    calibrate,
    identity_calibrator,
)
from lightning_alignprune.signals.base import NoLogitsError, ReferenceSamples
from lightning_alignprune.tap.tapped_step import TappedStep, is_classification


class SeenLogits(NamedTuple):
    """Logits of a batch, with what cannot be used marked.

    Attributes:
        logits: Shape (B, C), detached.
        labels: Shape (B,), int64; 0 where a sample is not valid.
        losses: Shape (B,). NaN for ignored samples, infinite for bad ones.
        is_valid: Shape (B,), bool. Which are neither.
    """

    logits: Tensor
    labels: Tensor
    losses: Tensor
    is_valid: Tensor

    def marked(self, values: Tensor) -> Tensor:
        """Return values with NaN for ignored samples and infinity for bad ones."""
        values = values.nan_to_num(nan=torch.inf)
        return torch.where(self.is_valid, values, self.losses)


def seen_logits(step: TappedStep) -> SeenLogits:
    """Read the logits of a step.

    Raises:
        NoLogitsError: If it shows no single classification loss.
    """
    calls = [call for call in step.calls if is_classification(call)]
    if len(calls) != 1 or step.user_losses is not None:
        raise NoLogitsError(
            f"{len(calls)} classification losses in a step"
            if step.user_losses is None
            else "a sample_loss of the module's own"
        )
    call = calls[0]
    is_valid = call.losses.isfinite()
    labels = torch.where(is_valid, call.target, 0)
    return SeenLogits(call.logits.detach(), labels, call.losses, is_valid)


def label_notes(
    seen: SeenLogits, evidence: Tensor, calibrated_losses: Tensor | None = None
) -> Tensor:
    """Return a step's notes for the audit, as :meth:`Signal.label_notes` does.

    Args:
        seen: What was seen of the step.
        evidence: Shape (B, C), at least 0. How much speaks for each class; rows of any sum.
        calibrated_losses: Shape (B,), of the calibrated predictions, or None if there are none.
    """
    others = evidence.scatter(1, seen.labels.unsqueeze(1), -1.0)
    best = others.max(1)
    support = (best.values / evidence.sum(1)).nan_to_num(0.0).clamp(0, 1)
    losses = seen.losses.float()
    last = torch.full_like(losses, torch.nan) if calibrated_losses is None else calibrated_losses
    notes = torch.stack([losses, seen.labels.float(), best.indices.float(), support, last])
    return torch.where(seen.is_valid, notes, torch.nan)


class MapInUse:
    """The map that the reference has last been fitted with; at first the one that changes nothing.

    Attributes:
        strengths: Penalties to choose from.
        strength: The penalty chosen last; infinite where the plain logits were best.
        fold_maps: The maps that have each not seen a part of the reference.
    """

    def __init__(self, strengths: Sequence[float]) -> None:
        self.strengths = strengths
        self.strength = float("inf")
        self.fold_maps: tuple[Calibrator, ...] = ()
        self._calibrator: Calibrator | None = None

    def on(self, logits: Tensor) -> Calibrator:
        """Return the map for these logits, on their device."""
        if self._calibrator is None:  # before the first reference pass
            self._calibrator = identity_calibrator(logits.shape[1], logits.device)
        if self._calibrator.bias.device != logits.device:  # once per fit of the map
            self._calibrator = Calibrator(*(x.to(logits.device) for x in self._calibrator))
        return self._calibrator

    def learn(self, samples: ReferenceSamples) -> Calibration:
        """Fit the map anew.

        Raises:
            NoLogitsError: If the reference pass showed no logits.
        """
        if samples.logits is None or samples.labels is None:
            raise NoLogitsError("no classification loss in the reference pass")
        found = calibrate(samples.logits, samples.labels, self.strengths)
        self._calibrator, self.strength = found.calibrator, found.strength
        self.fold_maps = found.fold_maps
        return found

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and primitives only, without the fold maps."""
        parts = None if self._calibrator is None else tuple(self._calibrator)
        return {"calibrator": parts, "strength": self.strength}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a saved state."""
        parts = state["calibrator"]
        self._calibrator = None if parts is None else Calibrator(*parts)
        self.strength = state["strength"]
