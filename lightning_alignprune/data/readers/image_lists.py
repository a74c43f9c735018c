"""Image lists as the web-crawled data sets ship them: one ``path label`` or one path per line."""

from collections.abc import Mapping
from pathlib import Path

from lightning_alignprune._checks import message


def read_labels(owner: str, path: Path, advice: str) -> dict[str, int]:
    """Read ``path label`` lines, in the file's order.

    Args:
        owner: Opens the messages.
        path: The list.
        advice: What to fetch if it is missing.

    Returns:
        Label of each path.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a line is something else; the message has its number.
    """
    labels: dict[str, int] = {}
    for number, line in _lines(owner, path, advice):
        name, _, label = line.rpartition(" ")
        if not name or not label.isdecimal():
            constraint = f"in line {number} of {path}"
            raise ValueError(
                message(owner, "a path and a label", constraint, line, "Fetch it again.")
            )
        labels[name.strip()] = int(label)
    return labels


def read_keys(owner: str, path: Path, advice: str) -> list[str]:
    """Read one path per line.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    return [line for _, line in _lines(owner, path, advice)]


def labels_of(owner: str, keys: list[str], labels: Mapping[str, int], source: Path) -> list[int]:
    """Look the label of each path up.

    Raises:
        ValueError: If one has none.
    """
    missing = next((key for key in keys if key not in labels), None)
    if missing is not None:
        raise ValueError(
            message(owner, "a label for each image", f"in {source}", missing, "Fetch it again.")
        )
    return [labels[key] for key in keys]


def check_image(owner: str, root: Path, first: str, advice: str) -> None:
    """Raise a ``FileNotFoundError`` if the first image of a list is not below ``root``."""
    if not (root / first).is_file():
        raise FileNotFoundError(
            message(owner, "the images of the list", f"in {root}", f"no {first}", advice)
        )


def _lines(owner: str, path: Path, advice: str) -> list[tuple[int, str]]:
    if not path.is_file():
        raise FileNotFoundError(message(owner, path.name, f"in {path.parent}", "none", advice))
    text = path.read_text(encoding="utf-8")
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
    filled = [(number, line) for number, line in lines if line]
    if not filled:
        raise ValueError(message(owner, f"{path}", "to list images", "an empty file", advice))
    return filled
