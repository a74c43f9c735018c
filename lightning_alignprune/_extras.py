"""Packages of the extras: imported where they are used, asked for with the command to type."""

from importlib import import_module
from typing import Any


def require(module: str, extra: str, owner: str) -> Any:
    """Import ``module``, or say which extra brings it.

    Args:
        module: Dotted name of the module to import.
        extra: The extra of this package that installs it.
        owner: Who needs it; opens the message.

    Returns:
        The module.

    Raises:
        ModuleNotFoundError: If its package is not installed, with the command that installs it.

    Example:
        >>> require("math", "vision", "MyData").gcd(4, 6)
        2
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        # A package that is there but lacks one of its own parts is a different fault.
        if error.name is None or error.name.partition(".")[0] != package:
            raise
        raise ModuleNotFoundError(
            f"{owner}: expected the package {package}, which is not installed. "
            f'Run: pip install "lightning-alignprune[{extra}]"',
            name=package,
        ) from error
