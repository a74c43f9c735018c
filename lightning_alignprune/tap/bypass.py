"""Stretches of a network that hold no loss are called past the tap.

A tap costs several microseconds for each torch call of a step, most of them torch's own for handing
the call on, and nearly all of a step's calls are made by layers that hold no loss.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._C import (
    _get_function_stack_at,
    _len_torch_function_stack,
    _pop_torch_function_stack,
    _push_on_torch_function_stack,
)
from torch.nn.modules import module as of_all

from lightning_alignprune.tap.loss_tap import LossTap

# Their forwards call neither a loss function nor, `Flatten` from dimension 0 aside, anything that
# makes several rows of one: nothing that a tap looks at, see `LOSS_FUNCTIONS` and `WATCHED`.
_LAYERS: tuple[type[nn.Module], ...] = (
    *(nn.Sequential, nn.Identity, nn.Linear, nn.Embedding, nn.Flatten),
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
    *(nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, nn.LocalResponseNorm),
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout),
    *(nn.FeatureAlphaDropout, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d),
    *(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.LPPool1d, nn.LPPool2d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    *(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU),
    *(nn.SiLU, nn.Mish, nn.Sigmoid, nn.LogSigmoid, nn.Tanh, nn.Hardtanh, nn.Hardswish),
    *(nn.Hardsigmoid, nn.Softplus, nn.Softsign, nn.Softshrink, nn.Hardshrink, nn.Tanhshrink),
    *(nn.Threshold, nn.GLU, nn.Softmax, nn.Softmax2d, nn.Softmin, nn.LogSoftmax),
    *(nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d, nn.ReflectionPad1d, nn.ReflectionPad2d),
    *(nn.ReflectionPad3d, nn.ReplicationPad1d, nn.ReplicationPad2d, nn.ReplicationPad3d),
    *(nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d, nn.PixelShuffle),
    *(nn.PixelUnshuffle, nn.ChannelShuffle),
)
# A layer whose forward was replaced is left out.
_FORWARDS: dict[type, Any] = {
    layer: layer.forward
    for layer in _LAYERS
    if layer.forward.__module__.startswith("torch.nn.modules.")
}
_CALL = nn.Module.__call__
# Where torch looks for another way to call a module. It never copies or pickles what lies there.
_PLACE = "_compiled_call_impl"
# A bypass costs as much as a call or two that a tap hands on; these alone make three.
_WORTH_IT_ALONE = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class _Part(NamedTuple):
    """A module of a stretch as it was when looked at."""

    module: nn.Module
    num_attributes: int
    children: tuple[nn.Module | None, ...]


class Bypass:
    """Call the stretches of a network that hold no loss past an active :class:`LossTap`.

    A stretch is a module whose whole tree is made of torch's own layers: their exact classes, with
    no hook, no attribute in place of a method and no compiled call. That is looked at again in
    every call; a stretch that has changed is called as if there were no bypass, and so is one where
    the newest mode is another than a tap, where the step has flattened rows that the tap follows,
    or whose argument is more than one plain tensor.

    Args:
        network: Its stretches are found once.

    Note:
        About a microsecond a call and a third of one for each of its modules. It is active as a
        context, which leaves nothing on the modules, nor on copies that are made within it.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> with LossTap() as tap, Bypass(net):
        ...     loss = nn.functional.cross_entropy(net(torch.ones(2, 4)), torch.tensor([0, 2]))
        >>> len(tap.calls)
        1
    """

    def __init__(self, network: nn.Module) -> None:
        found, hidden = list(_stretches(network)), _in_compiled(network)
        inner = {id(part.module) for parts in found for part in parts[1:]}
        self._ways = [
            (parts[0].module.__dict__, _Way(parts))
            for parts in {id(parts[0].module): parts for parts in found}.values()
            if id(parts[0].module) not in inner
            and hidden.isdisjoint(id(part.module) for part in parts)
        ]

    def __enter__(self) -> None:
        for attributes, way in self._ways:
            attributes.setdefault(_PLACE, way)  # the user may have compiled it meanwhile

    def __exit__(self, *_: object) -> None:
        for attributes, way in self._ways:
            if attributes.get(_PLACE) is way:
                del attributes[_PLACE]


class _Way:
    """What a stretch is called by in place of ``Module._call_impl``."""

    def __init__(self, parts: list[_Part]) -> None:
        root, *others = parts
        self._module = root.module
        # the root has the way itself among its attributes
        self._parts = [root._replace(num_attributes=root.num_attributes + 1), *others]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        call: Any = self._module._call_impl
        if torch.compiler.is_compiling() or kwargs or len(args) != 1 or type(args[0]) is not Tensor:
            return call(*args, **kwargs)
        depth = _len_torch_function_stack()
        tap = _get_function_stack_at(depth - 1) if depth else None
        if type(tap) is not LossTap or tap.follows_rows or not self._is_as_it_was():
            return call(*args)
        _pop_torch_function_stack()
        try:
            return call(*args)
        finally:
            _push_on_torch_function_stack(tap)

    def _is_as_it_was(self) -> bool:
        for module, num_attributes, children in self._parts:
            kind, attributes = type(module), module.__dict__
            if (
                _FORWARDS.get(kind) is not kind.forward
                or len(attributes) != num_attributes
                or attributes["_forward_hooks"]
                or attributes["_forward_pre_hooks"]
                or attributes["_backward_hooks"]
                or attributes["_backward_pre_hooks"]
                or (children and tuple(attributes["_modules"].values()) != children)
            ):
                return False
        return nn.Module.__call__ is _CALL and not (
            of_all._global_forward_hooks
            or of_all._global_forward_pre_hooks
            or of_all._global_backward_hooks
            or of_all._global_backward_pre_hooks
        )


def _stretches(module: nn.Module) -> Iterator[list[_Part]]:
    """Yield the largest trees of layers without a loss, each with its root first."""
    if _is_compiled(module):
        return
    parts = [_Part(m, len(m.__dict__), tuple(m._modules.values())) for m in module.modules()]
    if all(_holds_no_loss(part) for part in parts):
        if len(parts) > 2 or isinstance(parts[-1].module, _WORTH_IT_ALONE):
            yield parts
        return
    for child in module.children():
        yield from _stretches(child)


def _holds_no_loss(part: _Part) -> bool:
    module, kind = part.module, type(part.module)
    is_layer = kind in _FORWARDS and (not part.children or kind is nn.Sequential)
    if not is_layer or None in part.children or any(hasattr(kind, name) for name in vars(module)):
        return False
    if isinstance(module, nn.Flatten) and module.start_dim < 1:
        return False
    tensors = (*module._parameters.values(), *module._buffers.values())
    return all(tensor is None or type(tensor) in (nn.Parameter, Tensor) for tensor in tensors)


def _is_compiled(module: nn.Module) -> bool:
    # torch's way, torch.compile's wrapper, Lightning's way; DataParallel copies attributes
    return (
        vars(module).get(_PLACE) is not None
        or "_orig_mod" in module._modules
        or getattr(module, "_compiler_ctx", None) is not None
        or isinstance(module, nn.DataParallel)
    )


def _in_compiled(network: nn.Module) -> set[int]:
    compiled = [module for module in network.modules() if _is_compiled(module)]
    return {id(module) for outer in compiled for module in outer.modules()}
