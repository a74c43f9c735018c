"""`LabelNoise`: drawn noise, human labels, and refusing files that belong to other data."""

from pathlib import Path

import pytest
import torch

from lightning_alignprune.data import LabelNoise, write_label_file
from lightning_alignprune.data.noise import FILE_ENTRIES
from lightning_alignprune.functional import symmetric_uniform

from .made import make_human_labels

CLEAN = torch.arange(40) % 10


def test_no_noise_is_a_copy() -> None:
    labels, mask = LabelNoise().apply(CLEAN, 10)
    labels[0] = 9
    assert CLEAN[0] == 0
    assert not mask.any()


def test_drawn_noise_is_the_function_of_that_name() -> None:
    labels, mask = LabelNoise("symmetric_uniform", 0.25, seed=3).apply(CLEAN, 10)
    expected = symmetric_uniform(CLEAN, 10, 0.25, 3)
    assert torch.equal(labels, expected[0])
    assert torch.equal(mask, expected[1])


@pytest.mark.parametrize("kind", FILE_ENTRIES)
def test_human_labels_come_from_the_entry_of_their_kind(tmp_path: Path, kind: str) -> None:
    make_human_labels(tmp_path, CLEAN, 10)
    own = tmp_path / "CIFAR-10_human.pt"
    labels, mask = LabelNoise(kind).apply(CLEAN, 10, own)
    shift = list(FILE_ENTRIES).index(kind) + 1 if kind != "noisy" else 1
    assert torch.equal(labels[::shift], (CLEAN[::shift] + shift) % 10)
    assert torch.equal(mask, labels != CLEAN)
    again, _ = LabelNoise(kind, file=str(own)).apply(CLEAN, 10, tmp_path / "not there")
    assert torch.equal(labels, again)


def test_labels_in_another_order_are_refused_with_the_first_index(tmp_path: Path) -> None:
    make_human_labels(tmp_path, CLEAN.flip(0), 10)
    with pytest.raises(ValueError, match=r"clean_label of .* got 9 instead of 0 at index 0"):
        LabelNoise("worse").apply(CLEAN, 10, tmp_path / "CIFAR-10_human.pt")


def test_labels_of_another_length_are_refused(tmp_path: Path) -> None:
    make_human_labels(tmp_path, CLEAN[:30], 10)
    with pytest.raises(ValueError, match=r"to have 40 labels, got 30"):
        LabelNoise("worse").apply(CLEAN, 10, tmp_path / "CIFAR-10_human.pt")


def test_a_kind_that_the_file_lacks_is_refused_with_what_it_has(tmp_path: Path) -> None:
    write_label_file(tmp_path / "mine.npz", {"noisy_label": CLEAN})
    with pytest.raises(ValueError, match=r"expected an entry 'worse_label' in .*'noisy_label'"):
        LabelNoise("worse", file=str(tmp_path / "mine.npz")).apply(CLEAN, 10)


def test_labels_out_of_range_are_refused(tmp_path: Path) -> None:
    write_label_file(tmp_path / "mine.npz", {"noisy_label": CLEAN + 1})
    with pytest.raises(ValueError, match=r"in \[0, 9\], got '10 at index 9'"):
        LabelNoise("noisy", file=str(tmp_path / "mine.npz")).apply(CLEAN, 10)


def test_a_missing_label_file_gives_the_advice(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="Go and get it"):
        LabelNoise("worse").apply(CLEAN, 10, tmp_path / "none.pt", "Go and get it.")
    with pytest.raises(ValueError, match="expected file for kind 'noisy', got None"):
        LabelNoise("noisy").apply(CLEAN, 10)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"kind": "symetric"}, "expected kind to be one of 'none'"),
        ({"kind": "pairflip", "rate": 1.2}, r"expected rate in \[0, 1\], got 1.2"),
        ({"kind": "worse", "rate": 0.2}, "expected rate to be 0 for kind 'worse'"),
        ({"rate": 0.2}, "expected rate to be 0 for kind 'none'"),
        ({"kind": "pairflip", "file": "x.pt"}, "expected file to be None for 'pairflip'"),
        ({"seed": -1}, "expected seed in"),
    ],
)
def test_settings_without_effect_or_out_of_range_are_refused(arguments, text) -> None:
    with pytest.raises(ValueError, match=text):
        LabelNoise(**arguments)
