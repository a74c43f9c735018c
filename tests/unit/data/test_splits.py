"""Holding samples out: disjoint, complete, seeded."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_alignprune.data.splits import hold_out, resolve_size, subset
from lightning_alignprune.functional import symmetric_uniform


@given(
    total=st.integers(1, 200),
    reference=st.floats(0, 0.49),
    val=st.integers(0, 20),
    seed=st.integers(0, 2**40),
)
def test_parts_are_disjoint_ascending_and_complete(total, reference, val, seed) -> None:
    if round(reference * total) + val >= total:
        return
    state = torch.get_rng_state()
    parts = hold_out("X", total, seed, reference_size=reference, val_size=val)
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(total))
    assert all(torch.equal(part, part.sort().values) for part in parts)
    assert [len(parts[0]), len(parts[1])] == [round(reference * total), val]
    assert torch.equal(torch.get_rng_state(), state)


def test_the_reference_does_not_depend_on_the_validation_size() -> None:
    a = hold_out("X", 100, 5, reference_size=10, val_size=0)[0]
    b = hold_out("X", 100, 5, reference_size=10, val_size=30)[0]
    c = hold_out("X", 100, 6, reference_size=10, val_size=30)[0]
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_one_is_a_sample_and_one_point_zero_is_everything() -> None:
    assert resolve_size("X", "size", 1, 50) == 1
    assert resolve_size("X", "size", 1.0, 50) == 50


@pytest.mark.parametrize("size", [-1, 51, 1.5, -0.1, float("nan")])
def test_sizes_out_of_range_are_refused(size) -> None:
    with pytest.raises(ValueError, match=r"X: expected val_size to be an int in \[0, 50\]"):
        resolve_size("X", "val_size", size, 50)


@pytest.mark.parametrize("size", [True, "ten", None])
def test_sizes_that_are_no_numbers_are_refused(size) -> None:
    with pytest.raises(TypeError, match="X: expected val_size"):
        resolve_size("X", "val_size", size, 50)


def test_holding_everything_out_is_refused() -> None:
    with pytest.raises(ValueError, match=r"leave some of the 10 samples, got '6 \+ 4'"):
        hold_out("X", 10, 0, reference_size=6, val_size=4)


@pytest.mark.parametrize("seed", range(3))
def test_what_is_held_out_does_not_depend_on_which_labels_are_wrong(seed: int) -> None:
    clean = torch.zeros(10_000, dtype=torch.int64)
    _, mask = symmetric_uniform(clean, 5, 0.5, seed)
    reference, val, rest = hold_out("X", 10_000, seed, reference_size=1000, val_size=1000)
    for part in (reference, val, subset("X", rest, 1000, seed)):
        # Standard deviation of the share is 0.016.
        assert mask[part].float().mean().item() == pytest.approx(0.5, abs=0.06)


def test_subset_takes_some_of_the_part() -> None:
    part = torch.arange(0, 40, 2)
    some = subset("X", part, 5, 0)
    assert len(some) == 5
    assert set(some.tolist()) <= set(part.tolist())
    assert subset("X", part, None, 0) is part
    with pytest.raises(ValueError, match="train_size above 0"):
        subset("X", part, 0, 0)
