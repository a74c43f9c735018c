"""Networks: the published sizes, the shapes, and heads of the right width."""

import sys

import pytest
import torch
from torch import nn

from lightning_alignprune.models import cifar_resnet18, mlp3, small_cnn, torchvision_network
from lightning_alignprune.models.networks import network_by_name


@pytest.mark.parametrize(("num_classes", "expected"), [(10, 11_173_962), (100, 11_220_132)])
def test_cifar_resnet18_has_the_published_number_of_parameters(num_classes, expected) -> None:
    network = cifar_resnet18(num_classes)
    assert sum(p.numel() for p in network.parameters()) == expected


def test_cifar_resnet18_keeps_the_resolution_until_the_second_stage() -> None:
    network = cifar_resnet18(10).eval()
    seen: dict[str, torch.Size] = {}
    for name in ("layer1", "layer2", "layer3", "layer4"):
        network.get_submodule(name).register_forward_hook(
            lambda _, __, out, name=name: seen.__setitem__(name, out.shape[1:])
        )
    assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    assert [tuple(shape) for shape in seen.values()] == [
        (64, 32, 32),
        (128, 16, 16),
        (256, 8, 8),
        (512, 4, 4),
    ]


def test_cifar_resnet18_starts_from_the_default_initialisation() -> None:
    # Uniform in +-1/sqrt(fan_in); torchvision's own is normal with fan_out and has larger values.
    weight = cifar_resnet18(10).layer4[1].conv2.weight
    bound = (512 * 9) ** -0.5
    assert weight.abs().max() <= bound
    assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.01)


def test_small_networks_give_logits() -> None:
    assert small_cnn(7, width=4)(torch.zeros(2, 3, 32, 32)).shape == (2, 7)
    assert mlp3(7, num_features=12)(torch.zeros(2, 12)).shape == (2, 7)
    assert sum(isinstance(layer, nn.Softsign) for layer in mlp3(7)) == 2


@pytest.mark.parametrize("name", ["resnet50", "convnext_tiny", "swin_t"])
def test_torchvision_networks_get_a_head_of_their_own(name: str) -> None:
    with torch.device("meta"):
        network = torchvision_network(name, 14)
        out = network.eval()(torch.zeros(1, 3, 64, 64))
    assert out.shape == (1, 14)


def test_a_network_without_a_linear_head_is_refused() -> None:
    with pytest.raises(ValueError, match=r"of a network with a linear head, got 'squeezenet1_1'"):
        torchvision_network("squeezenet1_1", 10)


def test_names_build_networks_and_unknown_ones_are_listed() -> None:
    assert network_by_name("torchvision/resnet18", 5).fc.out_features == 5
    with pytest.raises(ValueError, match=r"mlp3, timm/<name> or torchvision/<name>, got 'resnt18'"):
        network_by_name("resnt18", 5)
    with pytest.raises(ValueError, match=r"one of torchvision's, got 'resnet19'"):
        network_by_name("torchvision/resnet19", 5)
    with pytest.raises(ValueError, match="pretrained off for 'mlp3'"):
        network_by_name("mlp3", 5, pretrained=True)


def test_a_name_alone_is_looked_for_in_the_libraries() -> None:
    assert network_by_name("swin_t", 5).head.out_features == 5


def test_timm_networks_get_a_head_of_their_own() -> None:
    pytest.importorskip("timm")
    with torch.device("meta"):
        network = network_by_name("timm/inception_resnet_v2", 50)
        assert network.classif.out_features == 50
        assert type(network_by_name("resnet18", 5)).__module__.startswith("timm.")
    with pytest.raises(ValueError, match=r"one of timm's, got 'resnt18'. Did you mean 'resnet18'"):
        network_by_name("timm/resnt18", 5)


def test_without_timm_the_install_command_is_given(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ModuleNotFoundError, match=r"lightning-alignprune\[timm\]"):
        network_by_name("timm/inception_resnet_v2", 50)


@pytest.mark.parametrize("make", [cifar_resnet18, small_cnn, mlp3])
def test_one_class_is_refused(make) -> None:
    with pytest.raises(ValueError, match=r"expected num_classes in \[2, inf\), got 1"):
        make(1)


def test_without_torchvision_the_install_command_is_given(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with pytest.raises(ModuleNotFoundError, match=r"lightning-alignprune\[vision\]"):
        cifar_resnet18(10)
