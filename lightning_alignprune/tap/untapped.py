"""What does a step's loss hold beside the losses that were tapped?"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_alignprune.tap.tapped_step import TappedCall

_LEAF = "AccumulateGrad"


def untapped_form(loss: Tensor, calls: Sequence[TappedCall]) -> tuple[str, ...]:
    """Return the operations by which the loss reaches parameters past the tapped losses.

    Their names, sorted; empty where everything that is trained goes through a tapped loss. The
    same form in another batch gives the same names.

    Args:
        loss: The step's loss, attached to its graph.
        calls: What was tapped in the step.

    Note:
        Walks the graph up to the tapped losses, which is a few nodes, and all of it where there is
        something else.
    """
    seen = {_node(call) for call in calls}  # where the walk ends
    names: list[str] = []
    queue: list[Any] = [loss.grad_fn]
    while queue:
        node = queue.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        names.append(node.name())
        queue.extend(following for following, _ in node.next_functions)
    is_trained = any(name.endswith(_LEAF) for name in names)
    return tuple(sorted(names)) if is_trained else ()


def _node(call: TappedCall) -> Any:
    return call.output.grad_fn if call.given is None else call.given.edge.node


class Untapped(NamedTuple):
    """What of a step's loss does not come from its tapped losses alone.

    Attributes:
        form: See :func:`untapped_form`.
        rest: What the tapped losses, with their coefficients in it, do not add up to.
        scale: The larger of the loss and the tapped parts, in absolute value.
        factors: Coefficients that are made of parameters or of what the network gives: of each
            mean or sum that was tapped, in their order.
    """

    form: tuple[str, ...]
    rest: float
    scale: float
    factors: list[float]

    def is_nothing(self, tolerance: float) -> bool:
        """Say whether nothing is trained beside the tapped losses that shows in the loss.

        Args:
            tolerance: Share of the loss that is its last digits.
        """
        return not self.factors and abs(self.rest) <= tolerance * self.scale

    def is_alike(self, other: "Untapped", tolerance: float) -> bool:
        """Say whether it is the same for other samples, such as a penalty on the weights.

        Args:
            other: What a step on other samples showed.
            tolerance: See :meth:`is_nothing`.
        """
        if len(self.factors) != len(other.factors):
            return False
        scale = max(self.scale, other.scale)
        pairs = [(self.rest, other.rest, scale)]
        pairs += [(a, b, abs(a)) for a, b in zip(self.factors, other.factors, strict=True)]
        return all(abs(a - b) <= tolerance * size for a, b, size in pairs)


def untapped(loss: Tensor, calls: Sequence[TappedCall]) -> Untapped:
    """Look at what of the loss does not come from the tapped losses alone.

    Args:
        loss: The step's loss, attached to its graph.
        calls: What was tapped in the step.

    Note:
        One host wait where there is something.
    """
    form = untapped_form(loss, calls)
    if not form:
        return Untapped((), 0.0, 1.0, [])
    attached = [call for call in calls if call.output.requires_grad]
    coefficients: Sequence[Tensor | None] = ()
    if attached:
        outputs: Any = [call.output if call.given is None else call.given.edge for call in attached]
        coefficients = torch.autograd.grad(loss, outputs, create_graph=True, allow_unused=True)
    whole = loss.detach().float()
    parts, factors = [whole.new_zeros(())], []
    for call, coefficient in zip(attached, coefficients, strict=True):
        if coefficient is None:  # a metric beside the loss
            continue
        value = call.output.detach() if call.given is None else call.given.value
        part = coefficient.detach().float() * value.float()
        # what is masked may be infinite
        parts.append(torch.where(coefficient.detach() == 0, 0, part).sum())
        if not coefficient.ndim and coefficient.requires_grad and untapped_form(coefficient, calls):
            factors.append(coefficient.detach().float())
    tapped = torch.stack(parts)
    scale = torch.maximum(whole.abs(), tapped.abs().sum())
    rest, scale_value, *values = torch.stack([whole - tapped.sum(), scale, *factors]).tolist()
    return Untapped(form, rest, scale_value, values)
