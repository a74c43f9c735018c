"""How much a sample's loss still bends: the signal of instance-dependent early stopping.

Legend: ``N`` samples, ``T`` recorded epochs.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

NUM_LOSSES = 6  # the public code wants four second differences before it trusts the last three
_CHUNK_SAMPLES = 1 << 17


def mean_second_difference(losses: Tensor | Sequence[Tensor]) -> Tensor:
    """Average the last three absolute second differences of each sample's observed losses.

    ``d(e) = l(e) - 2 l(e - 1) + l(e - 2)`` over the losses in which the sample was seen, in their
    order; epochs in which it was not seen are skipped.

    Args:
        losses: Shape (T, N), or T tensors of shape (N,). NaN marks an epoch without a loss.

    Returns:
        Shape (N,), float32, at least 0; small = the loss has come to rest. NaN with fewer than six
        observed losses.

    Example:
        >>> losses = torch.tensor([2, 1.2, 0.7, 0.45, 0.33, 0.28, 0.26, 0.253]).unsqueeze(1)
        >>> mean_second_difference(losses)
        tensor([0.0377])

    Note:
        O(N * T) time; extra memory is one chunk of samples times T.
    """
    num_samples = len(losses[0])
    result = torch.empty(num_samples, device=losses[0].device)
    for start in range(0, num_samples, _CHUNK_SAMPLES):
        part = slice(start, start + _CHUNK_SAMPLES)
        newest_first = torch.stack([row[part] for row in losses][::-1]).float()
        seen = ~newest_first.isnan()
        # Row NUM_LOSSES takes everything that is too old or was not seen.
        place = torch.where(seen, seen.cumsum(0) - 1, NUM_LOSSES).clamp_(max=NUM_LOSSES)
        packed = torch.full(
            (NUM_LOSSES + 1, newest_first.shape[1]), torch.nan, device=result.device
        )
        packed.scatter_(0, place, newest_first)
        bend = (packed[0:3] - 2 * packed[1:4] + packed[2:5]).abs().mean(0)
        result[part] = torch.where(packed[NUM_LOSSES - 1].isnan(), torch.nan, bend)
    return result
