"""Errors that a user can act on: each says where the problem is and what to do.

The command line prints them without a traceback; in Python they can be caught as `NearfarError`.
"""

from __future__ import annotations

import importlib
from types import ModuleType


class NearfarError(Exception):
    """Base of every error that nearfar raises on purpose."""


class TableError(NearfarError, ValueError):
    """The user's data are wrong: names the file, the row and the column."""


class ArgumentError(NearfarError, ValueError):
    """An argument is wrong: names it, says what it may be."""


class ArtefactError(NearfarError, ValueError):
    """A saved space, index or checkpoint is incomplete, foreign or unsafe."""


class TrainingError(NearfarError, RuntimeError):
    """Training was stopped because going on makes no sense (NaN, collapse)."""


class MissingExtra(NearfarError, ImportError):  # noqa: N818 - reads as what it says
    """A package that only some uses need is not installed: names the extra."""


def check_between(low: float, high: float, **values: float) -> None:
    """Raise unless each of the named arguments lies in [low, high].

    Raises:
        ArgumentError: one does not, or is no number.
    """
    for name, value in values.items():
        if not low <= value <= high:
            raise ArgumentError(f"{name} must be between {low:g} and {high:g}, got {value}")


def need(module: str, extra: str) -> ModuleType:
    """Import `module`, or say which extra of nearfar brings it.

    Raises:
        MissingExtra: the module cannot be imported because it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as missing:
        if missing.name is None or missing.name.split(".")[0] != module.split(".")[0]:
            raise
        raise MissingExtra(
            f"this needs the package {module.split('.')[0]!r}: pip install 'nearfar[{extra}]'"
        ) from None
