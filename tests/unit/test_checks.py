"""The argument checks: what they accept, what they make of it, and how they refuse."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_alignprune import PruningSchedule
from lightning_alignprune._checks import (
    check_bool,
    check_callable,
    check_choice,
    check_float,
    check_floats,
    check_instance,
    check_int,
    check_ints,
    check_path,
)

REMEDY = {"remedy": "Do this."}


def an_int(value, **bounds):
    return check_int("X", "n", value, **bounds, **REMEDY)


def a_float(value, **bounds):
    return check_float("X", "r", value, **bounds, **REMEDY)


@pytest.mark.parametrize("given", [3, np.int64(3), np.uint8(3), np.array([3])[0]])
def test_an_int_of_numpy_becomes_a_plain_one(given):
    assert (an_int(given, low=1), type(an_int(given, low=1))) == (3, int)


@pytest.mark.parametrize("given", [0.5, np.float32(0.5), np.float16(0.5), Fraction(1, 2)])
def test_a_number_becomes_a_plain_float(given):
    assert (a_float(given), type(a_float(given))) == (0.5, float)


def test_an_int_is_a_number():
    for given in (1, np.int64(1)):
        assert (a_float(given, high=1), type(a_float(given))) == (1.0, float)


@pytest.mark.parametrize("given", ["7", 3.0, np.float64(3.0), True, np.bool_(True), None, [3]])
def test_what_is_no_int(given):
    with pytest.raises(TypeError, match=r"^X: expected n an int in \[1, inf\), got .* Do this"):
        an_int(given, low=1)


@pytest.mark.parametrize("given", ["0.5", True, np.bool_(False), None, (0.5,), 1j])
def test_what_is_no_number(given):
    with pytest.raises(TypeError, match=r"^X: expected r a number in \[0, 1\), got .* Do this"):
        a_float(given, low=0, below=1)


@pytest.mark.parametrize(
    ("bounds", "inside", "outside", "text"),
    [
        ({"low": 1}, (1, 9), (0, -3), r"in \[1, inf\)"),
        ({"low": 0, "high": 4}, (0, 4), (-1, 5), r"in \[0, 4\]"),
        ({"low": 0, "below": 4}, (0, 3), (-1, 4), r"in \[0, 4\)"),
        ({"high": 2_000_000}, (-9, 2_000_000), (2_000_001,), r"in \(-inf, 2000000\]"),
    ],
)
def test_intervals_of_ints(bounds, inside, outside, text):
    for value in inside:
        assert an_int(value, **bounds) == value
    for value in outside:
        with pytest.raises(ValueError, match=rf"^X: expected n {text}, got {value}. Do this.$"):
            an_int(value, **bounds)


@pytest.mark.parametrize(
    ("bounds", "inside", "outside", "text"),
    [
        ({"low": 0, "high": 1}, (0, 1), (-0.1, 1.1), r"in \[0, 1\]"),
        ({"above": 0, "below": 1}, (0.1, 0.9), (0, 1), r"in \(0, 1\)"),
        ({"above": 0.125}, (0.2, 1e9), (0.125,), r"in \(0.125, inf\)"),
        ({"below": 1}, (-5,), (1,), r"in \(-inf, 1\)"),
        ({}, (-5,), (), "to be finite"),
    ],
)
def test_intervals_of_floats(bounds, inside, outside, text):
    for value in inside:
        assert a_float(value, **bounds) == value
    for value in (*outside, float("nan"), float("inf"), np.float32("nan"), 10**400):
        with pytest.raises(ValueError, match=rf"^X: expected r {text}, got .*{value}"):
            a_float(value, **bounds)


def test_none_is_an_int_only_where_it_says_so():
    assert an_int(None, optional=True) is None
    assert an_int(2, optional=True) == 2
    with pytest.raises(TypeError, match="expected n an int or None, got '7'"):
        an_int("7", optional=True)


def test_a_large_value_is_named_by_its_class():
    with pytest.raises(TypeError, match=r"got <class 'torch.Tensor'>\. Do this"):
        an_int(torch.zeros(1000))


def test_sequences_of_numbers():
    many = check_ints("X", "n", np.arange(3), low=0, **REMEDY)
    assert (many, {type(n) for n in many}) == ((0, 1, 2), {int})
    assert check_floats("X", "r", [1, np.float32(2)], above=0, **REMEDY) == (1.0, 2.0)
    assert check_floats("X", "r", [], above=0, **REMEDY) == ()


@pytest.mark.parametrize("given", [1, 0.5, "12", b"12", None, {1, 2}, np.ones((2, 2))])
def test_what_is_no_sequence_of_numbers(given):
    with pytest.raises(TypeError, match=r"X: expected r to be a sequence of numbers in \(0, inf\)"):
        check_floats("X", "r", given, above=0, **REMEDY)
    with pytest.raises(TypeError, match=r"X: expected n to be a sequence of ints in \[0, inf\)"):
        check_ints("X", "n", given, low=0, **REMEDY)


def test_each_number_of_a_sequence_is_checked():
    with pytest.raises(TypeError, match="X: expected r a number, got 'a'"):
        check_floats("X", "r", ["a"], **REMEDY)
    with pytest.raises(ValueError, match=r"X: expected n in \[1, 3\], got 4"):
        check_ints("X", "n", [1, 4], low=1, high=3, **REMEDY)
    with pytest.raises(ValueError, match=r"X: expected r to be 3 numbers, got \[1, 2\]"):
        check_floats("X", "r", [1, 2], length=3, **REMEDY)


@pytest.mark.parametrize("given", [True, False, np.bool_(True), np.bool_(False)])
def test_a_bool_of_numpy_becomes_a_plain_one(given):
    assert check_bool("X", "flag", given) is bool(given)


@pytest.mark.parametrize("given", ["no", "false", 1, 0, None, 0.0, []])
def test_what_is_no_bool(given):
    with pytest.raises(TypeError, match=r"^X: expected flag to be True or False, got .*\. Do this"):
        check_bool("X", "flag", given, **REMEDY)


def test_a_choice_becomes_a_plain_string():
    assert type(check_choice("X", "kind", np.str_("a"), ("a", "b"))) is str
    assert check_choice("X", "kind", None, ("a", "b"), optional=True) is None
    with pytest.raises(ValueError, match=r"^X: expected kind to be one of 'a', 'b', got 'c'\. Ch"):
        check_choice("X", "kind", "c", ("a", "b"))
    with pytest.raises(ValueError, match="expected kind to be one of 'a', None, got 'c'"):
        check_choice("X", "kind", "c", ("a",), optional=True)


@pytest.mark.parametrize("given", [None, 1, True, ["a"], np.array(["a", "b"])])
def test_what_is_no_choice(given):
    with pytest.raises(TypeError, match=r"^X: expected kind to be one of 'a', 'b', got .* Choose"):
        check_choice("X", "kind", given, ("a", "b"))


def test_an_object_of_a_class_passes():
    schedule = PruningSchedule()
    assert check_instance("X", "schedule", schedule, PruningSchedule, **REMEDY) is schedule
    assert check_instance("X", "s", None, PruningSchedule, optional=True, **REMEDY) is None


@pytest.mark.parametrize(
    ("given", "shown"),
    [("full", "'full'"), (PruningSchedule, "<class .*PruningSchedule'>"), ({}, "<class 'dict'>")],
)
def test_what_is_no_object_of_a_class(given, shown):
    text = rf"^X: expected schedule to be a PruningSchedule object or None, got {shown}\. Do this"
    with pytest.raises(TypeError, match=text):
        check_instance("X", "schedule", given, PruningSchedule, optional=True, **REMEDY)


def test_callables_and_paths():
    assert check_callable("X", "f", abs, **REMEDY) is abs
    assert check_callable("X", "f", None, **REMEDY) is None
    for given in ("abs", 1, torch.nn.Identity):
        with pytest.raises(TypeError, match="X: expected f to be callable or None, got"):
            check_callable("X", "f", given, **REMEDY)
    assert check_path("X", "folder", Path("a") / "b", **REMEDY) == str(Path("a") / "b")
    with pytest.raises(TypeError, match=r"X: expected folder to be a path, got 3\. Do this"):
        check_path("X", "folder", 3, **REMEDY)
