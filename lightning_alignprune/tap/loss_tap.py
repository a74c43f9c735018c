"""Per-sample losses, and exact weights on them, out of an unmodified ``training_step``.

`LossTap` is a ``TorchFunctionMode``: while it is active, calls of torch's loss functions pass
through it, whether they come from ``F.cross_entropy`` or from ``nn.CrossEntropyLoss``. It must be
entered and left around one step, never across hooks: an exception would leave it in the process.

Legend: ``B`` samples in the batch.
"""

import sys
from types import FrameType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from typing_extensions import override

from lightning_alignprune.tap.loss_functions import (
    LOSS_FUNCTIONS,
    in_the_mean,
    lost_arguments,
    mean_divisor,
    num_rows,
    observed_elements,
)
from lightning_alignprune.tap.tapped_step import TappedCall

# Frames between the tap and whoever called the loss function.
_BETWEEN = (__file__, torch.overrides.__file__)
# Logits of one chunk of a second computation of the loss: 16 MB in float32.
_CHUNK_NUMEL = 2**22


class _WeightedGradient(torch.autograd.Function):
    """Identity whose gradient is multiplied by per-element weights."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(weights)
        return values.clone()  # a view of an autograd function must not be changed in place

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (weights,) = ctx.saved_tensors
        return grads[0] * weights, None


def weight_gradient(values: Tensor, weights: Tensor) -> Tensor:
    """Return ``values`` unchanged, with row i's gradient multiplied by ``weights[i]``.

    Exact for any loss in which row i only enters sample i's term, such as a focal loss.
    """
    shaped = weights.to(values.dtype).view(-1, *[1] * (values.ndim - 1))
    result: Tensor = _WeightedGradient.apply(values, shaped)
    return result


class LossTap(TorchFunctionMode):
    """Record per-sample losses of torch loss functions, and weight them.

    Calls whose first argument has B rows are tapped. Without weights the original call is made,
    so value and gradient are torch's own to the bit; its vector comes from a second call without
    gradients. With weights the value is ``sum(w * elements) / torch's own divisor``; for
    ``reduction="none"`` the caller's elements keep their values and only gradients are weighted,
    because the caller may do anything to them afterwards.

    Args:
        indices: Shape (B,), the samples of the batch; None taps calls of any batch size.
        weights: Shape (B,), float32, or None for 1.
        with_grad_only: Pass calls made with gradients disabled through unseen.
        plain: Record cross-entropy without label smoothing.
    """

    def __init__(
        self,
        indices: Tensor | None = None,
        weights: Tensor | None = None,
        with_grad_only: bool = True,
        plain: bool = False,
    ) -> None:
        super().__init__()
        # A tensor, not its length: torch.compile would recompile for every new int.
        self.indices = indices
        self.weights = weights
        self.with_grad_only = with_grad_only
        self.plain = plain
        self.calls: list[TappedCall] = []

    @override
    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func not in LOSS_FUNCTIONS:
            return func(*args, **kwargs)
        if not torch.compiler.is_compiling() and _is_called_by_traced_code():
            return func(*args, **kwargs)
        if func is F.l1_loss and not torch.compiler.is_compiling():
            kwargs = {**lost_arguments(func, sys._getframe()), **kwargs}
        return self._tap(func, args, kwargs)

    def _tap(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        parameters = LOSS_FUNCTIONS[func]
        # No strict=: dynamo of torch 2.6 cannot trace it.
        given = dict(zip(parameters, args))  # noqa: B905
        bound: dict[str, Any] = {**parameters, **given, **kwargs}
        first, second = list(bound.values())[:2]  # in the order of the function's parameters
        if (
            bound.get("size_average") is not None
            or bound.get("reduce") is not None
            or (self.with_grad_only and not torch.is_grad_enabled())
            or first.ndim == 0
            or (func is F.ctc_loss and first.ndim != 3)
            or (self.indices is not None and num_rows(func, first) != self.indices.shape[0])
        ):
            return func(*args, **kwargs)
        reduction = bound["reduction"]
        bound["reduction"] = "none"
        if self.weights is None:
            output = func(*args, **kwargs)
            with torch.no_grad():
                elements = output if reduction == "none" else _elements(func, bound)
                if reduction == "mean":
                    elements = in_the_mean(func, bound, elements)
        else:
            elements = func(**bound)
            if reduction == "mean":
                elements = in_the_mean(func, bound, elements)
            output = _reduced(func, bound, elements, self.weights, reduction)
        self.calls.append(
            TappedCall(
                self._losses(func, bound, elements, reduction),
                output,
                reduction,
                first.detach(),
                second,
                func,
            )
        )
        return output

    def _losses(self, func: Any, bound: dict[str, Any], elements: Tensor, reduction: str) -> Tensor:
        if self.plain and bound.get("label_smoothing"):
            with torch.no_grad():
                elements = func(**{**bound, "label_smoothing": 0.0})
        elements = elements.detach().float()
        observed = observed_elements(func, bound, elements)
        total = elements.reshape(len(elements), -1).sum(1)
        total = torch.nan_to_num(total, nan=torch.inf, posinf=torch.inf, neginf=-torch.inf)
        # A sample alone in a batch would lose the sum of its elements, or their mean.
        is_total = reduction in ("sum", "batchmean")
        if observed is None:
            return total if is_total or elements.ndim == 1 else total / elements[0].numel()
        kept = observed.reshape(len(observed), -1).sum(1)
        return torch.where(kept == 0, torch.nan, total) if is_total else total / kept


def _elements(func: Any, bound: dict[str, Any]) -> Tensor:
    """Return the loss's elements, without gradients, in little memory.

    Cross-entropy makes a second tensor of the logits' size, which is no small thing for a large
    vocabulary: it is computed for some rows at a time.
    """
    logits: Tensor | None = bound.get("input")
    if (
        func is not F.cross_entropy
        or torch.compiler.is_compiling()
        or logits is None
        or logits.ndim < 2
        or logits.numel() <= _CHUNK_NUMEL
    ):
        result: Tensor = func(**bound)
        return result
    num_chunks = min(len(logits), -(-logits.numel() // _CHUNK_NUMEL))
    size = -(-len(logits) // num_chunks)
    parts = zip(torch.split(logits, size), torch.split(bound["target"], size), strict=True)
    return torch.cat([func(**{**bound, "input": x, "target": y}) for x, y in parts])


def _reduced(
    func: Any, bound: dict[str, Any], elements: Tensor, weights: Tensor, reduction: str
) -> Tensor:
    if reduction == "none":
        return weight_gradient(elements, weights)
    shaped = weights.to(elements.dtype).view(-1, *[1] * (elements.ndim - 1))
    total = (elements * shaped).sum()
    if reduction == "sum":
        return total
    if reduction == "batchmean":
        return total / elements.shape[0]
    return total / mean_divisor(func, bound, elements)


def _is_called_by_traced_code() -> bool:
    """Say whether a traced graph makes the call, not the module.

    Dynamo's "eager" backend runs the traced calls, the tap's own among them, as Python under the
    active mode, and they must not be tapped twice. Such code has no file of its own.
    """
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code.co_filename in _BETWEEN:
        frame = frame.f_back
    # torch.nn.functional itself calls on when a mode is active
    while frame is not None and frame.f_code.co_filename == F.__file__:
        frame = frame.f_back
    return frame is not None and frame.f_code.co_filename.startswith("<eval_with_key>")
