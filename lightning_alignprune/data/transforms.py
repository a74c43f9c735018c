"""Image transforms: augmentation of a whole batch at once, and the recipes of the data sets."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_alignprune._checks import check_callable, check_int
from lightning_alignprune._extras import require

CIFAR_MEAN = (0.5074, 0.4867, 0.4411)
CIFAR_STD = (0.2011, 0.1987, 0.2025)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Channels = tuple[float, float, float]


class BatchCropFlip(nn.Module):
    """Shift each image of a batch by up to ``padding`` pixels and mirror half of them.

    What a random horizontal flip and a random crop from the reflect-padded image do, drawn for
    every image on its own and done in one read of the batch, on any device. Torchvision's random
    transforms draw once for a whole batch, which is why they cannot stand here.

    Args:
        padding: Largest shift in pixels, at least 0 and below the image's side.

    Raises:
        TypeError: If ``padding`` is no int.
        ValueError: If it is negative.

    Shape:
        (B, C, H, W) to (B, C, H, W), dtype kept.

    Example:
        >>> images = torch.arange(12, dtype=torch.uint8).reshape(1, 1, 3, 4)
        >>> _ = torch.manual_seed(0)
        >>> BatchCropFlip(padding=1)(images).shape
        torch.Size([1, 1, 3, 4])
    """

    def __init__(self, padding: int = 4) -> None:
        super().__init__()
        remedy = "0 only mirrors."
        self.padding = check_int("BatchCropFlip", "padding", padding, low=0, remedy=remedy)

    @override
    def forward(self, images: Tensor) -> Tensor:
        num, channels, height, width = images.shape
        device = images.device
        shifts = torch.randint(-self.padding, self.padding + 1, (2, num, 1), device=device)
        rows = _reflected(torch.arange(height, device=device) + shifts[0], height)
        columns = _reflected(torch.arange(width, device=device) + shifts[1], width)
        is_mirrored = torch.rand(num, 1, device=device) < 0.5
        columns = torch.where(is_mirrored, columns.flip(1), columns)
        return images[
            torch.arange(num, device=device)[:, None, None, None],
            torch.arange(channels, device=device)[None, :, None, None],
            rows[:, None, :, None],
            columns[:, None, None, :],
        ]


def _reflected(position: Tensor, size: int) -> Tensor:
    """Mirror positions that lie outside 0..size-1 at the border pixel."""
    position = position.abs()
    return torch.where(position >= size, 2 * (size - 1) - position, position)


def transforms_of(owner: str, train: Any, evaluation: Any) -> tuple[Any, Any]:
    """Return a data module's own transforms, each a callable or None.

    Raises:
        TypeError: If one is something else.
    """
    remedy = "Pass a transform object, or None for the usual one."
    return (
        check_callable(owner, "train_transform", train, remedy=remedy),
        check_callable(owner, "eval_transform", evaluation, remedy=remedy),
    )


def normalised(mean: Sequence[float], std: Sequence[float], *before: Any) -> Any:
    """Compose ``before``, conversion to float32 in [0, 1], and normalisation."""
    v2 = require("torchvision.transforms.v2", "vision", "data")
    as_float = v2.ToDtype(torch.float32, scale=True)
    return v2.Compose([*before, as_float, v2.Normalize(list(mean), list(std))])


def imagenet_train(size: int) -> Any:
    """Random resized crop and mirror: the usual training recipe of ImageNet-1K."""
    v2 = require("torchvision.transforms.v2", "vision", "data")
    steps = v2.RandomResizedCrop(size), v2.RandomHorizontalFlip(), v2.ToImage()
    return normalised(IMAGENET_MEAN, IMAGENET_STD, *steps)


def imagenet_eval(size: int) -> Any:
    """Shorter side to 8/7 of ``size``, then the centre: 256 and 224 for ImageNet-1K."""
    v2 = require("torchvision.transforms.v2", "vision", "data")
    steps = v2.Resize(round(size * 8 / 7)), v2.CenterCrop(size), v2.ToImage()
    return normalised(IMAGENET_MEAN, IMAGENET_STD, *steps)


def resized_train(size: int, *, squash: bool, padding: int = 0) -> Any:
    """Resize to 8/7 of ``size`` (both sides if ``squash``), mirror, random crop."""
    v2 = require("torchvision.transforms.v2", "vision", "data")
    steps = (
        v2.Resize(_target(size, squash)),
        v2.RandomHorizontalFlip(),
        v2.RandomCrop(size, padding=padding or None),
        v2.ToImage(),
    )
    return normalised(IMAGENET_MEAN, IMAGENET_STD, *steps)


def resized_eval(size: int, *, squash: bool) -> Any:
    """Resize to 8/7 of ``size`` (both sides if ``squash``), then the centre."""
    v2 = require("torchvision.transforms.v2", "vision", "data")
    steps = v2.Resize(_target(size, squash)), v2.CenterCrop(size), v2.ToImage()
    return normalised(IMAGENET_MEAN, IMAGENET_STD, *steps)


def _target(size: int, squash: bool) -> int | list[int]:
    side = round(size * 8 / 7)
    return [side, side] if squash else side
