"""nearfar: make spaces of embeddings by saying what is near and what is far; measure, search, compare them.

The names below are loaded when first used, so that `import nearfar` stays cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from nearfar.version import __version__

if TYPE_CHECKING:
    from nearfar.data.table import Table, read_table
    from nearfar.errors import NearfarError
    from nearfar.method import Method
    from nearfar.space import Space
    from nearfar.verbs.compare import compare
    from nearfar.verbs.embed import embed
    from nearfar.verbs.fit import fit
    from nearfar.verbs.measure import measure
    from nearfar.verbs.search import search_table

_HOMES = {
    "Method": "nearfar.method",
    "NearfarError": "nearfar.errors",
    "Space": "nearfar.space",
    "Table": "nearfar.data.table",
    "compare": "nearfar.verbs.compare",
    "embed": "nearfar.verbs.embed",
    "fit": "nearfar.verbs.fit",
    "measure": "nearfar.verbs.measure",
    "read_table": "nearfar.data.table",
    "search_table": "nearfar.verbs.search",
}

__all__ = [
    "Method",
    "NearfarError",
    "Space",
    "Table",
    "__version__",
    "compare",
    "embed",
    "fit",
    "measure",
    "read_table",
    "search_table",
]


_ROOMS = {"geometry", "measures", "objectives", "search", "views"}
"""Packages that are reached as attributes, such as `nearfar.objectives.info_nce`."""


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"nearfar.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'nearfar' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
