"""What a tap saw in one step, and the per-sample losses in it. Legend: ``B`` samples."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class TappedCall(NamedTuple):
    """One loss-function call that the tap saw.

    Attributes:
        losses: Shape (B,), detached, float32. NaN where every element of a sample is ignored,
            infinite where the loss was NaN or infinite.
        output: What the module's code got, attached to the graph.
        reduction: ``"mean"``, ``"batchmean"``, ``"sum"`` or ``"none"``.
        logits: The first argument of the call, detached; its second in ``target``.
        target: See ``logits``.
        func: The torch function.
    """

    losses: Tensor
    output: Tensor
    reduction: str
    logits: Tensor
    target: Tensor
    func: Callable[..., Tensor] = F.cross_entropy


class UnseenLossError(RuntimeError):
    """No per-sample loss could be read from a step."""


@dataclass
class TappedStep:
    """What one ``training_step`` gave: its loss, the tapped calls, the user's own vector.

    Attributes:
        num_samples: B.
        loss: The step's loss as the module returned it, or None if it returned none.
        calls: The loss-function calls with B rows.
        user_losses: The module's own ``sample_loss``, shape (B,), or None.
    """

    num_samples: int
    loss: Tensor | None
    calls: list[TappedCall] = field(default_factory=list)
    user_losses: Tensor | None = None

    def sample_losses(self) -> Tensor:
        """Return each sample's loss, shape (B,), float32.

        The module's own ``sample_loss`` wins. One tapped call gives its vector. Several are added
        with the coefficients that they have in the step's loss, read off the autograd graph.

        Raises:
            UnseenLossError: If the step shows no per-sample loss.
        """
        if self.user_losses is not None:
            losses = self.user_losses.detach().float()
            return torch.nan_to_num(losses, nan=torch.inf, posinf=torch.inf, neginf=-torch.inf)
        if len(self.calls) == 1:
            return self.calls[0].losses
        if not self.calls or self.loss is None:
            raise UnseenLossError
        return _combined(self.loss, self.calls)

    def batch_loss(self) -> Tensor:
        """Return the step's loss as a detached float32 scalar.

        Raises:
            UnseenLossError: If the step returned no loss.
        """
        if self.loss is None:
            raise UnseenLossError
        return torch.nan_to_num(self.loss.detach().float(), nan=torch.inf, posinf=torch.inf)


def _combined(loss: Tensor, calls: list[TappedCall]) -> Tensor:
    outputs = [call.output for call in calls]
    attached = [out for out in outputs if out.requires_grad]
    if not (loss.requires_grad and attached):
        raise UnseenLossError
    found = torch.autograd.grad(loss, attached, retain_graph=True, allow_unused=True)
    by_id = {id(out): grad for out, grad in zip(attached, found, strict=True)}
    total: Tensor | None = None
    for call in calls:
        coefficient = by_id.get(id(call.output))
        if coefficient is None:  # a metric beside the loss
            continue
        if call.reduction == "none":
            share = (coefficient * call.output.detach()).float()
            part = share.reshape(len(share), -1).sum(1) * len(share)
        else:
            scale = len(call.losses) if call.reduction == "sum" else 1
            part = call.losses * (coefficient.float() * scale)
        total = part if total is None else total + part
    if total is None:
        raise UnseenLossError
    return total


def is_classification(call: TappedCall) -> bool:
    """Say whether it was cross-entropy or NLL on logits of shape (B, C) and integer labels."""
    target = call.target
    is_labelled = call.logits.ndim == 2 and target.ndim == 1 and not target.is_floating_point()
    return is_labelled and call.func in (F.cross_entropy, F.nll_loss)


def main_call(calls: list[TappedCall], loss: object) -> TappedCall | None:
    """Return the call that made the loss: the only one, or the one whose result it is."""
    if len(calls) == 1:
        return calls[0]
    return next((call for call in calls if call.output is loss), None)


def is_part_of(loss: Tensor, calls: list[TappedCall]) -> bool:
    """Say whether any of the tapped calls feeds the loss; True where the graph cannot tell.

    A compiled step is one opaque node: its outputs hang side by side, not one behind the other.
    """
    outputs = [call.output for call in calls if call.output.requires_grad]
    if not loss.requires_grad or any(loss is out for out in outputs):
        return True
    if not outputs:
        return False
    if any(type(x.grad_fn).__name__.startswith("CompiledFunction") for x in (loss, *outputs)):
        return True
    found = torch.autograd.grad(loss, outputs, retain_graph=True, allow_unused=True)
    return any(grad is not None for grad in found)
