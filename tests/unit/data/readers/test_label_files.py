"""Label files: the formats that are read, and that nothing in them is ever executed."""

import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from lightning_alignprune.data import read_label_file, write_label_file


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".npz"])
def test_what_is_written_is_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"labels{suffix}"
    entries = {"clean_label": torch.tensor([1, 2]), "noisy_label": torch.tensor([2, 2])}
    write_label_file(path, entries)
    found = read_label_file(path)
    assert found.keys() == entries.keys()
    assert all(torch.equal(found[name], entries[name]) for name in entries)


def test_arrays_scalars_and_lists_saved_by_torch_are_read(tmp_path: Path) -> None:
    path = tmp_path / "CIFAR-100_human.pt"
    torch.save(
        {
            "noisy_label": np.array([3, 1], dtype=np.int32),
            "coarse": [1, 0],
            "scalars": [np.int64(4), np.int64(5)],
        },
        path,
    )
    found = read_label_file(path)
    assert {name: value.tolist() for name, value in found.items()} == {
        "noisy_label": [3, 1],
        "coarse": [1, 0],
        "scalars": [4, 5],
    }
    assert all(value.dtype == torch.int64 for value in found.values())


def test_files_written_under_numpy_1_are_read(tmp_path: Path) -> None:
    # NumPy 1 pickles arrays under the module name numpy.core, which NumPy 2 renamed.
    path = tmp_path / "old.pt"

    class Pickler(pickle._Pickler):
        def save_global(self, obj, name=None):
            if getattr(obj, "__module__", "") == "numpy._core.multiarray":
                self.write(pickle.GLOBAL + f"numpy.core.multiarray\n{obj.__name__}\n".encode())
                self.memoize(obj)
            else:
                super().save_global(obj, name)

        dispatch: ClassVar = {**pickle._Pickler.dispatch, type(len): save_global}

    class Module:
        Unpickler = pickle.Unpickler

    Module.Pickler = Pickler
    torch.save({"noisy_label": np.arange(3)}, path, pickle_module=Module)
    assert b"numpy.core.multiarray" in path.read_bytes()
    assert read_label_file(path)["noisy_label"].tolist() == [0, 1, 2]


class Attack:
    def __reduce__(self):
        return os.system, ("echo this must never run",)


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_a_file_that_wants_to_run_code_is_refused(tmp_path: Path, how: str, monkeypatch) -> None:
    ran: list[str] = []
    path = tmp_path / "labels.pt"
    if how == "torch":
        torch.save({"noisy_label": Attack()}, path)
    else:
        path.write_bytes(pickle.dumps({"noisy_label": Attack()}))
    monkeypatch.setattr(os, "system", ran.append)
    with pytest.raises(ValueError, match="cannot be read without running code"):
        read_label_file(path)
    assert not ran


def test_an_npz_with_objects_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "labels.npz"
    np.savez(path, noisy_label=np.array([Attack()], dtype=object))
    with pytest.raises(ValueError, match=r"labels\.npz .*cannot be read without running code"):
        read_label_file(path)


@pytest.mark.parametrize("content", [b"", b"not a pickle at all"])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "labels.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"expected .*labels\.pt to be a dictionary"):
        read_label_file(path)


def test_entries_that_are_no_labels_are_named(tmp_path: Path) -> None:
    path = tmp_path / "labels.npz"
    np.savez(path, good=np.arange(2), bad=np.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"entry 'bad' of .* shape \(N,\).*float64"):
        read_label_file(path)


def test_a_list_is_no_dictionary(tmp_path: Path) -> None:
    path = tmp_path / "labels.pt"
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match=r"expected a dictionary of labels .* got 'list'"):
        read_label_file(path)


def test_missing_files_and_other_endings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_label_file(tmp_path / "none.pt")
    (tmp_path / "labels.csv").write_text("1")
    with pytest.raises(ValueError, match=r"to end in .pt, .pth or .npz"):
        read_label_file(tmp_path / "labels.csv")
    with pytest.raises(ValueError, match=r"write_label_file: expected path to end in"):
        write_label_file(tmp_path / "labels.csv", {})


def under_numpy_1(value: object) -> bytes:
    """Pickle as NumPy 1 did: its modules were called numpy.core."""
    return pickle.dumps(value, 2).replace(b"cnumpy._core.", b"cnumpy.core.")


def npy_of_objects(shape: tuple[int, ...], content: bytes) -> bytes:
    file = io.BytesIO()
    header = {"descr": "|O", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + content


def test_objects_saved_under_numpy_1_are_read(tmp_path: Path) -> None:
    labels = {"noisy_label": np.arange(3), "coarse": [np.int64(2), np.int64(1), np.int64(0)]}
    whole = under_numpy_1(np.array(labels, dtype=object))
    assert b"numpy.core.multiarray" in whole
    (tmp_path / "labels.npy").write_bytes(npy_of_objects((), whole))
    found = read_label_file(tmp_path / "labels.npy")
    assert {name: value.tolist() for name, value in found.items()} == {
        "noisy_label": [0, 1, 2],
        "coarse": [2, 1, 0],
    }
    entry = npy_of_objects((3,), under_numpy_1(np.array([2, 0, 1], dtype=object)))
    with zipfile.ZipFile(tmp_path / "labels.npz", "w") as archive:
        archive.writestr("noisy_label.npy", entry)
    assert read_label_file(tmp_path / "labels.npz")["noisy_label"].tolist() == [2, 0, 1]


def test_the_entry_that_an_older_version_wrote_by_accident_is_no_label(tmp_path: Path) -> None:
    path = tmp_path / "labels.npz"
    np.savez(path, noisy_label=np.arange(3), **{"allow_pickle_": np.array(False)})
    renamed = tmp_path / "old.npz"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(renamed, "w") as target:
        for name in source.namelist():
            target.writestr(name.replace("allow_pickle_", "allow_pickle"), source.read(name))
    assert list(read_label_file(renamed)) == ["noisy_label"]


@pytest.mark.parametrize("suffix", [".pt", ".npz", ".npy"])
@pytest.mark.parametrize("how", ["half", "flipped", "empty", "text"])
def test_every_kind_of_damage_names_the_file(tmp_path: Path, suffix: str, how: str) -> None:
    path = tmp_path / f"labels{suffix}"
    if suffix == ".npy":
        np.save(path, np.array({"noisy_label": np.arange(500)}, dtype=object))
    else:
        write_label_file(path, {"noisy_label": torch.arange(500)})
    whole = path.read_bytes()
    middle = slice(len(whole) // 3, 2 * len(whole) // 3)
    damaged = bytearray(whole)
    damaged[middle] = bytes(byte ^ 0x5A for byte in whole[middle])
    content = {"half": whole[: len(whole) // 2], "flipped": bytes(damaged), "empty": b""}
    path.write_bytes(content.get(how, b"<html>not found</html>"))
    if how == "flipped" and suffix == ".npy":
        return  # it has no checksum
    with pytest.raises(ValueError, match=rf"expected .*labels\{suffix} to be a dictionary.*again"):
        read_label_file(path)
