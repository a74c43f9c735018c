"""Files of labels: the human labels of CIFAR-N and files in the same format.

A label file is a dictionary of entries with one class index per sample, in the order of the data
set's own training files. ``.pt`` and ``.pth`` are what ``torch.save`` writes, ``.npz`` is NumPy's.
Neither is allowed to run code while it is read.
"""

import _codecs
import pickle
import warnings
from collections.abc import Mapping
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
        path: A ``.pt``, ``.pth`` or ``.npz`` file.

    Returns:
        Entries by name, each of shape (N,), int64, in the file's order.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is of another kind, holds anything but arrays of integers, or asks
            for code to be run.

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
        with np.load(path, allow_pickle=False) as archive:
            entries: Any = {name: archive[name] for name in archive.files}
    elif path.suffix in (".pt", ".pth"):
        entries = _load_torch(path)
    else:
        raise ValueError(message(_OWNER, "path", "to end in .pt, .pth or .npz", str(path), _REMEDY))
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
        np.savez_compressed(path, allow_pickle=False, **arrays)
    elif path.suffix in (".pt", ".pth"):
        torch.save(arrays, path)
    else:
        raise ValueError(
            message("write_label_file", "path", "to end in .pt, .pth or .npz", str(path), _REMEDY)
        )


_REMEDY = "Use torch.save or numpy.savez on a dictionary of integer arrays."


def _load_torch(path: Path) -> Any:
    # What an array of numbers needs to be rebuilt, under the module names of NumPy 1 and 2. All of
    # these only build values; everything else in the file is refused by the loader.
    rebuild, scalar = np.empty(0).__reduce__()[0], np.int64(0).__reduce__()[0]
    allowed: list[Any] = [np.ndarray, np.dtype, _codecs.encode]
    for core in ("numpy.core", "numpy._core"):
        allowed += [(rebuild, f"{core}.multiarray._reconstruct")]
        allowed += [(scalar, f"{core}.multiarray.scalar")]
    allowed += [type(np.dtype(code)) for code in ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8")]
    try:
        with torch.serialization.safe_globals(allowed), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols; a failure says enough
            return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(
            f"{_OWNER}: expected {path} to be a dictionary of integer arrays saved by torch.save, "
            f"got a file that cannot be read without running code from it. {_REMEDY}"
        ) from error


def _as_labels(path: Path, name: str, value: Any) -> Tensor:
    array = value.numpy() if isinstance(value, Tensor) else np.asarray(value)
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
