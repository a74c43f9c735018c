"""Random draws that belong to a sample, not to a generator's position.

A policy that flips a coin for sample ``i`` in epoch ``e`` must get the same coin on every rank, on
every device, after a resume, and when a rank holds only its own share of the data set. A stateful
generator gives none of this; a hash of ``(seed, epoch, i)`` gives all of it.

Legend: ``N`` samples.
"""

import torch
from torch import Tensor

_MASK64 = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_CHUNK_CPU = 1 << 15  # ten passes over a chunk that stays in the cache
_MIX1, _MIX2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def _signed(value: int) -> int:
    value &= _MASK64
    return value - (1 << 64) if value >> 63 else value


def _mix_int(value: int) -> int:
    value = (value + _GOLDEN) & _MASK64
    value = ((value ^ (value >> 30)) * _MIX1) & _MASK64
    value = ((value ^ (value >> 27)) * _MIX2) & _MASK64
    return value ^ (value >> 31)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    # torch shifts int64 arithmetically; the mask makes the shift logical.
    return (x >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def draw_seed(seed: int, epoch: int, stream: int = 0) -> int:
    """Mix a run seed, an epoch and a stream number into one seed below 2**63.

    Example:
        >>> draw_seed(0, 1) == draw_seed(0, 1), draw_seed(0, 1) == draw_seed(0, 2)
        (True, False)
    """
    mixed = _mix_int(_mix_int(_mix_int(seed & _MASK64) + (epoch & _MASK64)) + (stream & _MASK64))
    return mixed >> 1


def sample_keys(indices: Tensor, seed: int, epoch: int, stream: int = 0) -> Tensor:
    """Give each sample a random 64-bit key that depends on ``(seed, epoch, stream, index)`` only.

    The map is SplitMix64's finaliser, a bijection of the index: no two samples of an epoch share a
    key, so "the k smallest keys" is an exact draw of k samples without replacement.

    Args:
        indices: Shape (N,), int64. Sample indices.
        seed: The run's seed, any int.
        epoch: The epoch the draw is for.
        stream: Number of the draw, when one epoch needs several independent ones.

    Returns:
        Shape (N,), int64 over its whole range, on the device of ``indices``.

    Example:
        >>> sample_keys(torch.arange(3), seed=0, epoch=1).argsort().tolist()
        [0, 1, 2]

    Note:
        Ten elementwise passes; no host synchronisation.
    """
    salt = _signed(_mix_int(draw_seed(seed, epoch, stream)))
    keys = torch.empty_like(indices)
    size = max(1, len(indices)) if indices.is_cuda else _CHUNK_CPU
    for start in range(0, len(indices), size):
        keys[start : start + size] = _mixed(indices[start : start + size], salt)
    return keys


def _mixed(indices: Tensor, salt: int) -> Tensor:
    x = indices * _signed(_GOLDEN)
    x += salt
    x ^= _shift_right(x, 30)
    x *= _signed(_MIX1)
    x ^= _shift_right(x, 27)
    x *= _signed(_MIX2)
    x ^= _shift_right(x, 31)
    return x


def uniform(indices: Tensor, seed: int, epoch: int, stream: int = 0) -> Tensor:
    """Give each sample a uniform number in [0, 1), reproducible as :func:`sample_keys`.

    Returns:
        Shape (N,), float64, a multiple of 2**-53.

    Example:
        >>> values = uniform(torch.arange(10_000), seed=0, epoch=0)
        >>> round(values.mean().item(), 1)
        0.5
    """
    keys = sample_keys(indices, seed, epoch, stream)
    return _shift_right(keys, 11).double().mul_(2.0**-53)
