"""Which column plays which role: what the user said, then the role's own name, then names in common use."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

import numpy as np

from nearfar.data.columns import SAMPLE, accepts, can_hold, class_name, detect, parsed_number, stored_cells
from nearfar.data.faults import shown
from nearfar.data.kinds import (
    ENCODED,
    KINDS,
    Audio,
    Id,
    Image,
    Kind,
    Label,
    Links,
    Node,
    Number,
    Reading,
    Text,
    Vector,
    accepted,
)
from nearfar.data.source import Source
from nearfar.errors import ArgumentError, TableError

ROLES: dict[str, Reading] = {
    "text": Text,
    "positive": Text | Image | Audio | Vector,
    "negative": Text | Image | Audio | Vector,
    "image": Image,
    "audio": Audio,
    "label": Label,
    "score": Number,
    "vector": Vector,
    "id": Id,
    "split": Label,
    "links": Links,
}
"""The standard roles and what they are read as where no method says it."""

ALIASES: dict[str, tuple[str, ...]] = {
    # the columns of sentence-transformers, NLI, retrieval and captioning sets; the first found wins
    "text": (
        *("anchor", "query", "question", "sentence1", "sentence", "premise", "sent0", "docstring", "caption"),
        *("content", "body", "abstract", "description", "document", "passage", "texts", "title"),
        *("transcript", "transcription"),
    ),
    "positive": (
        *("pos", "sentence2", "entailment", "hypothesis", "sent1", "answer", "positive_passage", "code"),
        *("document", "passage", "response", "context"),
    ),
    "negative": ("neg", "contradiction", "hard_neg", "hard_negative", "sent2", "negative_passage"),
    "image": ("img", "picture", "photo", "filepath", "image_path", "file_name", "filename", "path"),
    "audio": ("sound", "speech", "recording", "waveform", "wav", "filepath", "file_name", "filename", "path"),
    "label": ("labels", "class", "category", "target", "fine_label"),
    "score": ("similarity", "similarity_score", "gold_score", "relevance", "rating"),
    "vector": ("vectors", "embedding", "embeddings", "emb", "features"),
    "id": ("ids", "_id", "group", "uid", "doc_id"),
    "split": ("partition",),
    "links": ("neighbours", "neighbors", "adjacency"),
}

BY_NAME_ALONE = frozenset({"task"})
"""Roles that no column gets because it is the only one of its kind: nothing in its cells tells."""

GRADED = frozenset({"sentence2", "hypothesis"})
"""Columns whose nearness to the text another column (a score, a class) states: not all are positives."""

EMBEDDED = ("text", "image", "audio", "vector")
"""Roles of which a table must have one, where no method says what it reads."""


def kinds_of(source: Source) -> dict[str, type[Kind] | None]:
    """The kind that each column seems to be of; None for nested data."""
    return {
        name: Links if name in source.links else detect(source.dataset, name, source.folder)
        for name in source.dataset.column_names
    }


class _Assignment:
    """Role -> column, as it grows."""

    def __init__(self, source: Source, found: Mapping[str, type[Kind] | None]) -> None:
        self.source, self.found = source, found
        self.columns: dict[str, str] = {}
        self.kinds: dict[str, type[Kind]] = {}
        self.notes: list[str] = []

    def kind(self, column: str, kinds: tuple[type[Kind], ...]) -> type[Kind] | None:
        """As which of `kinds` a column can be read: what it seems to be first."""
        if self.found[column] in kinds:
            return self.found[column]
        return next((kind for kind in kinds if can_hold(self.source.dataset, column, kind)), None)

    def take(self, role: str, column: str, kinds: tuple[type[Kind], ...], guessed: bool = False) -> None:
        kind = self.kind(column, kinds)
        if kind is None:
            [cells] = stored_cells(self.source.dataset, [column], slice(0, 1)).values()
            row = self.source.numbers(np.zeros(1, dtype=np.int64))[0]
            words = " or ".join(kind.name for kind in kinds)
            raise TableError(
                f"{self.source.name}, column {column!r}: row {row} holds {shown(cells[0])}, "
                f"but {role} must be {words}. {listing(self.source.name, self.found, role)}"
            )
        self.columns[role], self.kinds[role] = column, kind
        if guessed:
            self.notes.append(f"column {column!r} read as {role}")

    def free(self, *, of: tuple[type[Kind], ...]) -> list[str]:
        """Columns without a role that seem to be of one of these kinds."""
        taken = set(self.columns.values())
        return [name for name, kind in self.found.items() if kind in of and name not in taken]


def listing(name: str, found: Mapping[str, type[Kind] | None], role: str) -> str:
    """The columns with their kinds, and how to name one."""
    columns = ", ".join(
        f"{column} ({kind.name if kind else 'no kind known'})" for column, kind in found.items()
    )
    example = next(iter(found), "NAME")
    return f"The columns of {name} are: {columns}. Name one with --column {role}={example}"


def assign(
    source: Source,
    reads: Mapping[str, Reading] | None,
    columns: Mapping[str, str],
    found: Mapping[str, type[Kind] | None],
) -> tuple[dict[str, str], dict[str, type[Kind]], list[str]]:
    """Give a column to every role that is read.

    Args:
        source: the table.
        reads: role -> what it accepts; None for all standard roles that the table has by name.
        columns: role -> column, as the user said it. A standard role beyond `reads` is added.
        found: column -> the kind that it seems to be of.

    Returns:
        role -> column, role -> kind, and a note for every guess.

    Raises:
        TableError: a column is missing, or is of a kind that the role cannot take.
        ArgumentError: `columns` names a role that is not read and not standard.
    """
    growing = _Assignment(source, found)
    for role, column in columns.items():
        if column not in found:
            near = difflib.get_close_matches(column, found, 1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise TableError(
                f"{source.name} has no column {column!r}{hint}. {listing(source.name, found, role)}"
            )
        growing.take(role, column, _kinds(role, reads, found[column]))
    roles = ROLES if reads is None else reads
    waiting = [role for role in roles if role not in growing.columns and roles[role] is not Node]
    for role in waiting:
        _by_name(growing, role, roles[role], required=reads is not None)
    if reads is None or Node in reads.values():
        _nodes(growing, required=reads is not None)
    if reads is None:
        _at_least_one(growing)
        return growing.columns, growing.kinds, growing.notes
    for role in waiting:
        kinds, may_lack = accepted(reads[role])
        if role not in growing.columns and not may_lack:
            _by_kind(growing, role, kinds)
    return growing.columns, growing.kinds, growing.notes


def _kinds(
    role: str, reads: Mapping[str, Reading] | None, seems: type[Kind] | None
) -> tuple[type[Kind], ...]:
    if reads is not None and role in reads:
        return accepted(reads[role])[0]
    if role in ROLES:
        return accepted(ROLES[role])[0]
    if reads is not None:
        known = ", ".join(dict.fromkeys([*reads, *ROLES]))
        raise ArgumentError(f"--column {role}=...: there is no role {role!r} here; the roles are {known}")
    return (seems,) if seems is not None else tuple(KINDS.values())


def _by_name(growing: _Assignment, role: str, reading: Reading, *, required: bool) -> None:
    """Take the column that is named like the role, or one of its aliases."""
    kinds, may_lack = accepted(reading)
    taken = set(growing.columns.values())
    plain: dict[str, str] = {}
    for name in growing.found:
        plain.setdefault(name.strip().lower().replace(" ", "_").replace("-", "_"), name)
    own = role if role in growing.found else plain.get(role)
    optional = may_lack or not required
    if own is not None and own not in taken:
        if not optional or _fits(growing, own, kinds):
            growing.take(role, own, kinds, guessed=own != role)
        else:
            seems = growing.found[own]
            word = seems.name if seems else "something else"
            growing.notes.append(
                f"column {own!r} not read as {role}: it seems to hold {word} "
                f"(--column {role}={own} reads it all the same)"
            )
        return
    for alias in ALIASES.get(role, ()):
        column = plain.get(alias)
        if column is None or column in taken or not _fits(growing, column, kinds):
            continue
        judge = next((plain[name] for name in ("score", *ALIASES["score"], "label") if name in plain), None)
        if alias in GRADED and role == "positive" and judge is not None and optional:
            growing.notes.append(
                f"column {column!r} not read as positive, because {judge!r} says which pairs are near "
                f"(--column positive={column} reads it all the same)"
            )
            continue
        growing.take(role, column, kinds, guessed=True)
        return


def _fits(growing: _Assignment, column: str, kinds: tuple[type[Kind], ...]) -> bool:
    """Whether a column can be meant by its name alone: its cells must look like it."""
    seems, kind = growing.found[column], growing.kind(column, kinds)
    if kind is None or seems is None or seems in kinds:
        return kind is not None
    if kind is Links:
        return seems is Vector
    if kind is Number or (kind is Label and seems is Number):
        [cells] = stored_cells(growing.source.dataset, [column], slice(0, SAMPLE)).values()
        numbers = [cell for cell in cells if cell not in (None, "")]
        return accepts(parsed_number if kind is Number else class_name, numbers)
    return kind in (Text, Label, Id) and seems not in (Image, Audio, Vector)


def _nodes(growing: _Assignment, *, required: bool) -> None:
    """Take what the role `node` is made of: all columns of links unless some are taken, and a vector.

    Every relation is a role of its own, named like its column.
    """
    if Links not in growing.kinds.values():
        for column in growing.free(of=(Links,)):
            growing.take(column, column, (Links,))
    if Links not in growing.kinds.values():
        _by_name(growing, "links", Links, required=False)
    linked = Links in growing.kinds.values()
    if linked and "vector" not in growing.columns:
        _by_name(growing, "vector", Vector, required=False)
        if required and "vector" not in growing.columns:
            _by_kind(growing, "vector", (Vector,))
    if required and not linked:
        name = growing.source.name
        raise TableError(
            f"{name} has no links between its rows. A graph is a folder with nodes.csv and edges.csv (columns "
            "source and target; .jsonl and .parquet do too), or a table with a column of lists of row numbers, "
            f"from 0. {listing(name, growing.found, 'links')}"
        )


def _by_kind(growing: _Assignment, role: str, kinds: tuple[type[Kind], ...]) -> None:
    """Take the only column of the right kind that is left."""
    candidates = [] if role in BY_NAME_ALONE else growing.free(of=kinds)
    if not candidates and Text in kinds:
        # A table of short repeated or coded strings: still the only strings there are.
        candidates = [
            name for name in growing.free(of=(Label, Id)) if can_hold(growing.source.dataset, name, Text)
        ]
    if len(candidates) == 1:
        growing.take(role, candidates[0], kinds, guessed=True)
        return
    words = " or ".join(kind.name for kind in kinds)
    name = growing.source.name
    why = f"several could be it: {', '.join(candidates)}" if candidates else f"none is {words}"
    if role in BY_NAME_ALONE:
        why = "none is taken for it unless it is named"
    raise TableError(
        f"{name} has no column {role!r} ({words}), and {why}. {listing(name, growing.found, role)}"
    )


def _at_least_one(growing: _Assignment) -> None:
    """Where no method says what is read: something that can be embedded must be."""
    if any(kind in ENCODED for kind in growing.kinds.values()):
        return
    for role in EMBEDDED:
        kinds, _ = accepted(ROLES[role])
        if growing.free(of=kinds):
            _by_kind(growing, role, kinds)
            return
    _by_kind(growing, "text", (Text,))
