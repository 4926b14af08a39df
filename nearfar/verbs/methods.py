"""`methods`: what there is to fit."""

from __future__ import annotations

from nearfar.methods import Entry, catalogue, entry


def methods(name: str | None = None) -> list[Entry]:
    """List the methods, or tell all about one.

    Args:
        name: a method; None lists all.

    Raises:
        ArgumentError: there is no such method.
    """
    return list(catalogue().values()) if name is None else [entry(name)]
