"""Images of one size as JPEG bytes in one ``.npz`` file: a tenth of the space of the pixels."""

from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lightning_alignprune._checks import message
from lightning_alignprune._extras import require
from lightning_alignprune.data.readers._progress import progress


def read_jpeg_archive(path: str | Path, split: str) -> tuple[Tensor, Tensor]:
    """Decode one split of an archive of JPEG images.

    The archive holds, for each split, ``{split}_bytes`` (uint8, all files one after the other),
    ``{split}_offsets`` (M + 1 ints; image i is bytes ``offsets[i]`` to ``offsets[i + 1]``) and
    ``{split}_labels`` (M ints). JPEG loses detail: accuracies differ a little from the originals'.

    Args:
        path: The ``.npz`` file.
        split: ``"train"`` or ``"test"``.

    Returns:
        Images, shape (M, 3, H, W), uint8; labels, shape (M,), int64; both in the file's order.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If an entry is missing, or the images differ in size.
        ModuleNotFoundError: If Pillow, which comes with torchvision, is not installed.

    Note:
        About 0.1 ms per image of 32 x 32 on one core.
    """
    owner = "read_jpeg_archive"
    image_module = require("PIL.Image", "vision", owner)
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            message(owner, "path", "to be an .npz file", str(path), "There is no such file.")
        )
    with np.load(path, allow_pickle=False) as archive:
        names = [f"{split}_{part}" for part in ("bytes", "offsets", "labels")]
        missing = sorted(set(names) - set(archive.files))
        if missing:
            value = ", ".join(archive.files)
            raise ValueError(
                message(owner, ", ".join(missing), f"in {path}", value, "Write all three.")
            )
        encoded, offsets, labels = (archive[name] for name in names)
    if len(offsets) != len(labels) + 1:
        constraint = f"of {path} to be one more than the labels"
        value = f"{len(offsets)} and {len(labels)}"
        raise ValueError(message(owner, f"{split}_offsets", constraint, value, "It is damaged."))
    bounds = offsets.tolist()
    images: Tensor | None = None
    for index in progress(range(len(labels)), f"Decoding {split} images"):
        file = BytesIO(encoded[bounds[index] : bounds[index + 1]].tobytes())
        one = torch.from_numpy(np.array(image_module.open(file).convert("RGB"))).permute(2, 0, 1)
        if images is None:
            images = torch.empty(len(labels), *one.shape, dtype=torch.uint8)
        if one.shape != images.shape[1:]:
            constraint = f"of {path} to have the shape of image 0, {tuple(images.shape[1:])}"
            remedy = "All images of an archive have one size."
            image = f"{split} image {index}"
            raise ValueError(message(owner, image, constraint, tuple(one.shape), remedy))
        images[index] = one
    if images is None:
        images = torch.empty(0, 3, 0, 0, dtype=torch.uint8)
    return images, torch.from_numpy(labels.astype(np.int64))
