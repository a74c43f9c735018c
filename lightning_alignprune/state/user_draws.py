"""What a user's sampler draws in an epoch, whatever generator it draws from.

State only: knows nothing of Lightning.
"""

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torch.utils.data import Sampler

from lightning_alignprune.functional.draws import draw_seed

_NUMPY_SEEDS = 1 << 32


def draw(base: Iterable[int], seed: int, epoch: int) -> Tensor:
    """Iterate a user's sampler for an epoch.

    Its ``set_epoch`` is called, as Lightning would. The global generators of torch, NumPy and
    Python, and those that the sampler or a sampler within it keeps as attributes, are seeded by
    (seed, epoch) and put back after: the draw is another one each epoch, the same on every rank
    and after a resume, and leaves no trace. A generator that is kept elsewhere, such as in a
    module, simply goes on.

    Returns:
        What it drew, in its order, int64.
    """
    with _drawing(base, seed, epoch):
        return torch.tensor(list(base), dtype=torch.int64)


def draw_batches(base: Iterable[list[int]], seed: int, epoch: int) -> list[list[int]]:
    """Iterate a user's batch sampler for an epoch, as :func:`draw` does a sampler.

    A ``set_epoch`` of the sampler within it is called too, as Lightning would.
    """
    _set_epoch(getattr(base, "sampler", None), epoch)
    with _drawing(base, seed, epoch):
        return [list(batch) for batch in base]


def _set_epoch(base: object, epoch: int) -> None:
    set_epoch = getattr(base, "set_epoch", None)
    if callable(set_epoch):
        set_epoch(epoch)


@contextmanager
def _drawing(base: Iterable[Any], seed: int, epoch: int) -> Iterator[None]:
    _set_epoch(base, epoch)
    with isolate_rng(), _own_generators_seeded(base, seed, epoch):
        start = draw_seed(seed, epoch)
        torch.manual_seed(start)
        random.seed(start)
        np.random.set_state(np.random.RandomState(start % _NUMPY_SEEDS).get_state())
        yield


@contextmanager
def _own_generators_seeded(base: Iterable[Any], seed: int, epoch: int) -> Iterator[None]:
    generators = _own_generators(base)
    before = [_state(generator) for generator in generators]
    try:
        for stream, generator in enumerate(generators):
            _seed(generator, draw_seed(seed, epoch, stream))
        yield
    finally:
        for generator, state in zip(generators, before, strict=True):
            _put_back(generator, state)


def _own_generators(base: Iterable[Any]) -> list[Any]:
    found: list[Any] = []
    queue: list[Any] = [getattr(base, "generator", None), base]
    seen: set[int] = set()
    while queue:
        thing = queue.pop(0)
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if _is_generator(thing):
            found.append(thing)
        elif thing is base or isinstance(thing, Sampler):
            queue += getattr(thing, "__dict__", {}).values()
    return found


def _is_generator(thing: Any) -> bool:
    if isinstance(thing, np.random.Generator):
        # Only NumPy's own bit generators are known to take a seed.
        return type(thing.bit_generator).__module__.startswith("numpy.")
    if isinstance(thing, random.Random):
        return not isinstance(thing, random.SystemRandom)  # which has no state
    return isinstance(thing, (torch.Generator, np.random.RandomState))


def _state(generator: Any) -> Any:
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    is_pythons = isinstance(generator, random.Random)
    return generator.getstate() if is_pythons else generator.get_state()


def _put_back(generator: Any, state: Any) -> None:
    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    else:
        generator.set_state(state)


def _seed(generator: Any, seed: int) -> None:
    if isinstance(generator, torch.Generator):
        generator.manual_seed(seed)
    elif isinstance(generator, random.Random):
        generator.seed(seed)
    elif isinstance(generator, np.random.Generator):
        # The constructors of bit generators differ in their stubs, not in taking a seed.
        fresh: Any = type(generator.bit_generator)
        generator.bit_generator.state = fresh(seed).state
    else:
        generator.seed(seed % _NUMPY_SEEDS)
