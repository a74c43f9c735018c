"""Random states of all generators a training run draws from, as primitives for a checkpoint."""

import random
import sys
from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from lightning_alignprune.trainer_access.errors import OWNER


def collect_rng_states() -> dict[str, Any]:
    """Return the states of torch, CUDA, Python and, if it is loaded, NumPy.

    Example:
        >>> states = collect_rng_states()
        >>> first = torch.rand(3)
        >>> restore_rng_states(states)
        >>> bool((torch.rand(3) == first).all())
        True
    """
    states: dict[str, Any] = {"torch": torch.get_rng_state(), "python": random.getstate()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state_all()
    if "numpy" in sys.modules:
        name, keys, *rest = sys.modules["numpy"].random.get_state()
        # A NumPy array would keep the checkpoint from loading with weights_only=True.
        states["numpy"] = (str(name), [int(key) for key in keys], *(float(x) for x in rest))
    return states


def restore_rng_states(states: dict[str, Any]) -> None:
    """Put the generators back to where :func:`collect_rng_states` found them."""
    torch.set_rng_state(states["torch"].cpu())
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([state.cpu() for state in states["cuda"]])
    if "numpy" in states and "numpy" in sys.modules:
        name, keys, position, has_gauss, cached = states["numpy"]
        sys.modules["numpy"].random.set_state((name, keys, int(position), int(has_gauss), cached))


def are_same(some: Any, others: Any) -> bool:
    """Say whether two results of :func:`collect_rng_states` are of the same moment."""
    if isinstance(some, torch.Tensor):
        return torch.equal(some, others)
    if isinstance(some, dict):
        return some.keys() == others.keys() and all(are_same(some[k], others[k]) for k in some)
    if isinstance(some, list) and some and isinstance(some[0], torch.Tensor):
        return all(map(are_same, some, others))
    return bool(some == others)


def restore_own_states(saved: dict[Any, Any], rank: int, num_ranks: int) -> None:
    """Put this rank's generators back; a rank that was not saved keeps them, and that is said.

    Args:
        saved: States by rank; those of a checkpoint of version 0.1 are of rank 0 alone.
        rank: This process.
        num_ranks: How many there are now.
    """
    by_rank = {0: saved} if "torch" in saved else saved
    missing = [str(other) for other in range(num_ranks) if other not in by_rank]
    if missing:
        rank_zero_warn(
            f"{OWNER}: the checkpoint has no random states of rank {', '.join(missing)}: dropout "
            "and augmentation go on there from the seed of this run, not as they would have. "
            "Resume on as many processes as the run was saved on to repeat it exactly."
        )
    if rank in by_rank:
        restore_rng_states(by_rank[rank])
