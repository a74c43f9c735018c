"""Does a step clip its losses after they were computed?

Where it does, what is trained cannot be told from gradients: a loss that was clipped has none.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

from torch import Tensor

# Of torch 2.6 to 2.14; each makes several functions of one name, with a number behind it.
_CLIPS = (
    "ClampBackward",
    "ClampMinBackward",
    "ClampMaxBackward",
    "AbsBackward",
    "ReluBackward",
    "LeakyReluBackward",
    "HardtanhBackward",
    "ThresholdBackward",
)
_OF_TWO = ("MaximumBackward", "MinimumBackward", "FmaxBackward", "FminBackward")
_FILLS = ("WhereBackward", "MaskedFillBackward", "IndexPutBackward", "MaskedScatterBackward")


def clips_between(loss: Tensor, outputs: Iterable[Tensor]) -> list[str]:
    """Return the operations that clip a loss on its way, by their names in the graph.

    Args:
        loss: The step's loss, attached to its graph.
        outputs: What loss functions gave.

    Note:
        Walks the graph up to ``outputs``, and all of it where the loss reaches parameters past
        them.

    Example:
        >>> import torch
        >>> losses = torch.tensor([1.0, 3.0], requires_grad=True) * 1
        >>> clips_between(losses.clamp(max=2).mean(), [losses])
        ['ClampBackward1']
        >>> clips_between(losses.mean(), [losses])
        []
    """
    return sorted({node.name() for node in _walk(loss, outputs).between if _clips(node)})


def may_fill(loss: Tensor, outputs: Iterable[Tensor]) -> bool:
    """Say whether something puts other values in the place of losses, such as 0 or what is left.

    Where nothing else is trained, so that the losses have to add up to the loss.
    """
    between, is_all = _walk(loss, outputs)
    return is_all and any(node.name().startswith(_FILLS) for node in between)


def _clips(node: Any) -> bool:
    name: str = node.name()
    if name.startswith(_OF_TWO):  # the smaller of two losses is a loss
        return any(following is None for following, _ in node.next_functions)
    return name.startswith(_CLIPS)


class _Walked(NamedTuple):
    """Nodes from which an output can be reached, without its own; whether nothing else is."""

    between: list[Any]
    is_all: bool


def _walk(loss: Tensor, outputs: Iterable[Tensor]) -> _Walked:
    ends = {output.grad_fn for output in outputs if output.grad_fn is not None}
    reaching: set[Any] = set(ends)
    seen: set[Any] = set()
    stack: list[tuple[Any, bool]] = [(loss.grad_fn, False)]
    while stack:
        node, is_done = stack.pop()
        if is_done:
            if any(following in reaching for following, _ in node.next_functions):
                reaching.add(node)
        elif node is not None and node not in seen and node not in ends:
            seen.add(node)
            stack.append((node, True))
            stack.extend((following, False) for following, _ in node.next_functions)
    is_all = not any(node.name().endswith("AccumulateGrad") for node in seen)
    return _Walked(list(reaching - ends), is_all)
