"""What a tap saw in one step, and the per-sample losses in it.

Legend: ``B`` samples, ``T`` rows of each where a step flattens them, such as tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import GradientEdge

from lightning_alignprune.tap.clipping import clips_between, may_fill
from lightning_alignprune.tap.loss_functions import OF_CLASSES
from lightning_alignprune.tap.usual_factors import UsualFactors

# Coefficients of a mean, in the precision of the loss's own dtype, add up to 1.
_MEAN_TOLERANCE = 0.01
_ELEMENTS = "elements of reduction='none'"
# Of a sum of a loss's parts, also in bfloat16.
_VALUE_TOLERANCE = 0.02


class Given(NamedTuple):
    """What a loss function gave, whatever was done to it in place afterwards.

    Attributes:
        edge: Its place in the graph.
        value: Its value, detached.
    """

    edge: GradientEdge
    value: Tensor


class TappedCall(NamedTuple):
    """One loss-function call that the tap saw.

    Attributes:
        losses: Shape (B,), detached, float32. NaN where every element of a sample is ignored,
            infinite where the loss was NaN or infinite.
        output: What the module's code got, attached to the graph.
        reduction: ``"mean"``, ``"batchmean"``, ``"sum"`` or ``"none"``.
        logits: The first argument of the call, detached, with B or B*T rows; its second in
            ``target``.
        target: See ``logits``.
        func: The torch or registered function.
        observed: Which elements are not ignored, of their shape, bool; None if all or unknown.
        given: ``output`` before the module's code changed it in place; None where not kept.
    """

    losses: Tensor
    output: Tensor
    reduction: str
    logits: Tensor
    target: Tensor
    func: Callable[..., Tensor] = F.cross_entropy
    observed: Tensor | None = None
    given: Given | None = None


class UnseenLossError(RuntimeError):
    """No per-sample loss could be read from a step."""


class ChangingFactorsError(UnseenLossError):
    """A step multiplies losses by factors that depend on these losses."""


class ClippedLossError(UnseenLossError):
    """A step clips losses after they were computed, or puts other values in their place."""


@dataclass
class TappedStep:
    """What one ``training_step`` gave: its loss, the tapped calls, the user's own vector.

    Attributes:
        num_samples: B.
        loss: The step's loss as the module returned it, or None if it returned none.
        calls: The loss-function calls with B rows.
        user_losses: The module's own ``sample_loss``, shape (B,), or None.
        has_graph: Whether the step's graph is still there; not after a manual backward pass.
        is_first: Whether to check what costs a host wait: in the first step of an epoch.
        usual: What makes losses of a short batch comparable with those of a full one; None takes
            them as they are.
    """

    num_samples: int
    loss: Tensor | None
    calls: list[TappedCall] = field(default_factory=list)
    user_losses: Tensor | None = None
    has_graph: bool = True
    is_first: bool = False
    usual: UsualFactors | None = None

    def sample_losses(self) -> Tensor:
        """Return each sample's loss, shape (B,), float32.

        The module's own ``sample_loss`` wins. One tapped call gives its vector, unless the step
        reduces its elements itself: those, and several calls, are added with the coefficients
        that they have in the step's loss, read off the autograd graph.

        Raises:
            UnseenLossError: If the step shows no per-sample loss.
            ChangingFactorsError: If its parts cannot be told from its gradients.
            ClippedLossError: Likewise.
        """
        if self.user_losses is not None:
            losses = self.user_losses.detach().float()
            return torch.nan_to_num(losses, nan=torch.inf, posinf=torch.inf, neginf=-torch.inf)
        if len(self.calls) == 1 and not self.reduces_itself():
            return self.calls[0].losses
        if not self.calls or self.loss is None:
            raise UnseenLossError
        if self.is_first and self.shows_graph():
            self._check_linear(self.loss)
        return _combined(self.loss, self.calls, self.usual)

    def _check_linear(self, loss: Tensor) -> None:
        """Raise where a loss is no sum of the tapped ones with coefficients."""
        calls = self.feeding_calls()
        outputs = [call.output for call in calls]
        clips = clips_between(loss, outputs)
        if clips or (may_fill(loss, outputs) and not _adds_up(loss, calls)):
            raise ClippedLossError(", ".join(clips) or "other values in the place of some")
        for call in calls:
            factors = _factors_of(loss, call)
            if factors is not None and any(_change_with(factors, out) for out in outputs):
                is_elements = call.reduction == "none"
                raise ChangingFactorsError(_ELEMENTS if is_elements else "losses")

    def reduces_itself(self) -> bool:
        """Say whether the step's own code reduces the elements, and the graph shows how."""
        return self.is_reduced_by_hand() and self.shows_graph()

    def is_reduced_by_hand(self) -> bool:
        """Say whether the only loss call gave elements, which the step's own code reduces."""
        return (
            self.user_losses is None
            and len(self.calls) == 1
            and self.calls[0].reduction == "none"
            and self.calls[0].output is not self.loss
        )

    def shows_graph(self) -> bool:
        """Say whether the loss's graph is there to be read; a compiled step is one opaque node."""
        if self.loss is None or not (self.has_graph and self.loss.requires_grad):
            return False
        return not any(_is_compiled(x) for x in (self.loss, *(call.output for call in self.calls)))

    def is_made_of_user_losses(self) -> bool:
        """Say whether the gradient of the loss passes through the user's own losses."""
        if self.loss is None or self.user_losses is None or not self.shows_graph():
            return False
        if not self.user_losses.requires_grad:
            return False
        (grad,) = torch.autograd.grad(
            self.loss, self.user_losses, retain_graph=True, allow_unused=True
        )
        return grad is not None

    def feeding_calls(self) -> list[TappedCall]:
        """Return the calls that the step's loss is made of."""
        attached = [call for call in self.calls if call.output.requires_grad]
        if self.loss is None or not attached or not self.shows_graph():
            return self.calls
        outputs = [call.output for call in attached]
        found = torch.autograd.grad(self.loss, outputs, retain_graph=True, allow_unused=True)
        return [call for call, grad in zip(attached, found, strict=True) if grad is not None]

    def weights_miss_factors(self) -> bool:
        """Say whether elements have factors with a gradient of their own.

        The elements' gradients are weighted; what reaches the network past them is not, such as
        through a focal factor made of the logits.
        """
        if not self.has_graph:
            return False
        return any(not _change_with(factors, c.output) for c, factors in self._live_factors())

    def _live_factors(self) -> list[tuple[TappedCall, Tensor]]:
        elements = [call for call in self.calls if call.reduction == "none"]
        found = [(call, _factors_of(self.loss, call)) for call in elements]
        return [(call, factors) for call, factors in found if factors is not None]

    def batch_loss(self) -> Tensor:
        """Return the step's loss as a detached float32 scalar.

        Raises:
            UnseenLossError: If the step returned no loss.
        """
        if self.loss is None:
            raise UnseenLossError
        return torch.nan_to_num(self.loss.detach().float(), nan=torch.inf, posinf=torch.inf)


