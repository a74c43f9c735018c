"""A file of drawn label noise: where the true labels come from, and what is refused."""

import pytest
import torch

from lightning_alignprune.data import make_noise_file, read_label_file, write_label_file

CLEAN = torch.arange(20) % 4


@pytest.fixture
def labels(tmp_path):
    path = tmp_path / "clean.npz"
    write_label_file(path, {"clean_label": CLEAN, "other": CLEAN % 2})
    return str(path)


def test_the_file_holds_both_labels_and_the_report_counts_them(tmp_path, labels):
    out = tmp_path / "noisy.pt"
    said = make_noise_file(out, 0.5, "pairflip", labels=labels)
    assert said.startswith(f"{out}: 20 labels, 4 classes, pairflip at rate 0.5, seed 0: 10 wrong")
    found = read_label_file(out)
    assert torch.equal(found["clean_label"], CLEAN)
    assert int((found["noisy_label"] == (CLEAN + 1) % 4).sum()) == 10


def test_another_entry_and_more_classes(tmp_path, labels):
    said = make_noise_file(tmp_path / "a.npz", 0.1, labels=labels, entry="other")
    assert "20 labels, 2 classes" in said
    assert "7 classes" in make_noise_file(tmp_path / "b.npz", 0.1, labels=labels, num_classes=7)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"overwrite": "no"}, TypeError, "alignprune noise: expected overwrite to be True or"),
        ({"num_classes": 0}, ValueError, r"expected num_classes in \[2, inf\), got 0"),
        ({"rate": "0.5"}, TypeError, "LabelNoise: expected rate a number"),
        ({"seed": 1.5}, TypeError, "LabelNoise: expected seed an int"),
        ({"labels": None}, ValueError, "labels or data and only one, got 'neither'"),
        ({"out": 3}, TypeError, "expected out to be a path"),
    ],
)
def test_wrong_arguments_are_named_and_nothing_is_written(tmp_path, labels, arguments, error, text):
    out = tmp_path / "noisy.npz"
    with pytest.raises(error, match=text):
        make_noise_file(**{"out": out, "rate": 0.5, "labels": labels, **arguments})
    assert not out.exists()


def test_a_file_is_replaced_only_if_that_is_said(tmp_path, labels):
    with pytest.raises(FileExistsError, match="expected out to be a new file"):
        make_noise_file(labels, 0.5, labels=labels)
    make_noise_file(labels, 0.5, labels=labels, overwrite=True)
    assert "noisy_label" in read_label_file(labels)
