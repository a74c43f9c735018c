"""Per-sample losses, and exact weights on them, out of an unmodified ``training_step``.

`LossTap` is a ``TorchFunctionMode``: while it is active, calls of torch's loss functions pass
through it, whether they come from ``F.cross_entropy`` or from ``nn.CrossEntropyLoss``. It must be
entered and left around one step, never across hooks: an exception would leave it in the process.

Legend: ``B`` samples in the batch, ``T`` rows of each where a step flattens them.
"""

import sys
from types import FrameType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import get_gradient_edge
from torch.overrides import TorchFunctionMode
from typing_extensions import override

from lightning_alignprune.tap.flattening import WATCHED, FlatRows
from lightning_alignprune.tap.loss_functions import (
    LOSS_FUNCTIONS,
    OF_CLASSES,
    REGISTERED,
    check_rows,
    cross_entropy_of,
    in_the_mean,
    lost_arguments,
    mean_divisor,
    num_rows,
    observed_elements,
    weighted_l1,
)
from lightning_alignprune.tap.tapped_step import Given, TappedCall

# Frames between the tap and whoever called the loss function.
_BETWEEN = (__file__, torch.overrides.__file__)
# Logits of one chunk of a second computation of the loss: 16 MB in float32.
_CHUNK_NUMEL = 2**22
# Torch would make a tensor of a number in every call.
_NAN = torch.tensor(torch.nan, dtype=torch.float32, device="cpu")
_REDUCTIONS = ("mean", "sum", "none", "batchmean")


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
    """Return ``values`` unchanged, with the gradients of sample i's rows times ``weights[i]``.

    Exact for any loss in which its rows only enter sample i's term, such as a focal loss.
    """
    rows = weights[:, None].expand(-1, values.shape[0] // weights.shape[0]).reshape(-1)
    shaped = rows.to(values.dtype).view(-1, *[1] * (values.ndim - 1))
    result: Tensor = _WeightedGradient.apply(values, shaped)
    return result


class LossTap(TorchFunctionMode):
    """Record per-sample losses of torch and registered loss functions, and weight them.

    Calls whose first argument has B rows are tapped, and calls of B*T rows where the step made
    that argument or its targets out of a tensor with B rows, see :class:`FlatRows`. Without
    weights the original call is made, so value and gradient are torch's own to the bit; its vector
    comes from a second call without gradients. With weights the value is
    ``sum(w * elements) / torch's own divisor``; for ``reduction="none"`` the caller's elements
    keep their values and only gradients are weighted, because the caller may do anything to them
    afterwards.

    Args:
        indices: Shape (B,), the samples of the batch; None taps calls of any batch size.
        weights: Shape (B,), float32, or None for 1.
        with_grad_only: Pass calls made with gradients disabled through unseen.
        plain: Record cross-entropy without label smoothing.
        keeps_given: Keep what loss functions gave, for a look at what the step does with it.
        known: What ``found`` was in another step of the same code; calls that had other rows
            there are of no samples here either, however many rows they have.
        opens_graph: In a step without gradients, have them from the first loss on, so that what the
            step makes of its losses can be read off a graph; that of the network is not built.

    Attributes:
        calls: What was tapped.
        found: Each call that a tap looks at, in their order: its function, and whether its rows
            are as many as the samples'. Not of a compiled step.
    """

    def __init__(
        self,
        indices: Tensor | None = None,
        weights: Tensor | None = None,
        with_grad_only: bool = True,
        plain: bool = False,
        keeps_given: bool = False,
        known: list[tuple[Any, bool]] | None = None,
        opens_graph: bool = False,
    ) -> None:
        super().__init__()
        # A tensor, not its length: torch.compile would recompile for every new int.
        self.indices = indices
        self.weights = weights
        self.with_grad_only = with_grad_only
        self.plain = plain
        self.keeps_given = keeps_given
        self.opens_graph = opens_graph
        self.calls: list[TappedCall] = []
        self.found: list[tuple[Any, bool]] = []
        # Most steps call no loss function with other rows, and have nothing to look up.
        self._known = known if known and not all(has_samples for _, has_samples in known) else None
        self._flat_rows = FlatRows()

    @property
    def follows_rows(self) -> bool:
        """Whether the step has flattened rows, so that what it does to them matters."""
        return bool(self._flat_rows)

    @override
    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in WATCHED:  # two look-ups are all that most of a step's calls cost
            result = func(*args, **kwargs)
            if args and (WATCHED[func] or self._flat_rows):
                self._flat_rows.watch(func, args[0], result, self.indices)
            return result
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
        evaluate = func
        if func is F.l1_loss and torch.compiler.is_compiling() and bound.get("weight") is not None:
            evaluate, args, kwargs = weighted_l1, (), dict(bound)
        num_samples = self._noted(func, self._num_samples(func, bound, first, second))
        if num_samples is None:
            return evaluate(*args, **kwargs)
        reduction = bound["reduction"]
        bound["reduction"] = "none"
        if self.weights is None:
            output = evaluate(*args, **kwargs)
            elements = output if reduction == "none" else _without_grad(evaluate, bound)
        else:
            elements = evaluate(**bound)
        if func in REGISTERED:
            check_rows(func, elements, first.shape[0])
        elif elements.ndim == 0 or elements.shape[0] != num_rows(func, first):
            # One sample's logits, as many as the batch has samples, or a broadcast target.
            return evaluate(*args, **kwargs) if self.weights is not None else output
        if reduction == "mean":
            elements = in_the_mean(func, bound, elements)
        if self.weights is not None:
            output = _reduced(func, bound, elements, self.weights, reduction)
        if self.opens_graph and not torch.compiler.is_compiling():
            torch.set_grad_enabled(True)
            output = output.detach().requires_grad_().clone()  # which may be changed in place
        observed = observed_elements(func, bound)
        losses = self._losses(func, bound, elements, observed, reduction, num_samples)
        logits, place = first.detach(), self._given(output)
        self.calls.append(
            TappedCall(losses, output, reduction, logits, second, func, observed, place)
        )
        return output

    def _num_samples(self, func: Any, bound: dict[str, Any], first: Any, second: Any) -> int | None:
        """Return how many samples the rows of a call are of; None leaves the call alone."""
        if (
            bound.get("size_average") is not None
            or bound.get("reduce") is not None
            or (self.with_grad_only and not torch.is_grad_enabled())
            or not isinstance(first, Tensor)
            or first.ndim == 0
            or bound["reduction"] not in _REDUCTIONS
        ):
            return None
        rows = num_rows(func, first)
        if self.indices is not None and rows == self.indices.shape[0]:
            return None if func is F.ctc_loss and first.ndim != 3 else rows
        if func is F.ctc_loss:
            return rows if self.indices is None and first.ndim == 3 else None
        found = self._flat_rows.num_samples((first, second), rows)
        return rows if self.indices is None and found is None else found

    def _noted(self, func: Any, num_samples: int | None) -> int | None:
        """Note a call in ``found``; return its samples, or None if it is known to have none."""
        # A compiled step would be compiled again for every other list.
        if (self.with_grad_only and not torch.is_grad_enabled()) or torch.compiler.is_compiling():
            return num_samples
        known, place = self._known, len(self.found)
        self.found.append((func, num_samples is not None))
        if num_samples is None or known is None or known[place : place + 1] != [(func, False)]:
            return num_samples
        return None if known[:place] == self.found[:place] else num_samples

    def _given(self, output: Tensor) -> Given | None:
        if not self.keeps_given or torch.compiler.is_compiling() or not output.requires_grad:
            return None
        return Given(get_gradient_edge(output), output.detach().clone())

    def _losses(
        self,
        func: Any,
        bound: dict[str, Any],
        elements: Tensor,
        observed: Tensor | None,
        reduction: str,
        num_samples: int,
    ) -> Tensor:
        if self.plain and bound.get("label_smoothing"):
            elements = _without_grad(func, {**bound, "label_smoothing": 0.0})
        elif func in OF_CLASSES and (self.plain or OF_CLASSES[func]):
            logits, labels = list(bound.values())[:2]
            elements = _without_grad(F.cross_entropy, cross_entropy_of(logits, labels))
        if elements.requires_grad or elements.dtype is not torch.float32:
            elements = elements.detach().float()
        is_one_each = elements.ndim == 1 and elements.shape[0] == num_samples
        total = elements if is_one_each else elements.reshape(num_samples, -1).sum(1)
        total = total.nan_to_num(torch.inf, torch.inf, -torch.inf)
        if is_one_each:
            return total if observed is None else torch.where(observed, total, _NAN)
        if reduction == "batchmean":  # over rows
            total = total / (elements.shape[0] // num_samples)
        # A sample alone in a batch would lose the sum of its elements, or their mean.
        is_total = reduction in ("sum", "batchmean")
        if observed is None:
            return total if is_total else total / (elements.numel() // num_samples)
        kept = observed.reshape(num_samples, -1).sum(1)
        return torch.where(kept == 0, torch.nan, total) if is_total else total / kept


def _without_grad(func: Any, bound: dict[str, Any]) -> Tensor:
    """Return the loss's elements without a graph."""
    if func in REGISTERED or func is F.triplet_margin_with_distance_loss:  # may hold parameters
        with torch.no_grad():
            return _elements(func, bound)
    is_attached = {name: getattr(value, "requires_grad", False) for name, value in bound.items()}
    detached = {name: bound[name].detach() for name, attached in is_attached.items() if attached}
    return _elements(func, {**bound, **detached})  # half of what no_grad costs


def _elements(func: Any, bound: dict[str, Any]) -> Tensor:
    """Return the loss's elements in little memory.

    Cross-entropy makes a second tensor of the logits' size, which is no small thing for a large
    vocabulary: it is computed for some rows at a time, and for some positions of a single row.
    """
    logits: Tensor | None = bound.get("input")
    if (
        func is not F.cross_entropy
        or logits is None
        or logits.ndim < 2
        or logits.numel() <= _CHUNK_NUMEL
        or torch.compiler.is_compiling()
        or logits.numel() == logits.shape[1]  # one row over the classes is as little as there is
    ):
        result: Tensor = func(**bound)
        return result
    dim = 0 if len(logits) > 1 else max(range(2, logits.ndim), key=lambda d: logits.shape[d])
    target, without_classes = bound["target"], max(dim - 1, 0)
    num_chunks = min(logits.shape[dim], -(-logits.numel() // _CHUNK_NUMEL))
    size = -(-logits.shape[dim] // num_chunks)
    target_dim = dim if target.is_floating_point() else without_classes
    parts = zip(torch.split(logits, size, dim), torch.split(target, size, target_dim), strict=True)
    elements = [_elements(func, {**bound, "input": x, "target": y}) for x, y in parts]
    return torch.cat(elements, without_classes)


def _reduced(
    func: Any, bound: dict[str, Any], elements: Tensor, weights: Tensor, reduction: str
) -> Tensor:
    if reduction == "none":
        return weight_gradient(elements, weights)
    of_samples = elements.reshape(weights.shape[0], -1)
    total = (of_samples * weights.to(elements.dtype)[:, None]).sum()
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
