import numpy as np
import pytest
import torch

from lightning_alignprune.state.index_file import read_indices, write_indices

INDICES = torch.tensor([0, 3, 20_000_001])


@pytest.mark.parametrize("suffix", [".npy", ".txt"])
def test_any_tool_reads_what_is_written(tmp_path, suffix):
    path = write_indices(tmp_path / "new" / f"kept{suffix}", INDICES)
    assert torch.equal(read_indices(path), INDICES)
    other = np.load(path) if suffix == ".npy" else np.array(path.read_text().split(), dtype=int)
    assert other.tolist() == INDICES.tolist()
    assert [each.name for each in path.parent.iterdir()] == [path.name]  # nothing half written


def test_indices_of_another_tool_are_read(tmp_path):
    np.save(tmp_path / "a.npy", np.array([1, 2], dtype=np.int32))
    (tmp_path / "b.txt").write_text("7\n9\n")
    (tmp_path / "c.txt").write_text("7\n")
    found = [read_indices(tmp_path / name).tolist() for name in ("a.npy", "b.txt", "c.txt")]
    assert found == [[1, 2], [7, 9], [7]]


def test_refusals(tmp_path):
    with pytest.raises(ValueError, match=r"path to end in .npy or .txt, got 'kept.csv'"):
        write_indices("kept.csv", INDICES)
    with pytest.raises(FileNotFoundError, match="which is not there"):
        read_indices(tmp_path / "none.npy")
    np.save(tmp_path / "mask.npy", np.array([True, False]))
    np.save(tmp_path / "floats.npy", np.array([0.5]))
    np.save(tmp_path / "table.npy", np.array([[1, 2]]))
    (tmp_path / "words.txt").write_text("one\n")
    (tmp_path / "broken.npy").write_text("1 2")
    for name in ("mask.npy", "floats.npy", "table.npy", "words.txt", "broken.npy"):
        with pytest.raises(ValueError, match=f"{name}' to hold one list of whole numbers, got"):
            read_indices(tmp_path / name)
