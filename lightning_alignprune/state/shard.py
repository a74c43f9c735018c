"""`Shard`: the samples whose losses one rank keeps, and what it tells the others about them.

State only: knows nothing of Lightning. Legend: ``N`` samples, ``R`` ranks, ``n`` samples of a
shard.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_PIECE = 1 << 24  # entries that are gathered at a time, to bound the memory on the device
_PER_SAMPLE = ("rows", "dropped", "first", "running", "row_means")
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Shard:
    """The samples i with ``i % R == rank``; with one rank, all of them.

    What a rank keeps at position j belongs to sample ``j * R + rank``. Dealing the samples out in
    turn spreads sorted data sets evenly.

    Args:
        num_samples: N, the length of the data set.
        num_ranks: R, at most N.
        rank: This process's rank, in [0, R).
        all_reduce: Sums a tensor over the ranks; needed if there are several.

    Example:
        >>> shard = Shard(num_samples=7, num_ranks=3, rank=1, all_reduce=lambda x: x)
        >>> shard.num_own, shard.indices().tolist(), shard.positions_of(torch.tensor([4])).tolist()
        (2, [1, 4], [1])
    """

    def __init__(
        self,
        num_samples: int,
        num_ranks: int = 1,
        rank: int = 0,
        all_reduce: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        assert num_ranks == 1 or all_reduce is not None, "several ranks and no way to add up"
        self.num_samples, self.num_ranks, self.rank = num_samples, num_ranks, rank
        self.num_own = len(range(rank, num_samples, num_ranks))
        self.all_reduce = all_reduce if num_ranks > 1 else None

    @property
    def is_whole(self) -> bool:
        """Whether this rank keeps the losses of every sample."""
        return self.num_ranks == 1

    def indices(self, device: torch.device | str = "cpu") -> Tensor:
        """Data-set indices of the shard, shape (n,), int64."""
        return torch.arange(self.rank, self.num_samples, self.num_ranks, device=device)

    def positions_of(self, indices: Tensor) -> Tensor:
        """Turn data-set indices of the shard into positions within it."""
        return indices if self.is_whole else indices // self.num_ranks

    def indices_of(self, positions: Tensor) -> Tensor:
        """Turn positions within the shard into data-set indices."""
        return positions if self.is_whole else positions * self.num_ranks + self.rank

    def total(self, value: Tensor) -> Tensor:
        """Sum a tensor over the shards: one collective, none with one rank."""
        return value if self.all_reduce is None else self.all_reduce(value)

    def counts(self, count: Tensor) -> list[int]:
        """Tell every rank's count, in the order of the ranks: one collective."""
        counts = torch.zeros(self.num_ranks, dtype=torch.int64, device=count.device)
        counts[self.rank] = count
        values: list[int] = self.total(counts).tolist()
        return values

    def gathered(self, state: Any) -> Any:
        """Put the shards in a state together: every tensor of shape (n,) becomes one of (N,).

        Only rank 0 gets the result, in host memory; all ranks must call alike.
        """
        return state if self.is_whole else _mapped(state, self.num_own, self._gathered)

    def own(self, state: Any) -> Any:
        """Cut this shard out of a state: every tensor of shape (N,) becomes one of (n,)."""
        return state if self.is_whole else _mapped(state, self.num_samples, self._own)

    def gathered_trajectories(self, state: dict[str, Any]) -> dict[str, Any]:
        """Put the shards of a state of ``LossTrajectories`` together, as :meth:`gathered` does."""
        parts = {key: self.gathered(state.get(key)) for key in _PER_SAMPLE}
        return {**state, **parts, "num_samples": self.num_samples}

    def own_trajectories(self, state: dict[str, Any]) -> dict[str, Any]:
        """Cut this shard out of a state of ``LossTrajectories``; a state of another set stays."""
        if self.is_whole or state["num_samples"] != self.num_samples:
            return state
        return {
            **state,
            **{key: self.own(state.get(key)) for key in _PER_SAMPLE},
            "num_samples": self.num_own,
        }

    def _own(self, values: Tensor) -> Tensor:
        return values[self.rank :: self.num_ranks].clone()

    def _gathered(self, values: Tensor) -> Tensor:
        # Bit patterns, of which all ranks but one add zeros: exact for every dtype, NaN included.
        assert self.all_reduce is not None
        bits = _BITS[values.element_size()]
        sent = torch.int32 if bits == torch.int16 else bits  # no backend adds int16
        length = -(-self.num_samples // self.num_ranks)
        step = max(1, _PIECE // self.num_ranks)
        pieces = []
        for start in range(0, length, step):
            part = values[start : start + step].view(bits)
            shape = (min(step, length - start), self.num_ranks)
            piece = torch.zeros(shape, dtype=sent, device=values.device)
            piece[: len(part), self.rank] = part.to(sent)
            piece = self.all_reduce(piece)
            if self.rank == 0:
                pieces.append(piece.flatten().to(device="cpu", dtype=bits).view(values.dtype))
        return torch.cat(pieces)[: self.num_samples] if pieces else values


def _mapped(state: Any, length: int, function: Callable[[Tensor], Tensor]) -> Any:
    """Apply ``function`` to the tensors of shape (length,) in nested dicts and lists."""
    if isinstance(state, Tensor):
        return function(state) if state.shape == (length,) else state
    if isinstance(state, dict):
        return {key: _mapped(value, length, function) for key, value in state.items()}
    if isinstance(state, list):
        return [_mapped(value, length, function) for value in state]
    return state
