"""`Snapshot`: what a step may change on a module, remembered before it and put back after it."""

import pickle
import random
import sys
import threading
import types
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lightning_alignprune.state.sample_table import SampleTable

# What torch and Lightning keep on a module is not the step's. Buffers and flags are.
_NOT_THE_STEPS = (set(nn.Module().__dict__) | set(LightningModule().__dict__)) - {"training"}
_IMMUTABLE = (int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size)
_LEFT_ALONE = (
    Trainer,
    LightningDataModule,
    Logger,
    DataLoader,
    Dataset,
    torch.optim.Optimizer,
    type,
    types.ModuleType,
    types.FunctionType,
    types.MethodType,
)
# An object with one of these is at work in other threads: what it does is not the step's alone.
_OF_THREADS = (type(threading.Lock()), type(threading.RLock()), threading.Thread, threading.Event)
_DEEPEST = 8
_SAME_SIZE = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Snapshot:
    """Remember what a step may change on a module; the same objects get their content back.

    Attributes of all submodules and of plain objects on them: numbers, strings, tensors, arrays,
    generators, and lists, deques, dicts and sets of these, nested up to eight deep; buffers; and
    parameters that no optimizer trains, such as a teacher's. Left alone are Trainer, loggers, data
    sets and loaders, objects with threads, and what keeps its state outside of ``__dict__``.

    Args:
        module: The module.
        trained: The parameters that an optimizer trains. They are only watched, since a copy would
            take their memory again; the optimizer changes them after the step, not within it.
        others: Objects beside the module that the step works with.
        is_quick: For every step: watch parameters by their version only, which costs nothing and
            misses a change through ``.data``, and copy neither them nor a :class:`SampleTable`,
            which only training changes.

    Note:
        Tensors and buffers are copied where they are; untrained parameters to the host, since a
        frozen backbone may be large. Every parameter is read twice.
    """

    def __init__(
        self,
        module: nn.Module,
        trained: Iterable[nn.Parameter] = (),
        others: Iterable[object] = (),
        is_quick: bool = False,
    ) -> None:
        self._is_quick = is_quick
        self._versions: list[tuple[str, nn.Parameter, int]] = []
        self._trained = {id(parameter) for parameter in trained}
        self._seen: dict[int, Any] = {}  # holds the objects, so that no id is given out twice
        self._undo: list[Callable[[], None]] = []
        self._generators: list[tuple[Callable[[], Any], bytes]] = []
        self._watched: list[tuple[str, nn.Parameter, tuple[int, Tensor], Tensor | None]] = []
        with torch.no_grad():
            for name, part in module.named_modules():
                self._remember_module(part, f"{name}." if name else "", 0)
            for other in others:
                self._remember(other, 0)

    def has_drawn(self) -> bool:
        """Say whether a generator among what is remembered has moved on."""
        return any(pickle.dumps(state()) != before for state, before in self._generators)

    def put_back(self) -> list[str]:
        """Put everything back; return the names of trained parameters that have moved."""
        moved = [name for name, parameter, old in self._versions if _version(parameter) != old]
        with torch.no_grad():
            for name, parameter, mark, copy in self._watched:
                if _is_marked(parameter, mark):
                    continue
                if copy is None:
                    moved.append(name)
                else:
                    _refill(parameter, copy)
            for undo in self._undo:
                undo()
        return moved

    def _remember_module(self, part: nn.Module, prefix: str, depth: int) -> None:
        if id(part) in self._seen:
            return
        self._seen[id(part)] = part
        for name, parameter in part._parameters.items():
            if parameter is None or id(parameter) in self._seen:
                continue
            if not nn.parameter.is_lazy(parameter):
                self._seen[id(parameter)] = parameter
                if self._is_quick:
                    self._versions.append((prefix + name, parameter, _version(parameter)))
                    continue
                copy = None
                if not (parameter.requires_grad and id(parameter) in self._trained):
                    copy = _local(parameter).detach().to("cpu", copy=True)
                self._watched.append((prefix + name, parameter, _mark(parameter), copy))
        self._remember(part._buffers, depth)
        self._remember_attributes(part, _NOT_THE_STEPS, depth)

    def _remember_attributes(self, owner: Any, left_out: set[str], depth: int) -> None:
        old = {key: value for key, value in vars(owner).items() if key not in left_out}
        self._undo.append(partial(_put_attributes_back, owner, old, left_out))
        for value in old.values():
            self._remember(value, depth + 1)

    def _remember(self, value: Any, depth: int) -> None:
        if isinstance(value, (*_IMMUTABLE, *_LEFT_ALONE)) or id(value) in self._seen:
            return
        if self._is_quick and isinstance(value, SampleTable):
            return
        if isinstance(value, nn.Module):  # hidden in a list, say, to keep it out of checkpoints
            for name, part in value.named_modules():
                self._remember_module(part, f"{type(value).__name__}.{name}.", depth)
            return
        self._seen[id(value)] = value
        undo = _content_of(value)
        if undo is not None:
            self._undo.append(undo)
        state = _state_of(value)
        if state is not None:
            self._generators.append((state, pickle.dumps(state())))
        if depth > _DEEPEST:
            return
        if isinstance(value, dict):
            inside: Iterable[Any] = value.values()
        elif isinstance(value, (list, tuple, deque)):
            inside = value
        else:
            if undo is None and _is_plain_object(value):
                self._remember_attributes(value, set(), depth)
            return
        for item in list(inside):
            self._remember(item, depth + 1)


