"""What is called past the tap holds nothing that the tap would see, and is left as it was."""

import copy
import io
import pickle
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils import parametrizations
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack
from torch.utils.checkpoint import checkpoint

from lightning_alignprune.tap import bypass
from lightning_alignprune.tap.bypass import Bypass
from lightning_alignprune.tap.flattening import WATCHED
from lightning_alignprune.tap.loss_functions import LOSS_FUNCTIONS
from lightning_alignprune.tap.loss_tap import LossTap

B = 4
Y = torch.tensor([0, 2, 1, 0])


def made(*layers):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), *layers, nn.Linear(8, 3))


def batch():
    return torch.randn(B, 6, generator=torch.Generator().manual_seed(1))


class Seen(TorchFunctionMode):
    """Lists every torch function called."""

    def __init__(self):
        super().__init__()
        self.functions = []
        self.shapes = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.functions.append(func)
        if func in WATCHED:
            self.shapes.append((args[0].shape, result.shape))
        return result


@pytest.fixture
def seen(monkeypatch):
    """What a tap was asked about."""
    functions, handle = [], LossTap.__torch_function__

    def noted(self, func, types, args=(), kwargs=None):
        if func is not torch.randn:
            functions.append(func)
        return handle(self, func, types, args, kwargs)

    monkeypatch.setattr(LossTap, "__torch_function__", noted)
    return functions


def step(net, way, call=None):
    with LossTap(torch.arange(B)) as tap, way:
        loss = F.cross_entropy((call or net)(batch()), Y)
    assert not any("_compiled_call_impl" in vars(module) for module in net.modules())
    assert not _get_current_function_mode_stack()
    return loss, tap


IMAGE = (B, 4, 6, 6)
ARGUMENTS = {
    "Linear": ((6, 5), IMAGE),
    "Embedding": ((6, 5), None),
    "Flatten": ((1,), IMAGE),
    "Softmax": ((1,), IMAGE),
    "Softmin": ((1,), IMAGE),
    "LogSoftmax": ((1,), IMAGE),
    "GroupNorm": ((2, 4), IMAGE),
    "LayerNorm": ((6,), IMAGE),
    "RMSNorm": ((6,), IMAGE),
    "LocalResponseNorm": ((2,), IMAGE),
    "Threshold": ((0.1, 0.0), IMAGE),
    "PixelShuffle": ((2,), IMAGE),
    "PixelUnshuffle": ((2,), IMAGE),
    "ChannelShuffle": ((2,), IMAGE),
    "Upsample": ((None, 2), IMAGE),
    "UpsamplingNearest2d": ((None, 2), IMAGE),
    "UpsamplingBilinear2d": ((None, 2), IMAGE),
}
BY_PREFIX = {"Conv": (4, 4, 3), "Batch": (4,), "Instance": (4,), "LP": (2, 2), "Adaptive": (2,)}


def arguments(kind):
    name = kind.__name__
    if name in ARGUMENTS:
        return ARGUMENTS[name]
    prefixed = [args for prefix, args in BY_PREFIX.items() if name.startswith(prefix)]
    padded = (1,) if "Pad" in name else (2,) if "Pool" in name else ()
    shape = (B, 4, *[6] * int(name[-2])) if name[-2:] in ("1d", "2d", "3d") else IMAGE
    return (prefixed[0] if prefixed else padded), shape


