"""Argument checks with one message pattern, so that every refusal reads alike.

``<owner>: expected <argument> <constraint>, got <value>. <What to do.>``
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


def message(owner: str, argument: str, constraint: str, value: object, remedy: str) -> str:
    """Format the one sentence pattern of all argument errors."""
    return f"{owner}: expected {argument} {constraint}, got {value!r}. {remedy}"


def shape_of(value: object) -> str:
    """Describe a tensor by shape and dtype, anything else by its type, for a message."""
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    return type(value).__name__ if shape is None else f"{tuple(shape)} of {dtype}"


def check_number(
    owner: str,
    argument: str,
    value: Any,
    *,
    low: float,
    high: float = math.inf,
    low_open: bool = False,
    high_open: bool = False,
    integer: bool = False,
    remedy: str,
) -> None:
    """Raise unless ``value`` is a number in the interval.

    Raises:
        TypeError: If it is no number (or no int when ``integer``).
        ValueError: If it is outside the interval or not finite.
    """
    left, right = "(" if low_open else "[", ")" if high_open or high == math.inf else "]"
    constraint = f"in {left}{low:g}, {high:g}{right}"
    is_number = isinstance(value, int if integer else (int, float))
    if isinstance(value, bool) or not is_number:
        kind = "an int" if integer else "a number"
        raise TypeError(message(owner, argument, f"{kind} {constraint}", value, remedy))
    below = value <= low if low_open else value < low
    above = value >= high if high_open else value > high
    if below or above or not math.isfinite(value):
        raise ValueError(message(owner, argument, constraint, value, remedy))


def check_choice(owner: str, argument: str, value: object, choices: Sequence[str]) -> None:
    """Raise a ``ValueError`` unless ``value`` is one of ``choices``."""
    if value not in choices:
        listed = ", ".join(repr(choice) for choice in choices)
        raise ValueError(
            message(owner, argument, f"to be one of {listed}", value, "Choose one of these.")
        )


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
    if isinstance(value, str):
        found = {_fold(name): cls for name, cls in names.items()}.get(_fold(value))
        if found is None:
            raise ValueError(
                message(
                    owner,
                    argument,
                    f"to be a {kind.__name__} or one of the names {listed}",
                    value,
                    f"Choose a name, or pass your own {kind.__name__} object.",
                )
            )
        return found()
    raise TypeError(
        message(
            owner,
            argument,
            f"to be a {kind.__name__} object or a name",
            _described(value),
            f"Names: {listed}. Did you pass the class instead of an instance?",
        )
    )


def _fold(name: str) -> str:
    return name.replace("_", "").replace("-", "").lower()


def _described(value: Any) -> Any:
    return value if isinstance(value, (int, float, type, type(None))) else type(value)
