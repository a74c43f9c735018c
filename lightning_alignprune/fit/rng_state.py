"""Random states of all generators a training run draws from, as primitives for a checkpoint."""

import random
import sys
from typing import Any

import torch


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
