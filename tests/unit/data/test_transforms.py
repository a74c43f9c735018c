"""Batch augmentation against the slow way: pad, crop, mirror one image at a time."""

import pytest
import torch
import torch.nn.functional as F

from lightning_alignprune.data.datasets import InMemoryDataset
from lightning_alignprune.data.transforms import CIFAR_MEAN, CIFAR_STD, BatchCropFlip, normalised


def possible(image: torch.Tensor, padding: int) -> set[tuple[int, ...]]:
    """Every image that reflect padding, cropping and mirroring can give."""
    height, width = image.shape[1:]
    padded = F.pad(image[None].float(), [padding] * 4, mode="reflect")[0].to(image.dtype)
    found = set()
    for top in range(2 * padding + 1):
        for left in range(2 * padding + 1):
            crop = padded[:, top : top + height, left : left + width]
            found |= {tuple(crop.flatten().tolist()), tuple(crop.flip(2).flatten().tolist())}
    return found


def test_batch_crop_flip_gives_all_and_only_what_pad_crop_mirror_gives() -> None:
    torch.manual_seed(0)
    image = torch.arange(2 * 5 * 6, dtype=torch.uint8).reshape(2, 5, 6)
    out = BatchCropFlip(padding=1)(image.expand(600, -1, -1, -1))
    assert out.dtype == torch.uint8
    assert {tuple(one.flatten().tolist()) for one in out} == possible(image, 1)


def test_each_image_of_a_batch_gets_its_own_draw_and_keeps_its_place() -> None:
    torch.manual_seed(0)
    images = torch.arange(64, dtype=torch.uint8).reshape(64, 1, 1, 1).expand(64, 3, 8, 8)
    assert torch.equal(BatchCropFlip(4)(images), images)
    ramp = torch.arange(8).expand(64, 1, 8, 8)
    assert len({tuple(one.flatten().tolist()) for one in BatchCropFlip(2)(ramp)}) > 5


def test_padding_zero_only_mirrors() -> None:
    torch.manual_seed(0)
    ramp = torch.arange(8).expand(64, 1, 8, 8)
    rows = {tuple(one[0, 0].tolist()) for one in BatchCropFlip(0)(ramp)}
    assert rows == {tuple(range(8)), tuple(reversed(range(8)))}


def test_negative_padding_is_refused() -> None:
    with pytest.raises(ValueError, match="BatchCropFlip: expected padding"):
        BatchCropFlip(-1)


def test_normalisation_is_that_of_the_recipe() -> None:
    images = torch.full((2, 3, 4, 4), 51, dtype=torch.uint8)
    out = normalised(CIFAR_MEAN, CIFAR_STD)(images)
    expected = [(0.2 - m) / s for m, s in zip(CIFAR_MEAN, CIFAR_STD, strict=True)]
    assert out.dtype == torch.float32
    torch.testing.assert_close(out[1, :, 2, 3], torch.tensor(expected))


def test_a_batch_is_read_in_one_go_and_equals_the_single_samples() -> None:
    inputs, labels = torch.randn(10, 3, 2, 2), torch.arange(10)
    calls: list[tuple[int, ...]] = []

    def double(batch: torch.Tensor) -> torch.Tensor:
        calls.append(tuple(batch.shape))
        return batch * 2

    data = InMemoryDataset(inputs, labels, torch.tensor([7, 1, 4]), transform=double)
    batch = data.__getitems__([2, 0])
    assert calls == [(2, 3, 2, 2)]
    assert [label for _, label in batch] == [4, 7]
    assert torch.equal(batch[1][0], inputs[7] * 2)
    assert torch.equal(data[0][0], inputs[7] * 2)
    assert [label for _, label in data] == [7, 1, 4]  # iteration ends


def test_a_per_sample_transform_sees_single_samples() -> None:
    data = InMemoryDataset(
        torch.zeros(4, 3, 2, 2),
        torch.zeros(4, dtype=torch.long),
        transform=lambda x: x + x.ndim,
        per_sample=True,
    )
    assert data.__getitems__([0, 1])[1][0].unique().tolist() == [3]
