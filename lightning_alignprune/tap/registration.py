"""`register_loss`: loss functions of the user's own, read and weighted like torch's."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar, cast, overload

from torch.overrides import _get_current_function_mode_stack, handle_torch_function

from lightning_alignprune.tap.loss_functions import LOSS_FUNCTIONS, OF_CLASSES, REGISTERED
from lightning_alignprune.tap.loss_tap import LossTap

Loss = TypeVar("Loss", bound=Callable[..., Any])
_BY_POSITION = inspect.Parameter.POSITIONAL_OR_KEYWORD


def register_loss(loss: Loss) -> Loss:
    """Let the callback read a loss of your own, sample by sample, and weight it.

    Either decorate the function or class, or register one of a library and use what is returned:
    ``focal = register_loss(torchvision.ops.sigmoid_focal_loss)``. Out of training steps nothing
    changes. Torch losses that it calls inside are part of it and are not read a second time.

    Args:
        loss: A function ``loss(inputs, targets, ..., reduction=...)``, or a class of modules with
            ``forward(self, inputs, targets, ...)`` and an attribute ``reduction``. Its inputs are
            shaped (B, ...), or (B*T, ...) if the step flattens (B, T, ...). ``reduction`` may be
            ``"none"``, which gives a tensor shaped (B, ...) or (B*T, ...) whose row i depends on
            sample i only; ``"sum"``, the sum of its elements; and ``"mean"``, their mean over all
            elements. With another value a call is left alone.

    Returns:
        The function to call in place of ``loss``. A class is returned as it is, with its
        ``forward`` wrapped, for all of its instances.

    Raises:
        TypeError: If it is neither function nor class, or takes no ``reduction``.

    Note:
        Where no sample is weighted, the loss is computed a second time without gradients, so it
        must not draw random numbers. A mean with another divisor, such as the number of positive
        anchors: use ``reduction="sum"`` and divide in the step.

    Example:
        >>> import torch
        >>> @register_loss
        ... def tilted(inputs, targets, tilt=0.7, reduction="mean"):
        ...     error = targets - inputs
        ...     losses = torch.maximum(tilt * error, (tilt - 1) * error)
        ...     return losses.mean() if reduction == "mean" else losses
        >>> with LossTap(torch.arange(2)) as tap:
        ...     loss = tilted(torch.zeros(2, requires_grad=True), torch.tensor([1.0, -1.0]))
        >>> tap.calls[0].losses
        tensor([0.7000, 0.3000])
    """
    if isinstance(loss, type):
        return cast(Loss, _with_forward_registered(loss))
    if not callable(loss) or not hasattr(loss, "__name__"):
        raise TypeError(
            f"register_loss: expected a function or a class, got {type(loss).__name__}. "
            "Register the class of a module, not the module."
        )
    if loss in LOSS_FUNCTIONS:
        return loss
    parameters = inspect.signature(loss).parameters
    if "reduction" not in parameters:
        raise TypeError(
            f"register_loss: expected a parameter named reduction, got {loss.__name__} of "
            f"{', '.join(parameters) or 'nothing'}. Give it one: 'mean', 'sum' or 'none'."
        )
    return cast(Loss, _dispatching(loss, _defaults(parameters)))


@overload
def register_class_loss(loss: Loss) -> Loss: ...


@overload
def register_class_loss(*, records_cross_entropy: bool) -> Callable[[Loss], Loss]: ...


def register_class_loss(loss: Any = None, *, records_cross_entropy: bool = False) -> Any:
    """Register a loss of logits, shape (B, C), and class labels, shape (B,), its first arguments.

    Signals that read logits read it as they read cross-entropy, and a signal of the plain loss
    records its cross-entropy.

    Args:
        loss: As for :func:`register_loss`; None makes a decorator.
        records_cross_entropy: Record that in any case: for a loss that says more of what is known
            of a sample than of how hard it is.
    """
    if loss is None:
        return functools.partial(register_class_loss, records_cross_entropy=records_cross_entropy)
    registered = register_loss(loss)
    OF_CLASSES[registered] = records_cross_entropy
    return registered


def _dispatching(loss: Callable[..., Any], defaults: dict[str, Any]) -> Callable[..., Any]:
    @functools.wraps(loss)
    def dispatched(*args: Any, **kwargs: Any) -> Any:
        # Only a tap has to see it: other modes, such as a default device, see what is inside.
        modes = _get_current_function_mode_stack()  # type: ignore[no-untyped-call]
        if any(isinstance(mode, LossTap) for mode in modes):
            return handle_torch_function(dispatched, (*args, *kwargs.values()), *args, **kwargs)
        return loss(*args, **kwargs)

    LOSS_FUNCTIONS[dispatched] = defaults
    REGISTERED[dispatched] = None
    return dispatched


def _with_forward_registered(cls: Any) -> Any:
    forward = getattr(cls, "forward", None)
    if forward is None:
        raise TypeError(
            f"register_loss: expected a class with a method forward, got {cls.__name__}. "
            "Register a function."
        )
    if hasattr(forward, "is_registered_loss") or cls.__module__.startswith("torch.nn."):
        return cls

    @functools.wraps(forward)
    def loss(*args: Any, module: Any, reduction: str, **kwargs: Any) -> Any:
        before, module.reduction = module.reduction, reduction
        try:
            return forward(module, *args, **kwargs)
        finally:
            module.reduction = before

    parameters = dict(inspect.signature(forward).parameters)
    parameters.pop(next(iter(parameters)))  # self
    own = {"module": None, "reduction": "mean"}
    dispatched = _dispatching(loss, {**_defaults(parameters), **own})

    @functools.wraps(forward)
    def registered(self: Any, *args: Any, **kwargs: Any) -> Any:
        return dispatched(*args, **kwargs, module=self, reduction=self.reduction)

    registered.is_registered_loss = True  # type: ignore[attr-defined]
    cls.forward = registered
    return cls


def _defaults(parameters: Any) -> dict[str, Any]:
    kinds = (_BY_POSITION, inspect.Parameter.KEYWORD_ONLY)
    return {name: p.default for name, p in parameters.items() if p.kind in kinds}
