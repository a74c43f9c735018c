"""`TrustedSamples`: training samples whose labels are known to be right, which nothing cuts.

State only: knows nothing of Lightning. Legend: ``N`` samples, ``k`` trusted ones, ``n`` of a shard.
"""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_alignprune._checks import shape_of

_HOW = "Give dataset indices, as [0, 5, 17], or a bool mask with an entry per training sample."


class TrustedSamples:
    """The samples of a training set that are kept in every selection.

    Args:
        owner: Opens the messages of errors.
        given: Dataset indices, k ints in any order, or a mask of N bools: a sequence, an array or
            a tensor.

    Raises:
        TypeError: If it holds something else than ints or bools, or has no or several dimensions.
        ValueError: If an index is negative or occurs twice, or nothing is trusted.

    Attributes:
        indices: Shape (k,), int64, ascending, on the CPU.
        num_samples: N where a mask was given, else None.

    Example:
        >>> TrustedSamples("me", [4, 1]).mask_of(torch.arange(5)).tolist()
        [False, True, False, False, True]
    """

    def __init__(self, owner: str, given: Sequence[int] | Sequence[bool] | Tensor) -> None:
        self._owner = owner
        values = _as_tensor(owner, given)
        is_mask = values.dtype == torch.bool
        self.num_samples = len(values) if is_mask else None
        indices = values.nonzero().flatten() if is_mask else values.long().sort().values
        if not len(indices):
            raise ValueError(_error(owner, "to name a sample", "none", "None trusts no sample."))
        if indices[0] < 0:
            raise ValueError(_error(owner, "to hold indices in [0, inf)", int(indices[0]), _HOW))
        twice = indices[1:][indices[1:] == indices[:-1]]
        if len(twice):
            remedy = "A mask is made of bools: torch.tensor(mask, dtype=torch.bool)."
            got = f"{int(twice[0])} twice"
            raise ValueError(_error(owner, "to hold each index once", got, remedy))
        self.indices = indices

    def check_fits(self, num_samples: int) -> None:
        """Refuse what cannot be meant for a training set of N samples.

        Raises:
            ValueError: If a mask has another length or an index lies beyond the end.
        """
        if self.num_samples is not None and self.num_samples != num_samples:
            raise ValueError(
                _error(
                    self._owner,
                    f"to have an entry for each of the {num_samples} training samples",
                    f"a mask of {self.num_samples}",
                    "Positions are those of the dataset that the train loader holds.",
                )
            )
        if self.indices[-1] >= num_samples:
            raise ValueError(
                _error(
                    self._owner,
                    f"to hold indices in [0, {num_samples}), the training samples",
                    int(self.indices[-1]),
                    "Indices are positions in the dataset that the train loader holds; those of "
                    "a Subset count from its own beginning.",
                )
            )

    def mask_of(self, indices: Tensor) -> Tensor:
        """Say which samples are trusted.

        Args:
            indices: Shape (n,), int64. Dataset indices of the samples.

        Returns:
            Shape (n,), bool, on their device. O(n log k) time.
        """
        return torch.isin(indices, self.indices.to(indices.device), assume_unique=True)

    @property
    def digest(self) -> str:
        """What tells two sets of trusted samples apart, in checkpoints and between ranks."""
        return hashlib.sha256(self.indices.numpy().tobytes()).hexdigest()


def _error(owner: str, constraint: str, got: object, remedy: str) -> str:
    return f"{owner}: expected trusted {constraint}, got {got}. {remedy}"


def _as_tensor(owner: str, given: object) -> Tensor:
    try:
        values = given if isinstance(given, Tensor) else torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError):
        values = None
    if values is None or isinstance(given, (str, bytes)):
        raise TypeError(_error(owner, "to be indices or a mask", type(given).__name__, _HOW))
    values = values.detach().cpu()
    if values.ndim == 1 and not len(values):
        values = values.bool()  # torch makes floats of an empty list
    is_whole = not (values.is_floating_point() or values.is_complex())
    if values.ndim != 1 or not is_whole:
        constraint = "to be ints or bools of one dimension"
        raise TypeError(_error(owner, constraint, shape_of(values), _HOW))
    return values
