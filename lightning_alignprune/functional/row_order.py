"""Do values follow their samples when these change places? Legend: ``B`` samples of a batch."""

import torch
from torch import Tensor

# Wrong places differ by about the spread of the values, right ones by the last digits of a sum.
_TOLERANCE = 0.01
_LEAST_NOISE = 1e-5


def changed_places(num_samples: int) -> Tensor:
    """Return an order of B places in which most are not where they were, int64, always the same.

    Args:
        num_samples: B; a single sample stays where it is.

    Example:
        >>> changed_places(2).tolist()
        [1, 0]
    """
    order = unchanged = torch.arange(num_samples)
    generator = torch.Generator().manual_seed(0)
    while num_samples > 1 and torch.equal(order, unchanged):
        order = torch.randperm(num_samples, generator=generator)
    return order


def follow_samples(
    before: Tensor, after: Tensor, order: Tensor, precision: float = 1e-7
) -> bool | None:
    """Say whether ``after[i]`` is the value of the sample whose value ``before[order[i]]`` was.

    Args:
        before: Shape (B,), floats; NaN where a sample has none.
        after: Shape (B,), the values after the samples have changed places.
        order: Shape (B,), int64, which sample came to each place.
        precision: Machine epsilon of what the values were computed in.

    Returns:
        None where nothing can be told, because all values are alike.

    Example:
        >>> losses, order = torch.tensor([0.1, 2.0, 0.7]), torch.tensor([2, 0, 1])
        >>> follow_samples(losses, losses[order], order), follow_samples(losses, losses, order)
        (True, False)
    """
    expected = before[order.to(before.device)].double()
    found = after.double()
    is_finite = expected.isfinite()
    if not torch.equal(is_finite, found.isfinite()):
        return False
    expected, found = expected[is_finite], found[is_finite]
    if len(expected) < 2:
        return None
    spread = (expected - expected.mean()).abs().mean()
    noise = max(2 * precision, _LEAST_NOISE) * expected.abs().mean()
    if spread <= noise:
        return None
    return bool((found - expected).abs().mean() <= torch.maximum(_TOLERANCE * spread, noise))


def are_among(values: Tensor, others: Tensor, precision: float = 1e-7) -> bool:
    """Say whether each of ``values``, to its last digits, is one of ``others``.

    Args:
        values: Shape (B,), floats.
        others: Shape (B',), floats.
        precision: Machine epsilon of what they were computed in. False where it is so coarse that
            any value would be near another.

    Example:
        >>> are_among(torch.tensor([0.7, 0.1]), torch.tensor([0.1, 2.0, 0.7]))
        True
    """
    noise = max(2 * precision, _LEAST_NOISE)
    if noise > 1e-4 or not (len(values) and values.isfinite().all() and others.isfinite().all()):
        return False
    ordered = others.double().sort().values
    if values.max() == values.min():
        return False
    found = values.double().contiguous()
    place = torch.searchsorted(ordered, found)
    near = torch.stack([ordered[(place - shift).clamp(0, len(ordered) - 1)] for shift in (0, 1)])
    distance = (near - found).abs().amin(0).mean()
    return bool(distance <= noise * ordered.abs().mean())
