"""Small files in the official formats, made by the tests."""

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
