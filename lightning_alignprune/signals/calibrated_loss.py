"""`CalibratedLoss`: the loss of a prediction that a clean reference set has corrected."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from lightning_alignprune.functional.calibration import STRENGTHS, check_strengths
from lightning_alignprune.signals._seen_logits import MapInUse, label_notes, seen_logits
from lightning_alignprune.signals.base import ReferenceSamples, Signal
from lightning_alignprune.tap.tapped_step import TappedStep


class CalibratedLoss(Signal):
    """Each sample's cross-entropy after a linear map of its logits fitted on the clean reference.

    After each epoch the map that makes the network's logits agree best with the reference's clean
    labels is fitted, and the losses of the next epoch are recorded through it. The logits are
    those that the module gives its own loss function: no forward pass is added, and what is
    trained does not change. Under class-conditional noise, where the network learns wrong labels
    as fast as right ones, the plain loss says nothing and this one does.

    The reference's own losses, each under a map that had not seen the sample, are recorded beside:
    they say what clean labels look like, and their mean is the reference loss. A reference too
    small to improve on the plain logits for held-out samples leaves them as they are.

    Needs a reference set, and one classification loss per step: logits of shape (B, C) with
    integer labels (cross-entropy or NLL). A sample whose class the reference lacks is recorded with
    its plain loss. Class weights and label smoothing do not enter.

    Args:
        strengths: Penalties on the map's distance from the identity to choose from, each above 0.
            The one that predicts held-out reference samples best is taken anew after each epoch.

    Raises:
        TypeError: If ``strengths`` is no sequence of numbers.
        ValueError: If there is no strength or one is out of range.

    Note:
        Per step one (B, C) by (C, C) product and two cross-entropies, no host wait. Per epoch end
        one fit, see :func:`~lightning_alignprune.functional.calibrate`.
    """

    needs_reference = True
    needs_logits = True

    def __init__(self, strengths: Sequence[float] = STRENGTHS) -> None:
        self.strengths = check_strengths("CalibratedLoss", strengths)
        self._map = MapInUse(self.strengths)

    @property
    def strength(self) -> float:
        """The penalty chosen last; infinite where the plain logits were best."""
        return self._map.strength

    @override
    def values(self, step: TappedStep) -> Tensor:
        seen = seen_logits(step)
        # The step may run under autocast, in which the map would be applied in half precision.
        with torch.no_grad(), torch.autocast(seen.logits.device.type, enabled=False):
            return seen.marked(self._map.on(seen.logits).losses(seen.logits, seen.labels))

    @override
    def label_notes(self, step: TappedStep) -> Tensor:
        seen = seen_logits(step)
        with torch.no_grad(), torch.autocast(seen.logits.device.type, enabled=False):
            return label_notes(seen, self._map.on(seen.logits).predictions(seen.logits))

    @override
    def follow_reference(self, samples: ReferenceSamples) -> ReferenceSamples:
        return samples._replace(losses=self._map.learn(samples).losses)

    @override
    def state_dict(self) -> dict[str, Any]:
        return self._map.state_dict()

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._map.load_state_dict(state)
