"""Which tensors of a step are (B, T, ...) flattened to (B*T, ...), sample after sample?

A shape does not tell: B*T rows may as well be T steps of B samples, or two views of each sample one
behind the other. So what a step flattens is watched as it does it.

Legend: ``B`` samples in the batch, ``T`` rows of each, such as its tokens.
"""

import weakref
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_RESHAPES = (
    Tensor.view,
    Tensor.view_as,
    Tensor.reshape,
    Tensor.reshape_as,
    Tensor.flatten,
    Tensor.ravel,
    torch.reshape,
    torch.flatten,
    torch.ravel,
)
# What is often done to flat rows before the loss, row by row.
_ROW_BY_ROW = (
    Tensor.float,
    Tensor.long,
    Tensor.to,
    Tensor.contiguous,
    Tensor.sigmoid,
    torch.sigmoid,
    Tensor.log_softmax,
    torch.log_softmax,
    F.log_softmax,
    F.linear,
)
#: Function -> whether it may have made more rows of its first argument.
WATCHED: dict[Any, bool] = dict.fromkeys(_RESHAPES, True) | dict.fromkeys(_ROW_BY_ROW, False)
# A compiled step gives back all that is kept, so it keeps the newest: logits, labels, masks.
_MOST_TRACED = 4


class FlatRows:
    """Tensors whose T consecutive rows belong to one sample, and their numbers of samples.

    Eager tensors are held weakly. A compiled step cannot do that; it keeps the newest few.
    """

    def __init__(self) -> None:
        self._flat: list[tuple[weakref.ref[Tensor], int]] = []
        # Beside each a tensor with B rows: a number would make torch.compile compile anew.
        self._traced: list[tuple[Tensor, Tensor]] = []

    def __bool__(self) -> bool:
        return bool(self._flat or self._traced)

    def watch(self, func: Any, source: Tensor, result: Tensor, batch: Tensor | None) -> None:
        """Note ``result`` if its rows are those of samples in order, several for each.

        Args:
            func: One of ``WATCHED``, which made ``result`` of ``source``.
            source: Has B rows, or is known to be flat already.
            result: Reading the same elements in the same order, its rows lie sample after sample.
            batch: Has B rows; None takes any number.
        """
        if torch.compiler.is_compiling():
            witness = self._traced_witness(source)
            if witness is None and _may_be_samples(func, source, batch):
                witness = source if batch is None else batch
            if witness is not None and _has_several_rows(result, witness.shape[0]):
                self._traced = [*self._traced[1 - _MOST_TRACED :], (result, witness)]
            return
        num_samples = self._num_samples_of(source)
        if num_samples is None and _may_be_samples(func, source, batch):
            num_samples = source.shape[0]
        if num_samples is not None and _has_several_rows(result, num_samples):
            self._flat.append((weakref.ref(result), num_samples))

    def num_samples(self, tensors: tuple[Any, ...], num_rows: int) -> int | None:
        """Return the samples of a call by those of its arguments that are flat; None if none is."""
        for tensor in tensors:
            if not isinstance(tensor, Tensor) or tensor.ndim == 0 or tensor.shape[0] != num_rows:
                continue
            witness = self._traced_witness(tensor)
            found = self._num_samples_of(tensor) if witness is None else witness.shape[0]
            if found is not None:
                return found
        return None

    def _num_samples_of(self, tensor: Tensor) -> int | None:
        for flat, num_samples in self._flat:
            if flat() is tensor:
                return num_samples
        return None

    def _traced_witness(self, tensor: Tensor) -> Tensor | None:
        for flat, witness in self._traced:
            if flat is tensor:
                return witness
        return None


def _may_be_samples(func: Any, source: Tensor, batch: Tensor | None) -> bool:
    if not WATCHED[func] or source.ndim < 2:
        return False
    return batch is None or source.shape[0] == batch.shape[0]


def _has_several_rows(tensor: Tensor, num_samples: int) -> bool:
    if tensor.ndim == 0 or tensor.shape[0] <= num_samples:
        return False
    return num_samples > 0 and tensor.shape[0] % num_samples == 0