def _state_of(value: Any) -> Callable[[], Any] | None:
    """Return what tells the state of a generator of random numbers."""
    if isinstance(value, random.Random):
        return value.getstate
    if isinstance(value, torch.Generator) or _is_of_numpy(value, "RandomState"):
        get_state: Callable[[], Any] = value.get_state
        return get_state
    return partial(_bits_of, value) if _is_of_numpy(value, "Generator") else None


def _bits_of(generator: Any) -> Any:
    return generator.bit_generator.state


def _is_of_numpy(value: Any, name: str) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, getattr(numpy.random, name))


def _content_of(value: Any) -> Callable[[], None] | None:
    """Copy the content of an object that can change; return what puts it back."""
    undo: Callable[[], None] | None = None
    if isinstance(value, Tensor):
        if not nn.parameter.is_lazy(value):
            undo = partial(_refill, value, _local(value).detach().clone())
    elif isinstance(value, list):
        undo = partial(_refill_list, value, list(value))
    elif isinstance(value, (deque, set)):
        undo = partial(_refill_collection, value, type(value)(value))
    elif isinstance(value, dict):
        undo = partial(_refill_dict, value, dict(value))
    elif isinstance(value, torch.Generator):
        undo = partial(_set_state, value, value.get_state())
    elif isinstance(value, random.Random):
        undo = partial(value.setstate, value.getstate())
    elif "numpy" in sys.modules:
        undo = _content_of_numpy(value, sys.modules["numpy"])
    return undo


def _set_state(generator: torch.Generator, state: Tensor) -> None:
    generator.set_state(state)


def _content_of_numpy(value: Any, np: Any) -> Callable[[], None] | None:
    if isinstance(value, np.ndarray):
        return partial(np.copyto, value, value.copy()) if value.flags.writeable else None
    if isinstance(value, np.random.Generator):
        bits = value.bit_generator
        return partial(setattr, bits, "state", bits.state)
    if isinstance(value, np.random.RandomState):
        return partial(value.set_state, value.get_state())
    return None


def _is_plain_object(value: Any) -> bool:
    attributes = getattr(value, "__dict__", None)
    if not isinstance(attributes, dict):
        return False
    return not any(isinstance(inside, _OF_THREADS) for inside in attributes.values())


def _put_attributes_back(owner: Any, old: dict[str, Any], left_out: set[str]) -> None:
    attributes = vars(owner)  # past __setattr__, which registers modules and parameters
    for key in [key for key in attributes if key not in old and key not in left_out]:
        del attributes[key]
    for key, value in old.items():
        if key not in attributes or attributes[key] is not value:
            attributes[key] = value


def _refill_list(value: list[Any], old: list[Any]) -> None:
    if not _are_same(value, old):
        value[:] = old


def _refill_collection(value: Any, old: Any) -> None:
    if isinstance(value, set):
        if value != old:
            value.clear()
            value.update(old)
    elif not _are_same(value, old):
        value.clear()
        value.extend(old)


def _refill_dict(value: dict[Any, Any], old: dict[Any, Any]) -> None:
    if _are_same(value, old) and _are_same(value.values(), old.values()):
        return
    value.clear()
    for key, item in old.items():  # not update(), which adds up in a Counter
        value[key] = item


def _are_same(some: Any, others: Any) -> bool:
    return len(some) == len(others) and all(a is b for a, b in zip(some, others, strict=True))


def _local(tensor: Tensor) -> Tensor:
    """Return this rank's part of a sharded parameter, else the tensor."""
    part = getattr(tensor, "to_local", None)
    return tensor if part is None else part()


def _refill(tensor: Tensor, old: Tensor) -> None:
    # Through .data: no graph that saved the tensor is to notice.
    data = _local(tensor.data)
    if data.shape == old.shape:
        data.copy_(old)
    else:
        tensor.data = old.to(tensor.device)


def _mark(parameter: nn.Parameter) -> tuple[int, Tensor]:
    """Return what tells, without a copy, whether a parameter has changed.

    Its version misses what goes through ``.data``; the sum of its bits misses a permutation.
    """
    flat = _local(parameter).detach().reshape(-1)
    if flat.is_complex():
        flat = torch.view_as_real(flat).reshape(-1)
    bits = flat.view(_SAME_SIZE[flat.element_size()]).sum(dtype=torch.int64)
    return _version(parameter), bits


def _version(parameter: nn.Parameter) -> int:
    return 0 if parameter.is_inference() else parameter._version


def _is_marked(parameter: nn.Parameter, mark: tuple[int, Tensor]) -> bool:
    version, bits = _mark(parameter)
    return version == mark[0] and bool(bits == mark[1])
