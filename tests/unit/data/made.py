"""Small files in the official formats, made by the tests."""

import codecs
import hashlib
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from sklearn.utils import Bunch

CLASSES = ("n01", "n02", "n10")
NEWS_NAMES = [
    *("alt.atheism", "comp.graphics", "comp.windows.x", "rec.autos", "talk.politics.misc"),
]


def make_cifar10(folder: Path, monkeypatch: pytest.MonkeyPatch, num_train: int = 50) -> None:
    """Write the six pickled batches; torchvision is told their checksums instead of its own."""
    base = folder / "cifar-10-batches-py"
    base.mkdir(parents=True)
    kind = torchvision.datasets.CIFAR10
    rng = np.random.default_rng(0)

    def entry(name: str, value: dict[str, Any]) -> list[str]:
        (base / name).write_bytes(pickle.dumps(value))
        return [name, hashlib.md5((base / name).read_bytes()).hexdigest()]

    def batch(name: str, size: int, start: int) -> list[str]:
        pixels = rng.integers(0, 256, (size, 3072), dtype=np.uint8)
        # The first pixel says which sample it is, so that order can be checked.
        pixels[:, 0] = np.arange(start, start + size)
        labels = [(start + i) % 10 for i in range(size)]
        return entry(name, {"data": pixels, "labels": labels})

    size = num_train // 5
    train = [batch(f"data_batch_{i + 1}", size, i * size) for i in range(5)]
    monkeypatch.setattr(kind, "train_list", train)
    monkeypatch.setattr(kind, "test_list", [batch("test_batch", 20, 100)])
    name, md5 = entry("batches.meta", {"label_names": list("abcdefghij")})
    monkeypatch.setattr(kind, "meta", {"filename": name, "key": "label_names", "md5": md5})


def make_cifar100(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = folder / "cifar-100-python"
    base.mkdir(parents=True)
    kind = torchvision.datasets.CIFAR100
    rng = np.random.default_rng(0)

    def entry(name: str, value: dict[str, Any]) -> list[str]:
        (base / name).write_bytes(pickle.dumps(value))
        return [name, hashlib.md5((base / name).read_bytes()).hexdigest()]

    def part(name: str, size: int) -> list[str]:
        pixels = rng.integers(0, 256, (size, 3072), dtype=np.uint8)
        return entry(name, {"data": pixels, "fine_labels": [i % 100 for i in range(size)]})

    monkeypatch.setattr(kind, "train_list", [part("train", 200)])
    monkeypatch.setattr(kind, "test_list", [part("test", 100)])
    name, md5 = entry("meta", {"fine_label_names": [str(i) for i in range(100)]})
    monkeypatch.setattr(kind, "meta", {"filename": name, "key": "fine_label_names", "md5": md5})


def make_human_labels(folder: Path, clean: torch.Tensor, num_classes: int) -> None:
    """Write a file like CIFAR-N's: NumPy arrays in a dictionary, saved by torch."""
    clean_array = clean.numpy()
    entries: dict[str, Any] = {"clean_label": clean_array}
    for shift, name in enumerate(
        ["aggre_label", "worse_label", "random_label1", "random_label2", "random_label3"], 1
    ):
        noisy = clean_array.copy()
        noisy[::shift] = (noisy[::shift] + shift) % num_classes
        entries[name] = noisy
    entries["noisy_label"] = (clean_array + 1) % num_classes
    entries["clean_coarse_label"] = [int(c) // 5 for c in clean_array]
    name = "CIFAR-10_human.pt" if num_classes == 10 else "CIFAR-100_human.pt"
    torch.save(entries, folder / name)


def save_jpeg(path: Path, colour: tuple[int, int, int], size: tuple[int, int] = (12, 10)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, "JPEG")


def jpeg_archive(path: Path, num_train: int = 12, num_test: int = 5) -> None:
    entries: dict[str, Any] = {}
    for split, num in (("train", num_train), ("test", num_test)):
        files = []
        for i in range(num):
            buffer = io.BytesIO()
            Image.new("RGB", (32, 32), (20 * i, 0, 0)).save(buffer, "JPEG")
            files.append(buffer.getvalue())
        entries[f"{split}_bytes"] = np.frombuffer(b"".join(files), dtype=np.uint8)
        entries[f"{split}_offsets"] = np.cumsum([0, *map(len, files)])
        entries[f"{split}_labels"] = np.arange(num, dtype=np.uint8) % 10
    np.savez(path, **entries)


def make_imagenet(folder: Path) -> Path:
    for split, num in (("train", 6), ("val", 2)):
        for label, name in enumerate(CLASSES):
            for i in range(num):
                save_jpeg(folder / split / name / f"{name}_{i}.JPEG", (80 * label, 10 * i, 0))
    (folder / "train" / "n01" / "notes.txt").write_text("no image")
    return folder


def make_webvision(folder: Path) -> Path:
    train, val = [], []
    for label in range(4):
        for i in range(3):
            train.append(f"google/q{label:04}/im {i}.jpg {label}")
            save_jpeg(folder / f"google/q{label:04}/im {i}.jpg", (60 * label, 0, 0))
        for i in range(5):
            val.append(f"val{label}{i}.jpg {label}")
            save_jpeg(folder / f"val_images_256/val{label}{i}.jpg", (60 * label, 0, 0))
    (folder / "info").mkdir()
    (folder / "info/train_filelist_google.txt").write_text("\n".join(train[::-1]) + "\n")
    (folder / "info/val_filelist.txt").write_text("\n".join(val) + "\n")
    return folder


def make_clothing(folder: Path) -> Path:
    keys = {"noisy_train": range(9), "clean_val": range(9, 15), "clean_test": range(15, 19)}
    lists = folder / "annotations"
    lists.mkdir()
    for name, numbers in keys.items():
        lines = [f"images/{i % 10}/{i}.jpg" for i in numbers]
        for i, line in zip(numbers, lines, strict=True):
            save_jpeg(folder / line, (10 * i, 0, 0))
        (lists / f"{name}_key_list.txt").write_text("\n".join(lines))
    rows = "".join(f"images/{i % 10}/{i}.jpg {{}}\n" for i in range(19))
    (lists / "noisy_label_kv.txt").write_text(rows.format(*[i % 14 for i in range(19)]))
    (lists / "clean_label_kv.txt").write_text(rows.format(*[(i + 1) % 14 for i in range(19)]))
    return folder


def make_news(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    words = np.array([f"word{chr(97 + i)}{chr(97 + j)}" for i in range(6) for j in range(6)])

    def part(num: int) -> Bunch:
        target = np.arange(num) % len(NEWS_NAMES)
        data = [
            f"From: someone\n\n{' '.join(rng.choice(words[6 * t : 6 * t + 8], 20))}" for t in target
        ]
        filenames = np.array([f"x/{i}" for i in range(num)])
        return Bunch(data=data, target=target, target_names=NEWS_NAMES, filenames=filenames)

    cache = {"train": part(50), "test": part(20)}
    packed = codecs.encode(pickle.dumps(cache), "zlib_codec")
    (folder / "20news-bydate_py3.pkz").write_bytes(packed)
    return folder