def _combined(loss: Tensor, calls: list[TappedCall], usual: UsualFactors | None) -> Tensor:
    outputs = [call.output for call in calls]
    attached = [out for out in outputs if out.requires_grad]
    if not (loss.requires_grad and attached):
        raise UnseenLossError
    found = torch.autograd.grad(loss, attached, retain_graph=True, allow_unused=True)
    by_id = {id(out): grad for out, grad in zip(attached, found, strict=True)}
    parts: list[_Part] = []
    for call in calls:
        coefficient = by_id.get(id(call.output))
        if coefficient is None:  # a metric beside the loss
            continue
        if call.reduction == "none":
            if call.observed is not None:
                coefficient = coefficient * call.observed
            parts.append(_shares(coefficient, call.output.detach(), len(call.losses)))
        else:
            factor = coefficient.float() * (len(call.losses) if call.reduction == "sum" else 1)
            parts.append(_Part(call.losses * factor, factor))
    if not parts:
        raise UnseenLossError
    values = [part.values for part in parts]
    corrections = None
    if usual is not None:
        factors = torch.stack([part.factor for part in parts])
        corrections = usual.corrections(factors, len(values[0]))
    if corrections is not None:
        values = [part.corrected(by) for part, by in zip(parts, corrections, strict=True)]
    return sum(values[1:], values[0])


