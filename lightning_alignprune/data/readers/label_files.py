"""Files of labels: the human labels of CIFAR-N and files in the same format.

A label file is a dictionary of entries with one class index per sample, in the order of the data
set's own training files. ``.pt`` and ``.pth`` are what ``torch.save`` writes, ``.npz`` is NumPy's.
Neither is allowed to run code while it is read.
"""

import _codecs
import io
import pickle
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_alignprune._checks import message

_OWNER = "read_label_file"


def read_label_file(path: str | Path) -> dict[str, Tensor]:
    """Read every entry of a label file without running code from it.

    Args:
        path: A ``.pt``, ``.pth`` or ``.npz`` file, or a ``.npy`` file of a dictionary.

    Returns:
        Entries by name, each of shape (N,), int64, in the file's order.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is of another kind, is damaged, holds anything but arrays of
            integers, or asks for code to be run.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "labels.npz"
        >>> write_label_file(path, {"noisy_label": torch.tensor([2, 0, 1])})
        >>> read_label_file(path)["noisy_label"].tolist()
        [2, 0, 1]
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            message(_OWNER, "path", "to be a label file", str(path), "There is no such file.")
        )
    if path.suffix == ".npz":
        entries: Any = _load_npz(path)
    elif path.suffix == ".npy":
        with path.open("rb") as file:
            entries = _guarded(path, lambda: _load_npy(file))
    elif path.suffix in (".pt", ".pth"):
        entries = _load_torch(path)
    else:
        endings = "to end in .pt, .pth or .npz (or .npy, of a dictionary)"
        raise ValueError(message(_OWNER, "path", endings, str(path), _REMEDY))
    if isinstance(entries, np.ndarray) and entries.shape == ():
        entries = entries.item()  # numpy.save of a dictionary
    if not isinstance(entries, Mapping):
        raise ValueError(
            message(_OWNER, "a dictionary of labels", f"in {path}", type(entries).__name__, _REMEDY)
        )
    return {str(name): _as_labels(path, str(name), value) for name, value in entries.items()}


def write_label_file(path: str | Path, entries: Mapping[str, Tensor]) -> None:
    """Write entries in the format that :func:`read_label_file` reads.

    Args:
        path: A ``.pt``, ``.pth`` or ``.npz`` file; its folder must exist.
        entries: Labels by name, each of shape (N,), an integer dtype.

    Raises:
        ValueError: If the file is of another kind.
    """
    path = Path(path)
    arrays: dict[str, Any] = {name: value.cpu().numpy() for name, value in entries.items()}
    if path.suffix == ".npz":
        # Without allow_pickle=False: NumPy 1 would store that as an entry.
        np.savez_compressed(path, **arrays)
    elif path.suffix in (".pt", ".pth"):
        torch.save(arrays, path)
    else:
        raise ValueError(
            message("write_label_file", "path", "to end in .pt, .pth or .npz", str(path), _REMEDY)
        )


_REMEDY = "Use torch.save or numpy.savez on a dictionary of integer arrays."


def _array_parts() -> dict[tuple[str, str], Any]:
    # What an array of numbers needs to be rebuilt, under the module names of NumPy 1 and 2. All of
    # these only build values; everything else in the file is refused by the loader.
    rebuild, scalar = np.empty(0).__reduce__()[0], np.int64(0).__reduce__()[0]
    parts: dict[tuple[str, str], Any] = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): _codecs.encode,
    }
    for core in ("numpy.core", "numpy._core"):
        parts[f"{core}.multiarray", "_reconstruct"] = rebuild
        parts[f"{core}.multiarray", "scalar"] = scalar
    return parts


class _ArrayUnpickler(pickle.Unpickler):
    """Builds arrays, numbers, strings and containers of them, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        parts = _array_parts()
        if (module, name) not in parts:
            raise pickle.UnpicklingError(f"{module}.{name} is not needed for labels")
        return parts[module, name]


def _load_npz(path: Path) -> dict[str, Any]:
    def read() -> dict[str, Any]:
        entries = {}
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                with archive.open(name) as file:
                    entries[name.removesuffix(".npy")] = _load_npy(file)
        return entries

    entries: dict[str, Any] = _guarded(path, read)
    if np.shape(entries.get("allow_pickle", [])) == ():
        del entries["allow_pickle"]  # an older write_label_file under NumPy 1 left it there
    return entries


def _load_npy(file: Any) -> Any:
    content = io.BytesIO(file.read())
    version = np.lib.format.read_magic(content)
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }[version]
    dtype = read_header(content)[2]
    if dtype.hasobject:
        return _ArrayUnpickler(content).load()
    content.seek(0)
    return np.lib.format.read_array(content, allow_pickle=False)


def _load_torch(path: Path) -> Any:
    allowed: list[Any] = [(part, ".".join(name)) for name, part in _array_parts().items()]
    allowed += [type(np.dtype(code)) for code in ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8")]

    def read() -> Any:
        with torch.serialization.safe_globals(allowed), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols; a failure says enough
            return torch.load(path, map_location="cpu", weights_only=True)

    return _guarded(path, read)


def _guarded(path: Path, read: Callable[[], Any]) -> Any:
    # Damaged bytes raise almost anything: zip, zlib, pickle, struct, key and Unicode errors.
    try:
        return read()
    except Exception as error:
        raise ValueError(
            f"{_OWNER}: expected {path} to be a dictionary of integer arrays, got a file that is "
            f"damaged or cannot be read without running code from it. {_REMEDY} If it was "
            "downloaded or copied, do that again."
        ) from error


def _as_labels(path: Path, name: str, value: Any) -> Tensor:
    array = value.numpy() if isinstance(value, Tensor) else np.asarray(value)
    if array.dtype.hasobject and array.size:
        array = np.asarray(array.tolist())  # numbers that were stored as objects
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ValueError(
            message(
                _OWNER,
                f"entry {name!r} of {path}",
                "to have shape (N,) and an integer dtype",
                f"{array.shape} {array.dtype}",
                _REMEDY,
            )
        )
    return torch.from_numpy(array.astype(np.int64))
