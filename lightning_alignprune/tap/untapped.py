"""What does a step's loss hold beside the losses that were tapped?"""

from collections.abc import Sequence
from typing import Any

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
    seen = {call.output.grad_fn for call in calls}  # nodes where the walk ends
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


def untapped_part(loss: Tensor, calls: Sequence[TappedCall]) -> tuple[float, float]:
    """Return what of the loss the tapped losses, with their coefficients in it, do not add up to.

    Args:
        loss: The step's loss, attached to its graph.
        calls: What was tapped in the step.

    Returns:
        The rest, and the larger of the loss and the tapped parts in absolute value. One host wait.
    """
    attached = [call.output for call in calls if call.output.requires_grad]
    found: Sequence[Tensor | None] = ()
    if attached:
        found = torch.autograd.grad(loss, attached, retain_graph=True, allow_unused=True)
    parts = [
        # what is masked may be infinite
        torch.where(grad == 0, 0, grad.float() * output.detach().float()).sum()
        for grad, output in zip(found, attached, strict=True)
        if grad is not None
    ]
    whole = loss.detach().float()
    zero = torch.zeros_like(whole)
    tapped = sum(parts, start=zero)
    size = sum((part.abs() for part in parts), start=zero)
    rest, scale = torch.stack([whole - tapped, torch.maximum(whole.abs(), size)]).tolist()
    return rest, scale
