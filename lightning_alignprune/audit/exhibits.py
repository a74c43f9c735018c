"""Samples of a data set as something to look at: a picture or a text, where it gives one.

Nothing but the items themselves is asked: tensors and arrays of the shape of an image, PIL images
and strings, alone or the first such part of a tuple or a dict.
"""

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_alignprune._extras import require

_LONGEST_TEXT = 400
_SMALLEST_SIDE, _LARGEST_SIDE = 112, 224


class Exhibit(NamedTuple):
    """What can be shown of a sample.

    Attributes:
        picture: A PNG as a ``data:`` address, or None.
        text: A text, shortened, or None.
    """

    picture: str | None = None
    text: str | None = None


def exhibit_of(dataset: Any, index: int) -> Exhibit:
    """Return what can be shown of a sample; nothing where the data set gives nothing to look at.

    The item is asked for as training asks for it, augmentations included; random states are as
    before.
    """
    try:
        with torch.random.fork_rng(devices=[]):
            item = dataset[index]
    except (IndexError, KeyError, OSError, TypeError):  # a page without this picture is still one
        return Exhibit()
    for part in _parts(item):
        if isinstance(part, str) and part.strip():
            return Exhibit(text=_shortened(part))
        picture = _as_picture(part)
        if picture is not None:
            return Exhibit(picture=_as_address(picture))
    return Exhibit()


def _parts(item: Any) -> Iterator[Any]:
    if isinstance(item, Mapping):
        yield from item.values()
    elif isinstance(item, Sequence) and not isinstance(item, str):
        yield from item
    else:
        yield item


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST_TEXT else text[: _LONGEST_TEXT - 1].rstrip() + "…"


def _as_picture(part: Any) -> Any:
    """Return a PIL image, or None if it is none."""
    image = require("PIL.Image", "report", "the report's pictures")
    if isinstance(part, image.Image):
        return part.convert("RGB")
    try:
        pixels = torch.as_tensor(part)
    except (TypeError, ValueError, RuntimeError):
        return None
    if pixels.ndim == 3 and pixels.shape[0] in (1, 3, 4):
        pixels = pixels.movedim(0, -1)
    is_image = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[-1] in (1, 3, 4))
    if not is_image or min(pixels.shape[:2]) < 2 or pixels.is_complex():
        return None
    shades = _as_bytes(pixels)
    if shades.ndim == 3:
        shades = shades[..., 0] if shades.shape[-1] == 1 else shades[..., :3]
    return image.fromarray(shades.numpy())


def _as_bytes(pixels: Tensor) -> Tensor:
    pixels = pixels.detach().cpu()
    if pixels.dtype == torch.uint8:
        return pixels.contiguous()
    # Normalised images have any range: from the darkest to the brightest value.
    values = pixels.float().nan_to_num(0.0)
    low, high = values.min(), values.max()
    return ((values - low) / (high - low).clamp_min(1e-12) * 255).round().byte().contiguous()


def _as_address(picture: Any) -> str:
    image = require("PIL.Image", "report", "the report's pictures")
    side = max(picture.size)
    if side > _LARGEST_SIDE:
        picture.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE))
    elif side < _SMALLEST_SIDE:  # a few pixels are shown as squares
        times = -(-_SMALLEST_SIDE // side)
        size = picture.width * times, picture.height * times
        picture = picture.resize(size, image.Resampling.NEAREST)
    file = io.BytesIO()
    picture.save(file, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
