"""Floats as integers of the same order, and the k-th smallest integer over ranks."""

from collections.abc import Callable

import torch
from torch import Tensor

_RADIX_BITS = 13
_TOP_SHIFT = 52  # five digits: 12 bits, then four times 13


def ordered_keys(values: Tensor) -> Tensor:
    """Map floats without NaN to integers that sort alike: int64 for float64, else int32."""
    values = values if values.dtype == torch.float64 else values.float()
    return _flip(values.view(torch.int64 if values.dtype == torch.float64 else torch.int32))


def from_keys(keys: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Turn keys, of any integer type, back into the float32 or float64 values they stand for."""
    integer = torch.int64 if dtype == torch.float64 else torch.int32
    return _flip(keys.to(integer)).view(dtype)


def _flip(bits: Tensor) -> Tensor:
    # IEEE floats are sign and magnitude: as integers the negative ones are in reverse order.
    num_bits = bits.element_size() * 8
    return bits ^ ((bits >> (num_bits - 1)) & ((1 << (num_bits - 1)) - 1))


def kth_smallest(
    keys: Tensor, count: int, all_reduce: Callable[[Tensor], Tensor] | None = None
) -> int | None:
    """Find the count-th smallest key over all ranks; None if there are no more than ``count``.

    Args:
        keys: Shape (n,), int64, this rank's share.
        count: At least 1.
        all_reduce: Sums over ranks; with it the search takes five histograms of 64 kB each.
    """
    if all_reduce is None and count >= len(keys):
        return None
    if all_reduce is None and keys.is_cuda:
        return int(keys.kthvalue(count).values)
    if all_reduce is None:
        # NumPy partitions with vector instructions, several times as fast as torch's kthvalue.
        copy = keys.clone()
        copy.numpy().partition(count - 1)
        return int(copy[count - 1])
    bins = 1 << _RADIX_BITS
    remaining, prefix = keys, 0
    for level, shift in enumerate(range(_TOP_SHIFT, -1, -_RADIX_BITS)):
        digit = remaining >> shift
        digit = digit + bins // 2 if level == 0 else digit & (bins - 1)  # the top one has the sign
        histogram = torch.bincount(digit, minlength=bins)
        below = all_reduce(histogram).cumsum(0)
        if level == 0 and int(below[-1]) <= count:
            return None
        at = int((below < count).sum())
        count -= int(below[at - 1]) if at else 0
        remaining = remaining[digit == at]
        prefix = at - bins // 2 if level == 0 else prefix * bins + at
    return prefix
