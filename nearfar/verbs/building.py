"""From names and strings to a method with its encoders: what `fit` and `compare` share."""

from __future__ import annotations

import inspect
import random
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import torch

from nearfar.data.checks import require_labels
from nearfar.data.kinds import Kind, Label, Reading, Text, accepted
from nearfar.data.table import Table
from nearfar.encoders import make_encoder
from nearfar.errors import ArgumentError, TableError
from nearfar.method import Method
from nearfar.methods import entry, method_class
from nearfar.verbs.measure import ENCODED, MEASURED

MOST_EXAMPLES: dict[type[Kind], int] = {Text: 500_000}
FEW_EXAMPLES = 2_000
"""Rows, evenly from the table, that an encoder from scratch learns its vocabulary (texts) or its scale from."""


def reads_of(name: str) -> dict[str, Reading]:
    """What to map of a table to train and measure a method."""
    reads = method_class(name).reads
    return {**reads, **{role: kind for role, kind in MEASURED.items() if role not in reads}}


def together_of(names: Sequence[str]) -> str | None:
    """The role whose equal cells stay on one side when rows are held out for methods; the first that one asks for."""
    return next((role for name in names if (role := method_class(name).together)), None)


def hyperparameters_of(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Check hyperparameters against the method's signature; strings are converted.

    Raises:
        ArgumentError: an unknown name, or a value that is not of the annotated type.
    """
    cls, found = method_class(name), entry(name)
    hints = get_type_hints(cls.__init__)
    known = [hyperparameter.name for hyperparameter in found.hyperparameters]
    result = {}
    for key, value in given.items():
        if key not in known:
            raise ArgumentError(f"{name} has no hyperparameter {key!r}; it has: {', '.join(known) or 'none'}")
        result[key] = _converted(key, value, hints.get(key, str))
    return result


def _converted(name: str, value: Any, annotation: Any) -> Any:
    if get_origin(annotation) is Literal:
        if value not in get_args(annotation):
            raise ArgumentError(
                f"{name} must be one of {', '.join(map(repr, get_args(annotation)))}, not {value!r}"
            )
        return value
    if annotation is bool and isinstance(value, str):
        if value.lower() not in {"true", "false", "yes", "no", "1", "0"}:
            raise ArgumentError(f"{name} must be true or false, not {value!r}")
        return value.lower() in {"true", "yes", "1"}
    if annotation in (int, float, str):
        try:
            if annotation is int and float(value) != int(float(value)):
                raise ValueError
            return annotation(float(value)) if annotation is int else annotation(value)
        except (TypeError, ValueError):
            raise ArgumentError(f"{name} must be of type {annotation.__name__}, not {value!r}") from None
    return value


def encoder_specs(encoder: str | Mapping[str, str] | None, name: str) -> dict[str, str | None]:
    """Which encoder goes where: argument of the method -> name of an encoder (None: the default of its kind).

    Args:
        encoder: one name for the (text) encoder, or argument -> name where a method has several.
        name: the method.

    Raises:
        ArgumentError: the method has no such argument, or one name was given for several encoders.
    """
    wanted = entry(name).encoders
    if isinstance(encoder, str):
        if len(wanted) > 1:
            raise ArgumentError(
                f"{name} has several encoders: say which one is meant, such as --encoder {wanted[0]}={encoder}"
            )
        encoder = {wanted[0]: encoder}
    given = dict(encoder or {})
    if unknown := set(given) - set(wanted):
        raise ArgumentError(f"{name} has no encoder {sorted(unknown)[0]!r}; it has: {', '.join(wanted)}")
    return {argument: given.get(argument) for argument in wanted}


def require_columns(name: str, table: Table) -> None:
    """Refuse a table that has nothing to read for an encoder of a method.

    Raises:
        TableError: names the columns there are, and how to map one.
    """
    for argument in entry(name).encoders:
        _kind_for(argument, method_class(name), table)


def build_method(
    name: str,
    table: Table,
    *,
    encoder: str | Mapping[str, str] | None = None,
    hyperparameters: Mapping[str, Any] | None = None,
    seed: int = 0,
    max_length: int | None = None,
) -> Method:
    """Make a method with its encoders for a table; the same seed gives the same weights.

    Args:
        name: the method's name in the catalogue.
        table: training rows, with the method's roles mapped; tokenisers made from scratch see only these.
        encoder: see `encoder_specs`.
        hyperparameters: the method's, by name.
        seed: of all weights made from scratch.
        max_length: tokens read of a text; None keeps the encoder's own limit.
    """
    cls = method_class(name)
    for role in cls.reads:
        if table.kinds.get(role) is Label:
            require_labels(table, role)
    values = hyperparameters_of(name, hyperparameters or {})
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    encoders = {}
    for argument, spec in encoder_specs(encoder, name).items():
        kind, role = _kind_for(argument, cls, table)
        examples = _examples(table, kind) if spec in (None, "tiny") else []
        encoders[argument] = make_encoder(spec, kind, examples, max_length=max_length, seed=seed)
        if hint := _mismatch(cls, argument, encoders[argument]):
            raise ArgumentError(f"{name} needs {hint} for column role {role!r}")
    try:
        return cls(**encoders, **values)
    except TypeError as wrong:
        raise ArgumentError(f"{name} cannot be made: {wrong}") from wrong


def _examples(table: Table, kind: type[Kind]) -> list[Any]:
    """What an encoder from scratch may learn its vocabulary or scale from: all cells of its kind with a role.

    Not those of the method's own roles alone: methods that are compared must start from equal encoders.
    """
    limit = MOST_EXAMPLES.get(kind, FEW_EXAMPLES)
    rows = np.unique(np.linspace(0, len(table) - 1, min(len(table), limit)).astype(np.int64))
    cells = table.rows(rows)
    return [cell for role, found in table.kinds.items() if found is kind for cell in cells[role]]


def _mismatch(cls: type[Method], argument: str, encoder: Any) -> str | None:
    wanted = get_type_hints(cls.__init__).get(argument)
    if inspect.isclass(wanted) and not isinstance(encoder, wanted):
        return f"an encoder of type {wanted.__name__}, not {type(encoder).__name__},"
    return None


def _kind_for(argument: str, cls: type[Method], table: Table) -> tuple[type[Kind], str]:
    """The kind of column that an encoder argument reads, and the role it is taken from."""
    roles = [argument] if argument in cls.reads else list(cls.reads)
    for role in roles:
        if table.kinds.get(role) in ENCODED:
            return table.kinds[role], role
    kinds = " or ".join(
        dict.fromkeys(kind.name for role in cls.reads for kind in accepted(cls.reads[role])[0])
    )
    columns = ", ".join(
        f"{name} ({kind.name if kind else 'nested'})" for name, kind in table.raw_columns.items()
    )
    role = next(iter(cls.reads))
    raise TableError(
        f"{table.name} has no column that the method knows to read as {kinds}. Its columns are: {columns}. "
        f"Name one with --column {role}=NAME"
    )
