"""Built-in tables: one file a table, found by its file name.

A file `NAME.py` here makes the table `builtin:NAME`. It has `version() -> str`, by which the stored
table is found again, and `columns() -> dict[str, list]`, role -> cells, called once for each version.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil

from nearfar.data.source import Content, Source, key_of, stored
from nearfar.errors import TableError


def builtin_names() -> list[str]:
    """Names of the built-in tables."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def open_builtin(name: str) -> Source:
    """Open a built-in table.

    Raises:
        TableError: there is none of that name.
        MissingExtra: a package that it is made from is not installed.
    """
    if name not in builtin_names():
        near = difflib.get_close_matches(name, builtin_names(), 1)
        hint = f"did you mean builtin:{near[0]}?" if near else f"there are {', '.join(builtin_names())}"
        raise TableError(f"there is no built-in table {name!r}; {hint}")
    module = importlib.import_module(f"{__name__}.{name}")

    def content() -> Content:
        from nearfar.data.arrow import batches, categories, schema_of
        from nearfar.data.faults import Faults

        columns = module.columns()
        found, _ = categories(
            dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)
        )
        faults = Faults()
        rows = enumerate(zip(*columns.values(), strict=True), start=1)
        return Content(schema_of(found), batches(rows, found, faults), faults)

    return stored(key_of("builtin", name, module.version()), content, f"builtin:{name}")