class _Part(NamedTuple):
    """Samples' losses in one term, shape (B,), and B times a sample's share of it on average.

    ``is_mean``: whether the term is a mean of which a sample has its own; None if not.
    """

    values: Tensor
    factor: Tensor
    is_mean: Tensor | None = None

    def corrected(self, by: Tensor) -> Tensor:
        """Return the losses as they would be in a full batch."""
        return self.values * (by if self.is_mean is None else torch.where(self.is_mean, 1, by))


def _shares(coefficients: Tensor, elements: Tensor, num_samples: int) -> _Part:
    """Return B times each sample's share of the loss, or its masked mean.

    Equal coefficients that add up to 1 are a mean over the elements that a mask keeps: alone in a
    batch, a sample would be divided by its own number of them.
    """
    rows = coefficients.float().reshape(num_samples, -1)
    shares = rows * elements.float().reshape(num_samples, -1)
    shares = torch.where(rows == 0, 0, shares).sum(1)  # what is masked may be infinite
    total, count = rows.sum(), rows.count_nonzero()
    is_sum_of_all = (total - 1).abs() < _MEAN_TOLERANCE
    is_mean = is_sum_of_all & ((rows.max() * count - total).abs() < _MEAN_TOLERANCE)
    shares = torch.nan_to_num(shares, nan=torch.inf, posinf=torch.inf, neginf=-torch.inf)
    # NaN, not observed, where a sample's elements are all masked.
    values = torch.where(is_mean, shares / rows.sum(1), shares * num_samples)
    return _Part(values, total / count * num_samples, is_mean)


def _adds_up(loss: Tensor, calls: list[TappedCall]) -> bool:
    outputs = [call.output for call in calls]
    found = torch.autograd.grad(loss, outputs, retain_graph=True)
    parts = [
        torch.where(coefficient == 0, 0, coefficient.float() * output.detach().float()).sum()
        for coefficient, output in zip(found, outputs, strict=True)
    ]
    total = torch.stack(parts)
    rest = (loss.detach().float() - total.sum()).abs()
    return bool(rest <= _VALUE_TOLERANCE * total.abs().sum())


def _factors_of(loss: Tensor | None, call: TappedCall) -> Tensor | None:
    """Return the factors of the call's elements in the loss where they are part of the graph."""
    if loss is None or not (loss.requires_grad and call.output.requires_grad):
        return None
    (factors,) = torch.autograd.grad(loss, call.output, create_graph=True, allow_unused=True)
    return factors if factors is not None and factors.requires_grad else None


def _change_with(factors: Tensor, elements: Tensor) -> bool:
    (change,) = torch.autograd.grad(factors.sum(), elements, retain_graph=True, allow_unused=True)
    return change is not None and bool(change.any())


def _is_compiled(tensor: Tensor) -> bool:
    return type(tensor.grad_fn).__name__.startswith("CompiledFunction")


def loss_and_own(returned: Any) -> tuple[Any, Any]:
    """Return the loss and the own ``sample_loss`` in what a step returned; None if missing."""
    if isinstance(returned, dict):
        return returned.get("loss"), returned.get("sample_loss")
    return returned, None


def is_classification(call: TappedCall) -> bool:
    """Say whether it was a loss, like cross-entropy, of logits (B, C) and integer labels."""
    is_known = call.func in (F.cross_entropy, F.nll_loss) or call.func in OF_CLASSES
    if not is_known or len(call.losses) != len(call.logits):
        return False
    target = call.target
    return call.logits.ndim == 2 and target.ndim == 1 and not target.is_floating_point()


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
    if any(_is_compiled(x) for x in (loss, *outputs)):
        return True
    found = torch.autograd.grad(loss, outputs, retain_graph=True, allow_unused=True)
    return any(grad is not None for grad in found)
