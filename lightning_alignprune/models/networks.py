"""Networks of the papers' runs, by function and by name."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from torch import nn

from lightning_alignprune._checks import check_bool, check_int, did_you_mean, message
from lightning_alignprune._extras import require


def cifar_resnet18(num_classes: int = 10) -> nn.Module:
    """Build ResNet-18 for images of 32 x 32: 3 x 3 stem with stride 1, no max-pooling.

    Four stages of two basic blocks, 64 to 512 channels, PyTorch's default initialisation.

    Args:
        num_classes: C.

    Returns:
        A module from (B, 3, 32, 32) to logits (B, C).

    Raises:
        ModuleNotFoundError: If torchvision, whose blocks are used, is not installed.

    Example:
        >>> sum(p.numel() for p in cifar_resnet18(10).parameters())
        11173962
    """
    num_classes = _check_classes("cifar_resnet18", num_classes)
    models = require("torchvision.models", "vision", "cifar_resnet18")
    network: nn.Module = models.resnet18(weights=None, num_classes=num_classes)
    network.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
    network.maxpool = nn.Identity()
    # Torchvision initialises convolutions for ImageNet training; the recipe has the plain default.
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.BatchNorm2d, nn.Linear)):
            layer.reset_parameters()
    return network


def small_cnn(num_classes: int = 10, width: int = 32) -> nn.Module:
    """Build three convolutions with BatchNorm and a linear layer: seconds per epoch on a CPU.

    Args:
        num_classes: C.
        width: Channels of the first convolution; they double twice.

    Returns:
        A module from (B, 3, H, W), H and W at least 8, to logits (B, C).

    Example:
        >>> import torch
        >>> small_cnn(num_classes=7)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 7])
    """
    num_classes = _check_classes("small_cnn", num_classes)
    width = check_int("small_cnn", "width", width, low=1, remedy="32 is the default.")
    layers: list[nn.Module] = []
    channels = 3
    for out in (width, 2 * width, 4 * width):
        layers += [nn.Conv2d(channels, out, 3, padding=1, bias=False), nn.BatchNorm2d(out)]
        layers += [nn.ReLU(inplace=True), nn.MaxPool2d(2)]
        channels = out
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes)]
    return nn.Sequential(*layers, *head)


def mlp3(num_classes: int = 20, num_features: int = 300, width: int = 300) -> nn.Module:
    """Build three linear layers with Softsign between them: the network of the text task.

    Args:
        num_classes: C.
        num_features: D, size of the input vectors.
        width: Size of the two hidden layers.

    Returns:
        A module from (B, D) to logits (B, C).

    Example:
        >>> sum(p.numel() for p in mlp3(20).parameters())
        186620
    """
    num_classes, remedy = _check_classes("mlp3", num_classes), "300 is the default."
    num_features = check_int("mlp3", "num_features", num_features, low=1, remedy=remedy)
    width = check_int("mlp3", "width", width, low=1, remedy=remedy)
    return nn.Sequential(
        nn.Linear(num_features, width),
        nn.Softsign(),
        nn.Linear(width, width),
        nn.Softsign(),
        nn.Linear(width, num_classes),
    )


def torchvision_network(name: str, num_classes: int = 1000, pretrained: bool = False) -> nn.Module:
    """Build a classifier of torchvision with a head for ``num_classes``.

    Args:
        name: Torchvision's name, such as ``"resnet50"``, ``"convnext_tiny"`` or ``"swin_t"``.
        num_classes: C.
        pretrained: Whether to load torchvision's best ImageNet-1K weights (a download the first
            time). The head is new in any case.

    Returns:
        A module from (B, 3, H, W) to logits (B, C).

    Raises:
        ModuleNotFoundError: If torchvision is not installed.
        ValueError: If the name is unknown, or the network does not end in a linear layer.

    Example:
        >>> torchvision_network("resnet50", 14).fc.out_features
        14
    """
    owner = "torchvision_network"
    num_classes = _check_classes(owner, num_classes)
    pretrained = check_bool(owner, "pretrained", pretrained)
    models = require("torchvision.models", "vision", owner)
    known = models.list_models(module=models)
    if name not in known:
        some = f"Some of them: {', '.join(known[:3])}; torchvision.models.list_models() has all."
        remedy = did_you_mean(name, known).strip() or some
        raise ValueError(message(owner, "name", "to be one of torchvision's", name, remedy))
    network: nn.Module = models.get_model(name, weights="DEFAULT" if pretrained else None)
    path, head = list(network.named_modules())[-1]
    if not isinstance(head, nn.Linear):
        remedy = "Build it yourself and pass the module."
        raise ValueError(message(owner, "name", "of a network with a linear head", name, remedy))
    parent, _, attribute = path.rpartition(".")
    setattr(network.get_submodule(parent), attribute, nn.Linear(head.in_features, num_classes))
    return network


def timm_network(name: str, num_classes: int = 1000, pretrained: bool = False) -> nn.Module:
    """Build a network of timm with a head for ``num_classes``.

    Args:
        name: timm's name, such as ``"inception_resnet_v2"`` or ``"convnext_tiny.fb_in1k"``.
        num_classes: C.
        pretrained: Whether to load the weights of that name (a download the first time). The head
            is new unless C is that of the weights.

    Returns:
        A module from (B, 3, H, W) to logits (B, C).

    Raises:
        ModuleNotFoundError: If timm is not installed.
        ValueError: If the name is unknown.
    """
    owner = "timm_network"
    num_classes = _check_classes(owner, num_classes)
    pretrained = check_bool(owner, "pretrained", pretrained)
    timm = require("timm", "timm", owner)
    if not timm.is_model(name):
        remedy = did_you_mean(name, timm.list_models()).strip() or "timm.list_models() has all."
        raise ValueError(message(owner, "name", "to be one of timm's", name, remedy))
    network: nn.Module = timm.create_model(name, pretrained=pretrained, num_classes=num_classes)
    return network


NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "cifar_resnet18": cifar_resnet18,
    "small_cnn": small_cnn,
    "mlp3": mlp3,
}
_LIBRARIES = {"timm": timm_network, "torchvision": torchvision_network}


def network_by_name(name: str, num_classes: int, pretrained: bool = False) -> nn.Module:
    """Build a network of this file, of timm or of torchvision by name.

    ``"timm/<name>"`` and ``"torchvision/<name>"`` say where it comes from. A name alone is one of
    this file, else of timm where that is installed and has it, else of torchvision.

    Raises:
        ValueError: If the name is unknown, or ``pretrained`` is asked of a network that has no
            published weights.

    Example:
        >>> type(network_by_name("mlp3", 20)).__name__
        'Sequential'
    """
    library, _, short = name.partition("/")
    if library in _LIBRARIES and short:
        return _LIBRARIES[library](short, num_classes, pretrained)
    if name not in NETWORKS:
        for library, known in _names_of_libraries().items():
            if name.partition(".")[0] in known:  # timm's weights are named behind a dot
                return _LIBRARIES[library](name, num_classes, pretrained)
        raise ValueError(_unknown(name))
    if pretrained:
        remedy = "Only networks of timm and torchvision have published weights."
        raise ValueError(message("Classifier", "pretrained", f"off for {name!r}", True, remedy))
    return NETWORKS[name](num_classes)


def _names_of_libraries() -> dict[str, list[str]]:
    """What the installed libraries have, timm first."""
    known: dict[str, list[str]] = {}
    if find_spec("timm") is not None:
        timm: Any = require("timm", "timm", "Classifier")
        known["timm"] = timm.list_models()
    if find_spec("torchvision") is not None:
        models: Any = require("torchvision.models", "vision", "Classifier")
        known["torchvision"] = models.list_models(module=models)
    return known


def _unknown(name: str) -> str:
    libraries = _names_of_libraries()
    names = [*NETWORKS, *(name for known in libraries.values() for name in known)]
    known = f"to be one of {', '.join(NETWORKS)}, timm/<name> or torchvision/<name>"
    return message(
        "Classifier",
        "network",
        known,
        name,
        did_you_mean(name, names).strip() or ("Or pass a module."),
    )


def _check_classes(owner: str, num_classes: int) -> int:
    return check_int(owner, "num_classes", num_classes, low=2, remedy="A classifier needs two.")
