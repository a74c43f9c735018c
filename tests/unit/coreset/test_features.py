import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

from lightning_alignprune.coreset import FeatureHook


def make_net(bias=True):
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=True), nn.Linear(8, 3, bias=bias))


X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("bias", [True, False])
def test_what_the_layer_of_the_logits_is_given(bias):
    net = make_net(bias)
    with FeatureHook(net) as hook:
        logits = net(X)
        found = hook.features(logits)
    assert torch.equal(found, net[:2](X))
    assert hook.has_bias is bias
    assert not any(part._forward_hooks for part in net.modules())


def test_the_right_one_of_two_heads_of_one_shape():
    body, head, other = nn.Linear(4, 8), nn.Linear(8, 3), nn.Linear(4, 3)
    with FeatureHook(nn.ModuleList([body, head, other])) as hook:
        logits = head(body(X))
        other(X)
        assert torch.equal(hook.features(logits), body(X))


def test_logits_that_are_scaled_or_copied():
    net = make_net()
    with FeatureHook(net) as hook:
        assert torch.equal(hook.features(net(X) / 2.0), net[:2](X))


def test_a_named_layers_output_before_the_next_changes_it():
    net = make_net()
    with FeatureHook(net, "0") as hook:
        found = hook.features(net(X))
    assert torch.equal(found, net[0](X))
    assert (found < 0).any()
    conv = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 3))
    with FeatureHook(conv, "0") as hook:
        assert hook.features(conv(torch.zeros(5, 1, 4, 4))).shape == (5, 8)


def test_refusals():
    with pytest.raises(MisconfigurationException, match=r"layer of the module, got '7'"):
        FeatureHook(make_net(), "7")
    with pytest.raises(MisconfigurationException, match=r"Did you mean 'head'"):
        FeatureHook(nn.ModuleDict({"head": nn.Linear(1, 1)}), "hed")
    with (
        FeatureHook(nn.Conv1d(1, 1, 1)) as hook,
        pytest.raises(MisconfigurationException, match="got no linear layer that makes the logits"),
    ):
        hook.features(torch.zeros(5, 3))
