"""What went wrong on a command line, in one line: what, where, and the names that come closest.

jsonargparse reports a wrong argument by all the ways in which it could have been right, and by the
whole configuration. Its text is the only interface that there is to what it found, so this file
reads text. Nothing here may know what a command does.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from importlib import import_module
from inspect import isabstract, signature
from typing import Any, get_type_hints

from lightning_alignprune._checks import did_you_mean

_OUR_OWN = re.compile(r"[\w.-][\w ./-]*: expected .+", re.DOTALL)
_TYPED = re.compile(r"Given value: NestedArg\(key='([^']*)', val='(.*)'\)")
_KEY = re.compile(r'Parser key "([^"]+)"')
_CLASS = re.compile(r"Problem with given class_path '([^']+)'")
_UNKNOWN = re.compile(
    r"(?:[Oo]ption|Key) '([^']+)' is not (?:accepted|expected)"
    r"|does not accept (?:option|nested key) '([^']+)'"
    r"|unrecognized arguments: --([^\s=]+)"
)
_GROUP = re.compile(r"Group '([^']+)' does not accept")
_NO_NAME = re.compile(r"Expected a dot import path string: (\S+)")
_NO_IMPORT = re.compile(
    r"Problem with given class_path '([^']+)':\s+(No module named .+|.*has no .+)"
)
_ABSTRACT = re.compile(r"Expected an instantiatable class, but ([\w.]+) is abstract")
_SUBTYPE = re.compile(r"<class '([\w.]+)'>")
_SUBTYPES = re.compile(r"^\s*Subtypes: .+", re.MULTILINE)
_REQUIRED = re.compile(r"the following arguments are required: (.+)")
_SUBCOMMAND = re.compile(r"invalid choice: '([^']*)' \(choose from (.+)\)")
_EXPECTED = re.compile(r"^([ -]*)Expected a (.+?)(?:\. Got value: (.+))?$", re.MULTILINE)
_MOST_NAMES = 10
_GIVEN = re.compile(r"^\s*Given value: (.+)", re.MULTILINE)


def is_refusal(error: BaseException) -> bool:
    """Say whether ``error`` speaks to the user: "<owner>: expected ..., got ...", and a remedy."""
    return _refusal_in(str(error)) is not None


def one_line(text: str, options: Iterable[str] = ()) -> str:
    """Say in one line what jsonargparse, or a check of this package, found wrong.

    Args:
        text: The message of the error.
        options: Dotted names of all options that the command line takes.

    Returns:
        One line; ``text`` without its line breaks where nothing is known of it.

    Example:
        >>> one_line("unrecognized arguments: --model.netwrk x", ["model.network", "data"])
        "--model.netwrk: there is no such option. Did you mean '--model.network'?"
    """
    line = _unknown_option(text, [f"--{name}" for name in options])
    for explain in (_refusal_in, _unknown_name, _missing, _wrong_kind):
        line = line or explain(text)
    if line is None:
        line = _KEY.sub(r"--\1", text, count=1)
    return " ".join(line.split())


def names_of_subclasses(kind: type) -> list[str]:
    """List the classes below ``kind`` that can be made, by their short names."""
    below = [kind, *_subclasses(kind)]
    public = (cls.__name__ for cls in below if not isabstract(cls) and cls.__name__[0] != "_")
    return sorted(set(public))


def _subclasses(kind: type[Any]) -> Iterator[type[Any]]:
    for cls in kind.__subclasses__():
        yield cls
        yield from _subclasses(cls)


# ---- one way of being wrong each; None where it is another --------------------------------------


def _unknown_option(text: str, options: list[str]) -> str | None:
    found = [match for match in _UNKNOWN.finditer(text) if any(match.groups())]
    if not found:
        return None
    name = next(filter(None, found[-1].groups()))
    classes = _CLASS.findall(text[: found[-1].start()])
    if not classes:
        typed = _where(text, name)
        return f"{typed}: there is no such option.{did_you_mean(typed, options)}"
    group = _GROUP.search(text)
    path = f"{group[1]}.{name}" if group else name
    owner, known, wrong = _arguments(classes[-1], path.split("."))
    close = did_you_mean(wrong, known) or _known(known)
    return f"{_where(text, path)}: {wrong!r} is not accepted by {owner}.{close}"


def _refusal_in(text: str) -> str | None:
    parts = [re.sub(r"^Not of type \w+: ", "", p) for p in re.split(r"\n\s*(?:- )?", text)]
    found = [part for part in parts if _OUR_OWN.match(part)]
    return found[-1] if found else None


def _unknown_name(text: str) -> str | None:
    names = _names_in(" ".join(_SUBTYPES.findall(text)))
    missing = _NO_NAME.search(text)
    if missing is not None:
        close = did_you_mean(missing[1], names) or _known(names)
        return f"{_where(text)}: there is no class {missing[1]!r}.{close}"
    abstract = _ABSTRACT.search(text)
    if abstract is not None:
        key = _KEY.findall(text)[-1]
        return f"--{key}: expected the name of a class, got none.{_known(names)}"
    lost = _NO_IMPORT.search(text)
    return None if lost is None else f"{_where(text)}: {lost[1]!r} cannot be imported: {lost[2]}."


def _missing(text: str) -> str | None:
    required = _REQUIRED.search(text)
    if required is not None:
        names = [f"--{name.strip().rpartition('.')[2]}" for name in required[1].split(",")]
        return f"expected {' and '.join(names)}, got nothing."
    chosen = _SUBCOMMAND.search(text)
    if chosen is None:
        return None
    known = re.findall(r"'([^']+)'", chosen[2]) or re.findall(r"\w+", chosen[2])
    listed = ", ".join(known)
    return f"expected one of {listed}, got {chosen[1]!r}.{did_you_mean(chosen[1], known)}"


def _wrong_kind(text: str) -> str | None:
    found = _EXPECTED.findall(text)
    if not found or _KEY.search(text) is None:
        return None
    deepest = max(len(indent) for indent, _, _ in found)
    wanted = list(dict.fromkeys(kind for indent, kind, _ in found if len(indent) == deepest))
    given = _typed(text)[1] or next((got for _, _, got in found if got), "")
    words = re.findall(r"'(\w+)'", " ".join(kind for kind in wanted if "Literal" in kind))
    kinds = " or ".join(_plain(kind) for kind in wanted)
    return f"{_where(text)}: expected {kinds}, got {given!r}.{did_you_mean(given, words)}"


# ---- parts of the text --------------------------------------------------------------------------


def _typed(text: str) -> tuple[str, str]:
    """What was typed behind the outermost key, and its value."""
    nested = list(_TYPED.finditer(text))
    if nested:
        return nested[-1][1], nested[-1][2]
    given = _GIVEN.findall(text)
    return "", given[-1] if given else ""


def _where(text: str, name: str = "") -> str:
    keys, (typed, _) = _KEY.findall(text), _typed(text)
    if typed:
        return f"--{keys[0]}.{typed}"
    return "--" + ".".join([*keys, *([name] if name else [])])


def _plain(kind: str) -> str:
    kind = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", kind)
    choices = re.fullmatch(r"typing\.Literal\[(.+)\]", kind)
    return f"one of {choices[1]}" if choices else kind.replace("NoneType", "null")


def _known(names: list[str]) -> str:
    listed = ", ".join(names[:_MOST_NAMES])
    return f" Known: {listed}{' and more' if len(names) > _MOST_NAMES else ''}." if names else ""


def _names_in(text: str) -> list[str]:
    found = (_class(path) for path in _SUBTYPE.findall(text))
    return [name for cls in found if cls is not None for name in names_of_subclasses(cls)]


def _class(path: str) -> type | None:
    module, _, name = path.rpartition(".")
    try:
        found = getattr(import_module(module or "builtins"), name)
    except (ImportError, AttributeError):
        return None
    return found if isinstance(found, type) and module else None


def _arguments(path: str, names: list[str]) -> tuple[str, list[str], str]:
    """Follow ``names`` through a class's arguments and those of dataclasses among them.

    Returns:
        The class that refuses a name, the names that it knows, and the name.
    """
    module, _, name = path.rpartition(".")
    cls: Any = getattr(import_module(module), name)
    known: list[str] = []
    for name in names:
        known = [field.name for field in fields(cls)] if is_dataclass(cls) else _parameters(cls)
        kind = get_type_hints(cls.__init__).get(name)
        if not is_dataclass(kind):
            break
        cls = kind
    return cls.__name__, known, name


def _parameters(cls: type) -> list[str]:
    return [name for name in signature(cls).parameters if name != "self"]
