"""Argument checks with one message pattern, so that every refusal reads alike.

``<owner>: expected <argument> <constraint>, got <value>. <What to do.>``

A value of the wrong kind is a ``TypeError``, a wrong value of the right kind a ``ValueError``.
Every check returns the value, NumPy's scalars as plain Python ones, so that YAML files and
checkpoints hold nothing else::

    self.window = check_int(OWNER, "window", window, low=1, remedy="None keeps all epochs.")
"""

import difflib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Literal, NamedTuple, TypeVar, overload

import numpy as np

T = TypeVar("T")
Choice = TypeVar("Choice", bound=str)


def message(owner: str, argument: str, constraint: str, value: object, remedy: str) -> str:
    """Format the one sentence pattern of all argument errors."""
    return f"{owner}: expected {argument} {constraint}, got {value!r}. {remedy}"


def did_you_mean(value: str, names: Iterable[str]) -> str:
    """Ask for the names closest to a misspelt one, as a sentence behind a space; "" if none is.

    Example:
        >>> did_you_mean("robst", ["robust", "seta"])
        " Did you mean 'robust'?"
    """
    by_fold = {name.lower(): name for name in names}
    close = difflib.get_close_matches(value.lower(), by_fold, n=2, cutoff=0.7)
    return f" Did you mean {' or '.join(repr(by_fold[name]) for name in close)}?" if close else ""


def shape_of(value: object) -> str:
    """Describe a tensor by shape and dtype, anything else by its type, for a message."""
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    return type(value).__name__ if shape is None else f"{tuple(shape)} of {dtype}"


class _Interval(NamedTuple):
    """The numbers from ``low`` on or above ``above``, up to ``high`` or below ``below``."""

    low: float | None = None
    above: float | None = None
    high: float | None = None
    below: float | None = None

    def holds(self, value: float) -> bool:
        low, above, high, below = self
        reaches = (low is None or value >= low) and (above is None or value > above)
        return reaches and (high is None or value <= high) and (below is None or value < below)

    def __str__(self) -> str:
        low, above, high, below = (_short(bound) for bound in self)
        if not (low or above or high or below):
            return ""
        left = f"[{low}" if low else f"({above or '-inf'}"
        return f"in {left}, {high}]" if high else f"in {left}, {below or 'inf'})"

    def after_a_word(self) -> str:
        return f" {self}".rstrip()


def _short(bound: float | None) -> str | None:
    if bound is None:
        return None
    return str(bound) if isinstance(bound, int) else f"{bound:g}"


# ---- one number ---------------------------------------------------------------------------------


@overload
def check_int(
    owner: str,
    argument: str,
    value: object,
    *,
    low: int | None = None,
    high: int | None = None,
    below: int | None = None,
    optional: Literal[False] = False,
    remedy: str,
) -> int: ...
@overload
def check_int(
    owner: str,
    argument: str,
    value: object,
    *,
    low: int | None = None,
    high: int | None = None,
    below: int | None = None,
    optional: Literal[True],
    remedy: str,
) -> int | None: ...
def check_int(
    owner: str,
    argument: str,
    value: object,
    *,
    low: int | None = None,
    high: int | None = None,
    below: int | None = None,
    optional: bool = False,
    remedy: str,
) -> int | None:
    """Return ``value`` as an int between the bounds; a bool is none.

    Args:
        owner: Opens the message.
        argument: Name of the argument.
        value: What was given.
        low: Smallest allowed value; None for no bound.
        high: Largest allowed value; None for no bound.
        below: Smallest value that is too large, in the place of ``high``.
        optional: Whether None is allowed, and returned.
        remedy: What to do about it, as a sentence.

    Raises:
        TypeError: If it is no int.
        ValueError: If it is out of range.
    """
    if optional and value is None:
        return None
    interval = _Interval(low, None, high, below)
    if not isinstance(value, Integral) or isinstance(value, bool):
        kind = f"an int{interval.after_a_word()}{' or None' if optional else ''}"
        raise TypeError(message(owner, argument, kind, _described(value), remedy))
    number = int(value)
    if not interval.holds(number):
        raise ValueError(message(owner, argument, str(interval), number, remedy))
    return number


