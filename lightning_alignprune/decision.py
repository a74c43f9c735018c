"""`Decision`: what was decided for an epoch, checked before anything trains on it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_alignprune.functional.selection import Selection
from lightning_alignprune.policies import Policy


@dataclass
class Decision:
    """What was decided for an epoch.

    Attributes:
        epoch: The epoch it is for.
        selection: The samples and weights; None means every sample with weight 1.
        scores: The scores it rests on, shape (N,), or None if none were computed.
        is_fallback: Whether the policy kept nothing and everything is trained instead.
    """

    epoch: int
    selection: Selection | None
    scores: Tensor | None = None
    is_fallback: bool = False


def checked(decision: Decision, policy: Policy) -> Decision:
    """Refuse a malformed selection; turn "all" and "none" into the plain full epoch.

    Raises:
        ValueError: If ``kept`` is not a bool per sample.
    """
    selection = decision.selection
    if selection is None:
        return decision
    if selection.kept.dtype != torch.bool or (
        decision.scores is not None and selection.kept.shape != decision.scores.shape
    ):
        raise ValueError(
            f"{type(policy).__name__}.select: expected kept of dtype bool with one entry per "
            f"sample, got {selection.kept.dtype} of shape {tuple(selection.kept.shape)}."
        )
    num_kept = int(selection.kept.sum())
    if num_kept == len(selection.kept) and selection.weights is None:
        decision.selection = None
    elif num_kept == 0:
        decision.selection, decision.is_fallback = None, True
    return decision
