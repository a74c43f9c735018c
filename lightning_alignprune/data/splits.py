"""Hold clean samples out: seeded, disjoint parts of one pool of samples."""

import math
from numbers import Integral, Real

import torch
from torch import Tensor

from lightning_alignprune._checks import message
from lightning_alignprune.functional.draws import draw_seed

Size = int | float


def resolve_size(owner: str, argument: str, size: Size, total: int) -> int:
    """Turn a size into a count: an int is a number of samples, a float a share of ``total``.

    Args:
        owner: Opens the message.
        argument: Name of the argument, for the message.
        size: A count in [0, total], or a share in [0, 1].
        total: Samples in the pool.

    Returns:
        The count; shares are rounded to the nearest.

    Raises:
        TypeError: If ``size`` is no number.
        ValueError: If it is out of range.

    Example:
        >>> resolve_size("MyData", "val_size", 0.1, 50), resolve_size("MyData", "val_size", 7, 50)
        (5, 7)
    """
    size = check_size(owner, argument, size, total)
    return size if isinstance(size, int) else round(size * total)


def check_size(owner: str, argument: str, size: object, total: int | None = None) -> Size:
    """Return a size as a plain int, in [0, total], or float, in [0, 1].

    Raises:
        TypeError: If ``size`` is no number.
        ValueError: If it is out of range.
    """
    most = "inf)" if total is None else f"{total}]"
    constraint = f"to be an int in [0, {most} (samples) or a float in [0, 1] (share)"
    remedy = "1 is one sample, 1.0 is all." if total is None else f"The pool has {total} samples."
    if isinstance(size, bool) or not isinstance(size, Real):
        raise TypeError(message(owner, argument, constraint, size, remedy))
    plain: Size = int(size) if isinstance(size, Integral) else float(size)
    largest = 1 if isinstance(plain, float) else math.inf if total is None else total
    if not 0 <= plain <= largest:
        raise ValueError(message(owner, argument, constraint, plain, remedy))
    return plain


def hold_out(
    owner: str, total: int, seed: int, *, reference_size: Size, val_size: Size
) -> tuple[Tensor, Tensor, Tensor]:
    """Divide ``total`` samples at random into a reference, a validation and a remaining part.

    The reference part depends on the seed and its own size only, not on the size of validation.

    Args:
        owner: Opens the message.
        total: Samples in the pool.
        seed: Seed of a private generator.
        reference_size: Count or share of the reference part.
        val_size: Count or share of the validation part.

    Returns:
        Three disjoint int64 tensors, ascending, that together hold 0 to ``total - 1``.

    Raises:
        ValueError: If the parts leave nothing over.

    Example:
        >>> parts = hold_out("MyData", 10, 0, reference_size=2, val_size=0.1)
        >>> [len(part) for part in parts]
        [2, 1, 7]
    """
    num_reference = resolve_size(owner, "reference_size", reference_size, total)
    num_val = resolve_size(owner, "val_size", val_size, total)
    num_held = num_reference + num_val
    if num_held >= total:
        constraint = f"to leave some of the {total} samples"
        value = f"{num_reference} + {num_val}"
        remedy = "Hold fewer samples out."
        raise ValueError(message(owner, "reference_size + val_size", constraint, value, remedy))
    order = torch.randperm(total, generator=_generator(seed, 1))
    parts = order[:num_reference], order[num_reference:num_held], order[num_held:]
    return parts[0].sort().values, parts[1].sort().values, parts[2].sort().values


def subset(owner: str, part: Tensor, size: Size | None, seed: int) -> Tensor:
    """Draw ``size`` of the samples of ``part``, ascending; None keeps them all.

    Raises:
        ValueError: If nothing would be left.
    """
    if size is None:
        return part
    count = resolve_size(owner, "train_size", size, len(part))
    if count == 0:
        raise ValueError(message(owner, "train_size", "above 0", size, "None takes all samples."))
    order = torch.randperm(len(part), generator=_generator(seed, 2))
    return part[order[:count]].sort().values


def _generator(seed: int, stream: int) -> torch.Generator:
    # Mixed seeds: noise, hold-out and subset of one seed must not be the same permutation.
    return torch.Generator().manual_seed(draw_seed(seed, 0, stream))