def check_float(
    owner: str,
    argument: str,
    value: object,
    *,
    low: float | None = None,
    above: float | None = None,
    high: float | None = None,
    below: float | None = None,
    remedy: str,
) -> float:
    """Return ``value`` as a finite float between the bounds; ints are numbers, bools are not.

    Args:
        owner: Opens the message.
        argument: Name of the argument.
        value: What was given.
        low: Smallest allowed value.
        above: Largest value that is too small, in the place of ``low``.
        high: Largest allowed value.
        below: Smallest value that is too large, in the place of ``high``.
        remedy: What to do about it, as a sentence.

    Raises:
        TypeError: If it is no number.
        ValueError: If it is out of range or not finite.
    """
    interval = _Interval(low, above, high, below)
    if not isinstance(value, Real) or isinstance(value, bool):
        kind = f"a number{interval.after_a_word()}"
        raise TypeError(message(owner, argument, kind, _described(value), remedy))
    try:
        number = float(value)
    except OverflowError:  # an int that no float can hold
        number = math.inf
    if not math.isfinite(number) or not interval.holds(number):
        raise ValueError(message(owner, argument, str(interval) or "to be finite", value, remedy))
    return number


def check_ints(
    owner: str,
    argument: str,
    values: object,
    *,
    low: int | None = None,
    high: int | None = None,
    remedy: str,
) -> tuple[int, ...]:
    """Return ``values`` as a tuple of ints, each as :func:`check_int` wants it."""
    interval = _Interval(low, None, high).after_a_word()
    return tuple(
        check_int(owner, argument, value, low=low, high=high, remedy=remedy)
        for value in _listed(owner, argument, values, f"ints{interval}", remedy)
    )


def check_floats(
    owner: str,
    argument: str,
    values: object,
    *,
    low: float | None = None,
    above: float | None = None,
    length: int | None = None,
    remedy: str,
) -> tuple[float, ...]:
    """Return ``values`` as a tuple of floats, each as :func:`check_float` wants it.

    Args:
        owner: Opens the message.
        argument: Name of the argument.
        values: A sequence or an array of one dimension.
        low: Smallest allowed value.
        above: Largest value that is too small, in the place of ``low``.
        length: How many there must be; None for any number.
        remedy: What to do about it, as a sentence.

    Raises:
        TypeError: If it is no sequence of numbers.
        ValueError: If a number is out of range, or there are too many or too few.
    """
    interval = _Interval(low, above).after_a_word()
    listed = _listed(owner, argument, values, f"numbers{interval}", remedy)
    if length is not None and len(listed) != length:
        raise ValueError(message(owner, argument, f"to be {length} numbers", values, remedy))
    return tuple(
        check_float(owner, argument, value, low=low, above=above, remedy=remedy) for value in listed
    )


def _listed(owner: str, argument: str, values: object, kind: str, remedy: str) -> Sequence[object]:
    if isinstance(values, np.ndarray) and values.ndim == 1:
        return list(values)
    if isinstance(values, Sequence) and not isinstance(values, (str, bytes)):
        return values
    constraint = f"to be a sequence of {kind}"
    raise TypeError(message(owner, argument, constraint, _described(values), remedy))


# ---- everything else ----------------------------------------------------------------------------


def check_bool(
    owner: str, argument: str, value: object, *, remedy: str = "Give one of the two."
) -> bool:
    """Return ``value`` as a bool; ``"no"``, 0 and 1 are none.

    Raises:
        TypeError: If it is no bool.
    """
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(message(owner, argument, "to be True or False", _described(value), remedy))
    return bool(value)


@overload
def check_choice(
    owner: str,
    argument: str,
    value: Choice,
    choices: Sequence[Choice],
    *,
    optional: Literal[False] = False,
) -> Choice: ...
@overload
def check_choice(
    owner: str,
    argument: str,
    value: Choice | None,
    choices: Sequence[Choice],
    *,
    optional: Literal[True],
) -> Choice | None: ...
def check_choice(
    owner: str,
    argument: str,
    value: Choice | None,
    choices: Sequence[Choice],
    *,
    optional: bool = False,
) -> Choice | None:
    """Return the one of ``choices`` that ``value`` is, or None if that is allowed and given.

    Raises:
        TypeError: If it is no string.
        ValueError: If it is another string.
    """
    if optional and value is None:
        return None
    listed = ", ".join([*map(repr, choices), *(["None"] if optional else [])])
    constraint, remedy = f"to be one of {listed}", "Choose one of these."
    if not isinstance(value, str):
        raise TypeError(message(owner, argument, constraint, _described(value), remedy))
    if value not in choices:
        remedy = did_you_mean(value, choices).strip() or remedy
        raise ValueError(message(owner, argument, constraint, value, remedy))
    return choices[choices.index(value)]


