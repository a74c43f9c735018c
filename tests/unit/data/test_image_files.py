"""Data sets of image files: folders, lists, workers, and what is said when files are missing."""

from pathlib import Path

import pytest
import torch
import torchvision

from lightning_alignprune.data import (
    Clothing1MDataModule,
    ImageFolderDataModule,
    LabelNoise,
    Loading,
    Split,
    WebVisionDataModule,
)

from .made import CLASSES, make_clothing, make_imagenet, make_webvision

SMALL = {"image_size": 8, "loading": Loading(4, num_workers=0)}


@pytest.fixture
def imagenet(tmp_path: Path) -> Path:
    return make_imagenet(tmp_path)


@pytest.fixture
def webvision(tmp_path: Path) -> Path:
    return make_webvision(tmp_path)


@pytest.fixture
def clothing(tmp_path: Path) -> Path:
    return make_clothing(tmp_path)


def test_folders_are_read_in_the_order_of_torchvision(imagenet: Path) -> None:
    data = ImageFolderDataModule(str(imagenet), split=Split(3, 3), **SMALL)
    data.setup()
    theirs = torchvision.datasets.ImageFolder(str(imagenet / "train"))
    assert data.class_names == tuple(theirs.classes) == CLASSES
    assert data.num_classes == 3
    train, reference, val, test = data.sets
    for part in (train, reference, val):
        for i, row in enumerate(part.indices.tolist()):
            assert (str(part.path(i)), int(part.labels[i])) == theirs.samples[row]
    assert [len(part) for part in data.sets] == [12, 3, 3, 6]
    assert test.labels.tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_images_are_decoded_by_the_workers(imagenet: Path, num_workers: int) -> None:
    data = ImageFolderDataModule(
        str(imagenet), split=Split(2, 0), image_size=8, loading=Loading(4, num_workers=num_workers)
    )
    data.setup()
    for loader in (data.train_dataloader(), data.reference_dataloader(), data.test_dataloader()):
        x, y = next(iter(loader))
        assert x.shape[1:] == (3, 8, 8)
        assert (x.dtype, y.dtype) == (torch.float32, torch.int64)


def test_noise_on_folders_reaches_training_only(imagenet: Path) -> None:
    noise = LabelNoise("asymmetric_next", rate=1.0)
    data = ImageFolderDataModule(str(imagenet), noise, split=Split(3, 3), **SMALL)
    data.setup()
    train, reference, *_ = data.sets
    assert torch.equal(train.labels, (train.clean_labels + 1) % 3)
    assert not reference.noise_mask.any()
    assert int(train[0][1]) == int(train.labels[0])


def test_missing_folders_name_the_official_archives(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"ILSVRC2012_img_train.tar .*image-net.org"):
        ImageFolderDataModule(str(tmp_path)).setup()


def test_an_unknown_test_class_and_an_empty_class_are_named(imagenet: Path) -> None:
    (imagenet / "val" / "n99").mkdir()
    with pytest.raises(ValueError, match=r"classes of the training part, got 'n99'"):
        ImageFolderDataModule(str(imagenet), **SMALL).setup()
    (imagenet / "train" / "n99").mkdir()
    with pytest.raises(FileNotFoundError, match=r"expected images in .*n99"):
        ImageFolderDataModule(str(imagenet), **SMALL).setup()


def test_webvision_keeps_the_first_classes_in_list_order(webvision: Path) -> None:
    data = WebVisionDataModule(str(webvision), first_classes=3, split=Split(3, 4), **SMALL)
    data.setup()
    train, reference, val, test = data.sets
    assert train.labels.tolist() == [2, 2, 2, 1, 1, 1, 0, 0, 0]
    assert train.path(0) == webvision / "google/q0002/im 2.jpg"
    assert train.clean_labels is None
    assert train.noise_mask is None
    assert data.noise_rate is None
    assert [len(part) for part in (reference, val, test)] == [3, 4, 8]
    rows = torch.cat([part.indices for part in (reference, val, test)])
    assert torch.equal(rows.sort().values, torch.arange(15))
    assert next(iter(data.train_dataloader()))[0].shape == (4, 3, 8, 8)
    assert next(iter(data.reference_dataloader()))[0].shape == (3, 3, 8, 8)


def test_webvision_says_what_is_missing_or_damaged(webvision: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"train_filelist_google.txt .* info.tar"):
        WebVisionDataModule(str(webvision / "none")).setup()
    with pytest.raises(ValueError, match="expected class 4 to occur in"):
        WebVisionDataModule(str(webvision)).setup()
    (webvision / "google/q0002/im 2.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"the images of the list .*google_resized_256"):
        WebVisionDataModule(str(webvision), first_classes=3).setup()
    (webvision / "info/train_filelist_google.txt").write_text("a.jpg 0\nb.jpg\n")
    with pytest.raises(ValueError, match=r"a path and a label in line 2 of .*'b.jpg'"):
        WebVisionDataModule(str(webvision), first_classes=3).setup()
    (webvision / "info/train_filelist_google.txt").write_text("\n")
    with pytest.raises(ValueError, match="to list images, got 'an empty file'"):
        WebVisionDataModule(str(webvision), first_classes=3).setup()


def test_clothing1m_trains_noisy_and_checks_clean(clothing: Path) -> None:
    data = Clothing1MDataModule(str(clothing), split=Split(reference_size=2), **SMALL)
    data.setup()
    train, reference, val, test = data.sets
    assert train.labels.tolist() == list(range(9))
    assert [len(part) for part in (reference, val, test)] == [2, 4, 4]
    assert torch.equal(torch.cat([reference.indices, val.indices]).sort().values, torch.arange(6))
    assert torch.equal(reference.labels, (reference.indices + 9 + 1) % 14)
    assert test.labels.tolist() == [2, 3, 4, 5]
    assert next(iter(data.train_dataloader()))[0].shape == (4, 3, 8, 8)


def test_true_labels_are_read_without_images_where_they_are_known(
    imagenet: Path, clothing: Path
) -> None:
    data = ImageFolderDataModule(str(imagenet))
    assert data.num_classes == 3
    assert data.clean_labels().tolist() == [0] * 6 + [1] * 6 + [2] * 6
    with pytest.raises(ValueError, match=r"Clothing1MDataModule: .* noisy from the start"):
        Clothing1MDataModule(str(clothing)).clean_labels()


def test_clothing1m_says_what_is_missing(clothing: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"noisy_train_key_list.txt in .*Cysu/noisy_label"):
        Clothing1MDataModule(str(clothing / "none")).setup()
    (clothing / "annotations/clean_label_kv.txt").write_text("images/9/9.jpg 1\n")
    with pytest.raises(ValueError, match=r"a label for each image .* got 'images/0/10.jpg'"):
        Clothing1MDataModule(str(clothing)).setup()
