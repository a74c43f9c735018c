"""The loss functions that the tap understands, and the divisors of their means."""

import inspect
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_FUNCTIONS: tuple[Callable[..., Tensor], ...] = (
    F.cross_entropy,
    F.nll_loss,
    F.binary_cross_entropy,
    F.binary_cross_entropy_with_logits,
    F.mse_loss,
    F.l1_loss,
    F.smooth_l1_loss,
    F.huber_loss,
    F.kl_div,
    F.poisson_nll_loss,
    F.gaussian_nll_loss,
    F.soft_margin_loss,
    F.multi_margin_loss,
    F.multilabel_margin_loss,
    F.multilabel_soft_margin_loss,
    F.hinge_embedding_loss,
    F.margin_ranking_loss,
    F.cosine_embedding_loss,
    F.triplet_margin_loss,
    F.triplet_margin_with_distance_loss,
    F.ctc_loss,
)
#: Function -> its parameters in order, with their defaults.
LOSS_FUNCTIONS: dict[Any, dict[str, Any]] = {
    func: {name: p.default for name, p in inspect.signature(func).parameters.items()}
    for func in _FUNCTIONS
}
#: Those of the user's own among them.
# A dict, as dynamo of torch 2.6 cannot look up a user's function in a set.
REGISTERED: dict[Any, None] = {}
#: Registered ones of logits (B, C) and class labels; whether their cross-entropy is recorded.
OF_CLASSES: dict[Any, bool] = {}
_WITH_IGNORE_INDEX = (F.cross_entropy, F.nll_loss)
# Their `weight` is a weight of elements whose sum divides the mean; Huber's mean is over elements.
_DIVIDED_BY_ELEMENT_WEIGHT = (F.mse_loss, F.l1_loss)
# torch (2.14 at least) hands on its arguments to a mode without this one.
_LOST_ARGUMENTS = {F.l1_loss: "weight"}
_IGNORE_INDEX = -100


def lost_arguments(func: Any, frame: FrameType | None) -> dict[str, Any]:
    """Return what torch forgets to hand on to a mode, read where ``func`` itself was called.

    Args:
        func: The loss function.
        frame: Of the mode's handler; ``func``'s own is a few frames up.
    """
    name = _LOST_ARGUMENTS.get(func)
    if name is None or name not in LOSS_FUNCTIONS[func]:
        return {}
    while frame is not None and frame.f_code is not func.__code__:
        frame = frame.f_back
    value = None if frame is None else frame.f_locals.get(name)
    return {} if value is None else {name: value}


def weighted_l1(
    input: Tensor,
    target: Tensor,
    size_average: None = None,
    reduce: None = None,
    reduction: str = "mean",
    *,
    weight: Tensor,
) -> Tensor:
    """Return ``F.l1_loss`` with a weight, of operations that a compiled step does not lose it in.

    A compiled step calls ``F.l1_loss`` again under the mode, which torch does not hand it on to.
    """
    elements = (input - target).abs() * weight
    if reduction == "none":
        return elements
    return elements.sum() if reduction == "sum" else elements.sum() / weight.sum()


def cross_entropy_of(logits: Tensor, labels: Tensor) -> dict[str, Any]:
    """Return the arguments of ``F.cross_entropy`` that give each sample's."""
    given = {"input": logits, "target": labels, "reduction": "none"}
    return {**LOSS_FUNCTIONS[F.cross_entropy], **given}


def check_rows(func: Any, elements: Tensor, rows: int) -> None:
    """Raise a ValueError if a registered loss gives elements of other rows than its inputs."""
    if elements.ndim == 0 or elements.shape[0] != rows:
        raise ValueError(
            f"register_loss: expected {func.__name__} to give {rows} rows with reduction='none', "
            f"one for each of its inputs', got shape {tuple(elements.shape)}. "
            "Reduce over everything but the first dimension, or return sample_loss."
        )


def num_rows(func: Any, first: Tensor) -> int:
    """Return how many samples a call has by the shape of its first argument."""
    if func is F.ctc_loss:  # (T, B, C), or (T, C) for one sample
        return first.shape[1] if first.ndim == 3 else 1
    return first.shape[0]


def in_the_mean(func: Any, bound: dict[str, Any], elements: Tensor) -> Tensor:
    """Return ``elements`` as torch's ``reduction="mean"`` takes their mean."""
    if func is not F.ctc_loss:
        return elements
    lengths = torch.as_tensor(bound["target_lengths"], device=elements.device)
    return elements / lengths.clamp(min=1).to(elements.dtype)


def observed_elements(func: Any, bound: dict[str, Any]) -> Tensor | None:
    """Return which elements count, of their shape, bool; None if all do."""
    if func not in _WITH_IGNORE_INDEX or bound["target"].is_floating_point():
        return None
    target: Tensor = bound["target"]
    return target.ne(bound.get("ignore_index", _IGNORE_INDEX))


def mean_divisor(func: Any, bound: dict[str, Any], elements: Tensor) -> Tensor | int:
    """Return what torch divides the sum of ``elements`` by for ``reduction="mean"``."""
    weight: Tensor | None = bound.get("weight")
    if func in _DIVIDED_BY_ELEMENT_WEIGHT and weight is not None:
        return weight.sum()
    if func not in _WITH_IGNORE_INDEX:
        return elements.numel()
    target: Tensor = bound["target"]
    if target.is_floating_point():
        # Class probabilities: the mean is over samples and positions; ignore_index does not apply.
        return elements.numel()
    kept = target.ne(bound.get("ignore_index", _IGNORE_INDEX))
    if weight is None:
        return kept.sum()
    return (weight[torch.where(kept, target, 0)] * kept).sum()
