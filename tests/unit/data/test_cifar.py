"""CIFAR through torchvision's own reading, checksums included, and through an archive of JPEGs."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

from lightning_alignprune.data import (
    CIFAR10DataModule,
    CIFAR100DataModule,
    LabelNoise,
    Loading,
    Split,
)

from .made import jpeg_archive, make_cifar10, make_cifar100, make_human_labels

SPLIT = Split(reference_size=5, val_size=0.1)
SMALL = {"split": SPLIT, "loading": Loading(batch_size=8)}


def ready(data):
    data.prepare_data()
    data.setup()
    return data


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    make_cifar10(tmp_path, monkeypatch)
    return tmp_path


def first_pixels(dataset) -> list[int]:
    return dataset.inputs[dataset.indices, 0, 0, 0].tolist()


def test_the_parts_are_disjoint_and_in_the_official_order(folder: Path) -> None:
    data = ready(CIFAR10DataModule(str(folder), **SMALL))
    train, reference, val, test = data.sets
    assert [len(part) for part in data.sets] == [40, 5, 5, 20]
    rows = torch.cat([train.indices, reference.indices, val.indices])
    assert torch.equal(rows.sort().values, torch.arange(50))
    assert first_pixels(train) == train.indices.tolist()
    assert first_pixels(test) == list(range(100, 120))
    assert torch.equal(train.clean_labels, train.indices % 10)


def test_noise_reaches_training_labels_only(folder: Path) -> None:
    noise = LabelNoise("pairflip", rate=1.0)
    data = ready(CIFAR10DataModule(str(folder), noise, **SMALL))
    train, reference, val, test = data.sets
    assert torch.equal(train.labels, (train.clean_labels + 1) % 10)
    assert torch.equal(train.targets, train.labels)
    assert train.noise_mask.all()
    assert data.noise_rate == 1.0
    for part in (reference, val, test):
        assert torch.equal(part.labels, part.clean_labels)
    batch_labels = torch.cat([y for _, y in data.train_dataloader()])
    assert torch.equal(batch_labels.sort().values, train.labels.sort().values)


def test_a_sample_has_the_same_label_whatever_is_held_out(folder: Path) -> None:
    noise = LabelNoise("symmetric_uniform", rate=0.5)
    few = ready(CIFAR10DataModule(str(folder), noise, split=Split(1, 0))).sets.train
    many = ready(CIFAR10DataModule(str(folder), noise, split=Split(30, 0))).sets.train
    label_of = dict(zip(few.indices.tolist(), few.labels.tolist(), strict=True))
    common = [(row, y) for row, y in zip(many.indices.tolist(), many.labels.tolist(), strict=True)]
    assert all(label_of.get(row, y) == y for row, y in common)


def test_loaders_give_normalised_batches_of_the_sizes_asked_for(folder: Path) -> None:
    data = ready(CIFAR10DataModule(str(folder), split=SPLIT, loading=Loading(8, eval_batch_size=3)))
    x, y = next(iter(data.train_dataloader()))
    assert x.shape == (8, 3, 32, 32)
    assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
    assert [len(y) for _, y in data.reference_dataloader()] == [3, 2]
    assert [len(y) for _, y in data.val_dataloader()] == [3, 2]
    first, _ = next(iter(data.reference_dataloader()))
    again, _ = next(iter(data.reference_dataloader()))
    assert torch.equal(first, again)  # no augmentation


def test_training_samples_are_scored_in_order_and_without_augmentation(folder: Path) -> None:
    noise = LabelNoise("pairflip", rate=1.0)
    data = ready(CIFAR10DataModule(str(folder), noise, **SMALL))
    train, _, _, test = data.sets
    passes = [list(data.scoring_dataloader()) for _ in range(2)]
    images, labels = (torch.cat(part) for part in zip(*passes[0], strict=True))
    assert torch.equal(images, torch.cat([batch for batch, _ in passes[1]]))
    assert torch.equal(labels, train.labels)
    as_a_test = test.transform(train.inputs[train.indices])
    torch.testing.assert_close(images, as_a_test)


def test_train_size_takes_a_part_of_the_rest(folder: Path) -> None:
    data = ready(CIFAR10DataModule(str(folder), split=replace(SPLIT, train_size=11)))
    assert len(data.sets.train) == 11


def test_the_test_set_is_the_reference_only_if_named(folder: Path) -> None:
    data = ready(CIFAR10DataModule(str(folder), split=Split(0, 0)))
    with pytest.raises(MisconfigurationException, match="Set reference_size above 0"):
        data.reference_dataloader()
    assert data.val_dataloader() == []
    named = ready(CIFAR10DataModule(str(folder), split=Split(0, 0, reference_source="test")))
    assert named.reference_dataloader().dataset is named.sets.test
    by_val = ready(CIFAR10DataModule(str(folder), split=Split(0, 5, reference_source="val")))
    assert by_val.reference_dataloader().dataset is by_val.sets.val


@pytest.mark.parametrize("source", ["held_out", "val"])
def test_the_reference_is_augmented_as_training_is_if_asked(folder: Path, source: str) -> None:
    def reference_of(**changed: str) -> list[list[torch.Tensor]]:
        split = replace(SPLIT, reference_source=source, **changed)
        data = ready(CIFAR10DataModule(str(folder), split=split))
        passes = [list(data.reference_dataloader()) for _ in range(2)]
        return [[torch.cat(part) for part in zip(*each, strict=True)] for each in passes]

    (plain, labels), (again, _) = reference_of()
    assert torch.equal(plain, again)
    (augmented, same_labels), (other, _) = reference_of(reference_transform="train")
    assert torch.equal(labels, same_labels)
    assert augmented.shape == plain.shape
    assert not torch.equal(augmented, other)


def test_own_transforms_take_one_image(folder: Path) -> None:
    class Mean(nn.Module):
        def forward(self, image):
            assert image.shape == (3, 32, 32)
            return image.float().mean((1, 2))

    data = ready(
        CIFAR10DataModule(str(folder), train_transform=Mean(), eval_transform=Mean(), **SMALL)
    )
    assert next(iter(data.train_dataloader()))[0].shape == (8, 3)
    assert next(iter(data.test_dataloader()))[0].shape == (8, 3)


def test_human_labels_lie_beside_the_images(folder: Path) -> None:
    make_human_labels(folder, torch.arange(50) % 10, 10)
    train = ready(CIFAR10DataModule(str(folder), LabelNoise("aggre"), **SMALL)).sets.train
    assert torch.equal(train.labels, (train.clean_labels + 1) % 10)


def test_missing_human_labels_say_what_to_fetch(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"CIFAR-10_human.pt from https://.*cifar-10-100n"):
        ready(CIFAR10DataModule(str(folder), LabelNoise("worse"), **SMALL))


def test_missing_and_damaged_files_say_what_to_fetch(folder: Path, tmp_path: Path) -> None:
    text = r"cifar-10-batches-py .* download=True, or unpack https://www.cs.toronto.edu"
    with pytest.raises(FileNotFoundError, match=text):
        ready(CIFAR10DataModule(str(tmp_path / "elsewhere")))
    (folder / "cifar-10-batches-py" / "data_batch_3").write_bytes(b"other bytes")
    with pytest.raises(FileNotFoundError, match=text):
        ready(CIFAR10DataModule(str(folder)))


def test_cifar100_has_its_own_files_and_human_labels(tmp_path: Path, monkeypatch) -> None:
    make_cifar100(tmp_path, monkeypatch)
    make_human_labels(tmp_path, torch.arange(200) % 100, 100)
    train = ready(CIFAR100DataModule(str(tmp_path), LabelNoise("noisy"), **SMALL)).sets.train
    assert torch.equal(train.labels, (train.clean_labels + 1) % 100)
    asymmetric = CIFAR100DataModule(str(tmp_path), LabelNoise("asymmetric_cifar100", 1.0), **SMALL)
    assert ready(asymmetric).sets.train.noise_mask.all()
    with pytest.raises(FileNotFoundError, match=r"CIFAR100DataModule: .*cifar-100-python"):
        ready(CIFAR100DataModule(str(tmp_path / "elsewhere")))


def test_a_jpeg_archive_stands_in_for_the_official_files(tmp_path: Path) -> None:
    path = tmp_path / "images.npz"
    jpeg_archive(path)
    data = ready(CIFAR10DataModule(jpeg_archive=str(path), split=Split(2, 2), download=True))
    assert [len(part) for part in data.sets] == [8, 2, 2, 5]
    assert data.sets.test.labels.tolist() == [0, 1, 2, 3, 4]
    reds = data.sets.train.inputs[:, 0, 16, 16]
    assert (reds.int() - 20 * torch.arange(12)).abs().max() <= 3


def test_a_jpeg_archive_that_lacks_an_entry_is_named(tmp_path: Path) -> None:
    path = tmp_path / "images.npz"
    np.savez(path, train_bytes=np.zeros(1, dtype=np.uint8))
    with pytest.raises(ValueError, match="expected train_labels, train_offsets in"):
        ready(CIFAR10DataModule(jpeg_archive=str(path)))
    with pytest.raises(FileNotFoundError, match="no such file"):
        ready(CIFAR10DataModule(jpeg_archive=str(tmp_path / "none.npz")))


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"data_dir": 3}, "data_dir"),
        ({"noise": "pairflip"}, "noise"),
        ({"jpeg_archive": 3}, "jpeg_archive"),
        ({"download": "no"}, "download"),
        ({"mean": 0.5}, "mean"),
        ({"std": (0.2, "0.2", 0.2)}, "std"),
        ({"train_transform": 1}, "train_transform"),
        ({"eval_transform": nn.Identity}, "eval_transform"),
        ({"split": 5}, "split"),
        ({"loading": {"batch_size": 8}}, "loading"),
    ],
)
def test_a_wrong_kind_is_named(arguments, name) -> None:
    with pytest.raises(TypeError, match=rf"^CIFAR10DataModule: expected {name} .*, got "):
        CIFAR10DataModule(**arguments)


def test_wrong_values_fail_in_the_constructor(tmp_path) -> None:
    with pytest.raises(ValueError, match="expected mean to be 3 numbers"):
        CIFAR10DataModule(mean=(0.5, 0.5))
    with pytest.raises(ValueError, match=r"expected std in \(0, inf\), got 0"):
        CIFAR10DataModule(std=(0.2, 0, 0.2))
    assert CIFAR10DataModule(tmp_path).data_dir == str(tmp_path)


def test_no_datasets_before_setup() -> None:
    with pytest.raises(RuntimeError, match="no datasets before setup"):
        CIFAR10DataModule().train_dataloader()


def test_without_torchvision_the_install_command_is_given(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "lightning-alignprune\[vision\]"'):
        CIFAR10DataModule()