@pytest.mark.parametrize("kind", bypass._LAYERS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("training", [True, False])
def test_no_layer_on_the_list_does_what_a_tap_looks_at(kind, training):
    args, shape = arguments(kind)
    layer = kind(*args).train(training)
    assert bypass._holds_no_loss(bypass._Part(layer, len(vars(layer)), ()))
    x = torch.zeros(B, 6, dtype=torch.int64) if shape is None else torch.rand(shape)
    with Seen() as seen:
        layer(x)
    assert not set(seen.functions) & set(LOSS_FUNCTIONS)
    assert all(result[0] == made_of[0] for made_of, result in seen.shapes), seen.shapes


def test_layers_are_called_past_the_tap_and_give_the_same(seen):
    for net in (made(nn.BatchNorm1d(8)), made(nn.Sequential(nn.Dropout(0.5), nn.Identity()))):
        torch.manual_seed(1)
        plain, plain_tap = step(net, Bypass(nn.Identity()))
        assert F.linear in seen
        seen.clear()
        torch.manual_seed(1)
        loss, tap = step(net, Bypass(net))
        assert seen == [F.cross_entropy]
        seen.clear()
        assert torch.equal(loss, plain)
        assert torch.equal(tap.calls[0].losses, plain_tap.calls[0].losses)
        wanted = torch.autograd.grad(plain, list(net.parameters()))
        for grad, other in zip(
            torch.autograd.grad(loss, list(net.parameters())), wanted, strict=True
        ):
            assert torch.equal(grad, other)


def hidden_loss(*_):
    """As a user's regulariser in a hook, say."""
    F.mse_loss(torch.ones(B, 2, requires_grad=True), torch.zeros(B, 2))


class Loud(nn.ReLU):
    def forward(self, x):
        hidden_loss()
        return super().forward(x)


class LoudWeight(nn.Module):
    def forward(self, weight):
        hidden_loss()
        return weight


def loud_forward(net):
    forward = net[1].forward

    def loud(x):
        hidden_loss()
        return forward(x)

    net[1].forward = loud


def loud_class(net):
    net[1].__class__ = Loud


def cleared_then_hooked(net):
    net[0]._forward_hooks = OrderedDict()
    net[0].register_forward_hook(hidden_loss)


CHANGES = {
    "forward hook": lambda net: net[0].register_forward_hook(hidden_loss),
    "hook of the whole": lambda net: net.register_forward_hook(hidden_loss),
    "pre-hook": lambda net: net[2].register_forward_pre_hook(hidden_loss),
    "hooks replaced": cleared_then_hooked,
    "forward": loud_forward,
    "class": loud_class,
    "another layer": lambda net: net.__setitem__(1, Loud()),
    "one more layer": lambda net: net.append(Loud()),
    "parametrization": lambda net: nn.utils.parametrize.register_parametrization(
        net[0], "weight", LoudWeight()
    ),
}


@pytest.mark.parametrize("when", ["before", "after", "within"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_loss_inside_a_changed_layer_is_seen(change, when):
    net = made()
    if when == "before":
        CHANGES[change](net)
    way = Bypass(net)
    if when == "after":
        CHANGES[change](net)
    with LossTap(torch.arange(B)) as tap, way:
        if when == "within":
            CHANGES[change](net)
        net(batch())
    assert [call.func for call in tap.calls][:1] == [F.mse_loss]


def test_a_loss_in_a_global_hook_is_seen():
    net = made()
    with LossTap(torch.arange(B)) as tap, Bypass(net):
        handle = register_module_forward_hook(lambda module, args, result: hidden_loss())
        try:
            net(batch())
        finally:
            handle.remove()
    assert len(tap.calls) == 4


def test_a_loss_in_a_module_of_the_users_own_is_seen():
    net = nn.Sequential(made(), Loud(), nn.Linear(3, 3))
    way = Bypass(net)
    assert len(way._ways) == 1
    _, tap = step(net, way)
    assert [call.func for call in tap.calls] == [F.mse_loss, F.cross_entropy]


def test_weight_norm_is_tapped(seen):
    net = made()
    parametrizations.weight_norm(net[0])
    step(net, Bypass(net))
    assert F.linear in seen


def test_users_modes_see_every_layer(seen):
    net = made()
    way = Bypass(net)
    with Seen() as outer:
        step_tap = LossTap(torch.arange(B))
        with step_tap, way:
            net(batch())
    assert {F.linear, F.relu} <= set(outer.functions)
    assert not seen
    with LossTap(torch.arange(B)), way, Seen() as inner:
        net(batch())
    assert F.linear in inner.functions
    assert F.linear in seen


def test_without_a_tap_modes_see_every_layer():
    net = made()
    with Bypass(net), Seen() as mode:
        net(batch())
    assert F.linear in mode.functions


def test_rows_that_a_step_flattened_are_followed_through_layers():
    head = nn.Sequential(nn.Linear(6, 3), nn.LogSoftmax(1), nn.Identity())
    x, y = torch.randn(B, 5, 6), torch.randint(3, (B * 5,))
    found = []
    for way in (Bypass(nn.Identity()), Bypass(head)):
        with LossTap(torch.arange(B)) as tap, way:
            F.nll_loss(head(x.flatten(0, 1)), y)
        found.append(tap.calls[0].losses)
    assert len(found[1]) == B
    assert torch.equal(*found)


def test_a_flattening_layer_is_not_bypassed():
    net = nn.Sequential(nn.Flatten(0, 1), nn.Linear(6, 3), nn.LogSoftmax(1))
    with LossTap(torch.arange(B)) as tap, Bypass(net):
        F.nll_loss(net(torch.randn(B, 5, 6)), torch.randint(3, (B * 5,)))
    assert len(tap.calls[0].losses) == B


def test_an_exception_in_a_layer_leaves_the_tap_in_place():
    net = made()
    with LossTap(torch.arange(B)) as tap, Bypass(net):
        with pytest.raises(RuntimeError):
            net(torch.zeros(B, 7))
        assert _get_current_function_mode_stack() == [tap]
        F.cross_entropy(net(batch()), Y)
    assert len(tap.calls) == 1
    assert "_compiled_call_impl" not in vars(net)
    with pytest.raises(KeyboardInterrupt), Bypass(net):
        raise KeyboardInterrupt
    assert "_compiled_call_impl" not in vars(net)


def saved_and_loaded(net):
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "pickle": lambda net: pickle.loads(pickle.dumps(net)),
    "torch.save": saved_and_loaded,
}


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_a_copy_made_inside_a_step_is_called_itself(copied):
    net = made()
    outer = nn.ModuleList([net])
    with LossTap(torch.arange(B)), Bypass(outer):
        other, inside = copied(net), copied(outer)[0]
        assert list(net.state_dict()) == list(other.state_dict())
    assert "_compiled_call_impl" not in vars(other) | vars(inside)
    if copied is not copy.copy:
        with torch.no_grad():
            other[0].weight.zero_()
            assert not torch.equal(net(batch()), other(batch()))


def test_shared_layers_are_bypassed_where_they_are_part_of_a_stretch(seen):
    shared = made()
    net = nn.ModuleDict({"own": shared, "twice": nn.Sequential(shared, nn.ReLU(), shared[2])})
    way = Bypass(net)
    assert len(way._ways) == 1
    with LossTap(torch.arange(B)), way:
        net["twice"][:2](batch())
        seen.clear()
        net["twice"][1](net["own"](batch()))
    assert F.linear in seen
    assert not any("_compiled_call_impl" in vars(module) for module in net.modules())


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointed_layers(use_reentrant):
    net = made()
    wanted, _ = step(net, Bypass(nn.Identity()))

    def call(x):
        return checkpoint(net, x.requires_grad_(), use_reentrant=use_reentrant)

    loss, tap = step(net, Bypass(net), call)
    torch.testing.assert_close(tap.calls[0].losses.mean(), wanted.detach())
    grads = torch.autograd.grad(wanted, list(net.parameters()))
    loss.backward()
    for parameter, grad in zip(net.parameters(), grads, strict=True):
        torch.testing.assert_close(parameter.grad, grad)


def test_functional_calls_take_their_own_parameters():
    net = made()
    zeros = {name: torch.zeros_like(p) for name, p in net.named_parameters()}
    with LossTap(torch.arange(B)), Bypass(net):
        assert not torch.func.functional_call(net, zeros, batch()).any()


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_function_that_calls_layers_is_compiled_once(backend):
    torch._dynamo.reset()
    net, counter = made(), CompileCounterWithBackend(backend)
    way = Bypass(net)
    compiled = torch.compile(lambda x: net(x) + 1, backend=counter, fullgraph=True)
    for _ in range(3):
        loss, tap = step(net, way, compiled)
        assert len(tap.calls) == 1
        loss.backward()
    assert counter.frame_count == 1
    torch.testing.assert_close(loss, F.cross_entropy(net(batch()) + 1, Y))


@pytest.mark.parametrize("how", ["whole", "part", "wrapped", "attribute"])
def test_what_is_compiled_is_left_alone(how):
    torch._dynamo.reset()
    net = nn.ModuleList([made()])
    if how == "whole":
        net[0].compile(backend="eager")
    elif how == "part":
        net[0][0].compile(backend="eager")
    elif how == "wrapped":
        net.append(torch.compile(net[0], backend="eager"))
    else:
        net._compiler_ctx = {}
    assert not Bypass(net)._ways


def test_what_is_compiled_inside_a_step_stays_compiled():
    torch._dynamo.reset()
    net = made()
    with LossTap(torch.arange(B)), Bypass(net):
        net.compile(backend="eager")
        ours = net._compiled_call_impl
        net(batch())
    assert net._compiled_call_impl is ours
    with Bypass(net):
        assert net._compiled_call_impl is ours
    assert net._compiled_call_impl is ours
