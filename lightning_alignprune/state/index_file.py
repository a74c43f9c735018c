"""Files that say which samples are kept: plain numbers that any tool reads.

``.npy`` holds one int64 array of the indices, ``.txt`` one index a line; ascending, from 0 on.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

SUFFIXES = (".npy", ".txt")


def check_suffix(owner: str, argument: str, path: str | Path) -> Path:
    """Return a path whose name says how it is written.

    Raises:
        ValueError: If the suffix is neither ``.npy`` nor ``.txt``.
    """
    found = Path(path)
    if found.suffix not in SUFFIXES:
        raise ValueError(
            f"{owner}: expected {argument} to end in .npy or .txt, got {str(path)!r}. "
            "The first is read by numpy.load, the second has an index a line."
        )
    return found


def write_indices(path: str | Path, indices: Tensor) -> Path:
    """Write sample indices, whole or not at all.

    Args:
        path: ``.npy`` or ``.txt``; folders are made, a file that is there is replaced.
        indices: Shape (K,), int64.

    Returns:
        The path.

    Raises:
        ValueError: If the suffix is another.

    Example:
        >>> import tempfile
        >>> path = write_indices(tempfile.mkdtemp() + "/kept.txt", torch.tensor([0, 3, 5]))
        >>> path.read_text().split(), read_indices(path)
        (['0', '3', '5'], tensor([0, 3, 5]))
    """
    found = check_suffix("write_indices", "path", path)
    found.parent.mkdir(parents=True, exist_ok=True)
    values = indices.cpu().numpy().astype(np.int64)
    half_written = found.with_name(f".{found.name}.part")
    with half_written.open("wb") as file:
        if found.suffix == ".npy":
            np.save(file, values)
        else:
            np.savetxt(file, values, fmt="%d")
    half_written.replace(found)
    return found


def read_indices(path: str | Path) -> Tensor:
    """Read sample indices, shape (K,), int64.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the suffix is another or the file holds something else.
    """
    found = check_suffix("read_indices", "path", path)
    if not found.exists():
        raise FileNotFoundError(
            f"read_indices: expected a file of sample indices, got {str(path)!r}, which is not "
            "there. alignprune coreset writes one."
        )
    try:
        if found.suffix == ".npy":
            values = np.load(found, allow_pickle=False)
        else:
            values = np.loadtxt(found, dtype=np.int64, ndmin=1)
    except ValueError as error:
        raise ValueError(_another(found, str(error))) from error
    if values.ndim != 1 or not np.issubdtype(values.dtype, np.integer):
        raise ValueError(_another(found, f"shape {values.shape} of {values.dtype}"))
    return torch.from_numpy(values.astype(np.int64))


def _another(path: Path, found: str) -> str:
    return (
        f"read_indices: expected {str(path)!r} to hold one list of whole numbers, got {found}. "
        "Of a mask they are mask.nonzero()."
    )