@overload
def check_instance(
    owner: str,
    argument: str,
    value: object,
    kind: type[T],
    *,
    optional: Literal[False] = False,
    remedy: str,
) -> T: ...
@overload
def check_instance(
    owner: str,
    argument: str,
    value: object,
    kind: type[T],
    *,
    optional: Literal[True],
    remedy: str,
) -> T | None: ...
def check_instance(
    owner: str,
    argument: str,
    value: object,
    kind: type[T],
    *,
    optional: bool = False,
    remedy: str,
) -> T | None:
    """Return ``value`` if it is a ``kind``, or None if that is allowed and given.

    Raises:
        TypeError: If it is something else, such as the class itself or the name of one.
    """
    if isinstance(value, kind) or (optional and value is None):
        return value
    article = "an" if kind.__name__[0] in "AEIOU" else "a"
    constraint = f"to be {article} {kind.__name__} object{' or None' if optional else ''}"
    raise TypeError(message(owner, argument, constraint, _described(value), remedy))


def check_callable(
    owner: str, argument: str, value: Callable[..., T] | None, *, remedy: str
) -> Callable[..., T] | None:
    """Return ``value`` if it can be called or is None.

    Raises:
        TypeError: If it is something else, such as a class.
    """
    if value is not None and (not callable(value) or isinstance(value, type)):
        constraint = "to be callable or None"
        raise TypeError(message(owner, argument, constraint, _described(value), remedy))
    return value


def check_key(owner: str, argument: str, value: object) -> int | str | None:
    """Return a key or a position, or None.

    Raises:
        TypeError: If it is something else.
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, Integral):
        remedy = "'index' means batch['index'] or batch.index, 2 means batch[2]."
        constraint = "to be a string, an int or None"
        raise TypeError(message(owner, argument, constraint, _described(value), remedy))
    return int(value)


def check_path(owner: str, argument: str, value: object, *, remedy: str) -> str:
    """Return a path, given as a string or a ``Path``, as a string.

    Raises:
        TypeError: If it is no path.
    """
    if not isinstance(value, str) and not hasattr(value, "__fspath__"):
        raise TypeError(message(owner, argument, "to be a path", _described(value), remedy))
    return str(value)


def put(config: object, **values: object) -> None:
    """Put checked values into a frozen dataclass, from its ``__post_init__``."""
    for name, value in values.items():
        object.__setattr__(config, name, value)


def resolve(
    owner: str, argument: str, value: object, kind: type[T], names: Mapping[str, type[T]]
) -> T:
    """Turn a name such as ``"InfoBatch"`` into an instance; pass instances through.

    Names are compared without case and underscores, so ``"sample_loss"`` means ``SampleLoss``.

    Raises:
        ValueError: If no class has that name.
        TypeError: If ``value`` is neither a name nor a ``kind``.
    """
    if isinstance(value, kind):
        return value
    listed = ", ".join(sorted({cls.__name__ for cls in names.values()}))
    if not isinstance(value, str):
        constraint = f"to be a {kind.__name__} object or a name"
        remedy = f"Names: {listed}. Did you pass the class instead of an instance?"
        raise TypeError(message(owner, argument, constraint, _described(value), remedy))
    found = {_fold(name): cls for name, cls in names.items()}.get(_fold(value))
    if found is None:
        constraint = f"to be a {kind.__name__} or one of the names {listed}"
        own = f"Choose a name, or pass your own {kind.__name__} object."
        remedy = did_you_mean(value, listed.split(", ")).strip() or own
        raise ValueError(message(owner, argument, constraint, value, remedy))
    return found()


def _fold(name: str) -> str:
    return name.replace("_", "").replace("-", "").lower()


def _described(value: object) -> object:
    """Return a value that is short to print; of any other its class."""
    is_short = value is None or isinstance(value, (str, Real, np.bool_, type))
    return value if is_short else type(value)
