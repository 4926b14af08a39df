"""The kinds of value that a column of a table can hold.

A method says with them what it reads: `reads = {"text": Text, "positive": Text | None}`.
The classes are names only: they are never instantiated, and importing them costs nothing.
"""

from __future__ import annotations

import types
from typing import Any


class Kind:
    """What one cell of a column is. `name` is the word that messages and the command line use."""

    name = "value"

    @classmethod
    def holds(cls, cell: Any) -> bool:
        """Whether `cell`, as `Table.rows` hands it over, is of this kind."""
        return False


class Text(Kind):
    """A Unicode string with at least one character that is not white space."""

    name = "text"

    @classmethod
    def holds(cls, cell: Any) -> bool:
        return isinstance(cell, str)


class Image(Kind):
    """A picture; handed to encoders as an RGB `PIL.Image.Image`."""

    name = "image"

    @classmethod
    def holds(cls, cell: Any) -> bool:
        return type(cell).__module__.startswith("PIL.")


class Audio(Kind):
    """A recording; handed over as a `nearfar.data.sound.Sound`: float32 samples of one channel, and their rate."""

    name = "audio"

    @classmethod
    def holds(cls, cell: Any) -> bool:
        return type(cell).__module__ == "nearfar.data.sound"


class Vector(Kind):
    """A list of finite numbers, as long in every row; handed over as float32 [d]."""

    name = "vector"

    @classmethod
    def holds(cls, cell: Any) -> bool:
        return type(cell).__module__ == "numpy" and getattr(cell, "ndim", 0) == 1


class Links(Kind):
    """The neighbours of a node: row numbers of other rows, from 0; handed over as int64 [degree].

    Numbers count the rows of the table as it was read (without rows left out), also after `Table.select`.
    """

    name = "links"

    @classmethod
    def holds(cls, cell: Any) -> bool:
        return Vector.holds(cell) and cell.dtype.kind == "i"


class Node(Kind):
    """A row as a node: its vector and its links, in the graph of all rows; handed over as a `data.graph.Node`.

    No column is of this kind: a table with vectors and links has it as the role `node`.
    """

    name = "node"

    @classmethod
    def holds(cls, cell: Any) -> bool:
        return type(cell).__module__ == "nearfar.data.graph"


class Label(Kind):
    """A class: a string or an integer; handed over as an int, names in `Table.label_names`."""

    name = "label"

    @classmethod
    def holds(cls, cell: Any) -> bool:
        return isinstance(cell, int)


class Number(Kind):
    """A finite number, such as a similarity score; handed over as a float."""

    name = "number"

    @classmethod
    def holds(cls, cell: Any) -> bool:
        return isinstance(cell, float)


class Id(Kind):
    """An identity: equal values name the same thing; handed over as an int."""

    name = "id"

    @classmethod
    def holds(cls, cell: Any) -> bool:
        return isinstance(cell, int)


class Missing(Kind):
    """An empty cell, where a role may have some: `Image | Missing`. Handed over as None.

    No column is of this kind.
    """

    name = "missing"

    @classmethod
    def holds(cls, cell: Any) -> bool:
        return cell is None


ENCODED = (Text, Image, Audio, Vector, Node)
"""Kinds that encoders read."""
EXAMPLES = (*ENCODED, Links)
"""Kinds of what an example is; all others say something about it."""
KINDS: dict[str, type[Kind]] = {k.name: k for k in (Text, Image, Audio, Vector, Links, Label, Number, Id)}
"""The kinds that a column can be of, by name."""

Reading = type[Kind] | types.UnionType
"""What a role accepts: `Text`, `Text | Image`, `Text | None` where the column may be absent, or `Text | Missing` where
single cells may be empty."""


def accepted(reading: Reading) -> tuple[tuple[type[Kind], ...], bool]:
    """Split a reading into the kinds it accepts and whether the column may be absent."""
    parts = _parts(reading)
    return tuple(part for part in parts if part not in (type(None), Missing)), type(None) in parts


def may_be_empty(reading: Reading) -> bool:
    """Whether a reading allows empty cells."""
    return Missing in _parts(reading)


def _parts(reading: Reading) -> tuple[Any, ...]:
    return reading.__args__ if isinstance(reading, types.UnionType) else (reading,)
