"""From names and strings to a method with its encoders: what `fit` and `compare` share."""

from __future__ import annotations

import inspect
import random
import types
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import torch

from nearfar.data.checks import require_labels
from nearfar.data.kinds import ENCODED, Audio, Kind, Label, Reading, Text, Vector, accepted
from nearfar.data.table import Table
from nearfar.encoders import Form, make_encoder
from nearfar.encoders.causal import CausalText
from nearfar.encoders.encoder import Encoder
from nearfar.encoders.masked import MaskedText
from nearfar.encoders.recurrent import RecurrentText
from nearfar.errors import ArgumentError, TableError
from nearfar.method import Method
from nearfar.methods import entry, method_class
from nearfar.verbs.measure import MEASURED

MOST_EXAMPLES: dict[type[Kind], int] = {Text: 500_000, Audio: 100}
_FORMS: dict[Any, Form] = {CausalText: "causal", MaskedText: "masked"}
FEW_EXAMPLES = 2_000
"""Rows, evenly from the table, that an encoder from scratch learns its vocabulary (texts), scale or rate from."""


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


def encoder_specs(encoder: str | Mapping[str, str] | None, name: str, table: Table) -> dict[str, str | None]:
    """Which encoder goes where: place -> name of an encoder (None: the default of its kind).

    Args:
        encoder: one name for all where there is one place or one `Mapping` of encoders, or place -> name.
        name: the method. A place is an argument of it, or a role of the table where it takes an encoder of each.
        table: its rows.

    Raises:
        ArgumentError: the method has no such place, or one name was given for several arguments.
    """
    arguments, places = entry(name).encoders, _places(name, table)
    if isinstance(encoder, str):
        if len(arguments) > 1:
            raise ArgumentError(
                f"{name} has several encoders: say which one is meant, such as --encoder {arguments[0]}={encoder}"
            )
        encoder = dict.fromkeys(places, encoder)
    given = dict(encoder or {})
    for argument in set(given) - set(places):
        if argument in arguments:  # one name for all roles
            given |= {place: given[argument] for place, of in places.items() if of == argument}
            del given[argument]
    if unknown := set(given) - set(places):
        raise ArgumentError(f"{name} has no encoder {sorted(unknown)[0]!r}; it has: {', '.join(places)}")
    return {place: given.get(place) for place in places}


def _places(name: str, table: Table) -> dict[str, str]:
    """Every encoder that a method needs for a table -> the argument that it goes to."""
    cls = method_class(name)
    places: dict[str, str] = {}
    for argument in entry(name).encoders:
        if _takes_several(cls, argument):
            roles = [role for role in cls.reads if table.kinds.get(role) in ENCODED]
            places |= dict.fromkeys(roles, argument)
        else:
            places[argument] = argument
    return places


def _takes_several(cls: type[Method], argument: str) -> bool:
    """Whether an argument is a mapping: an encoder for each role."""
    return get_origin(get_type_hints(cls.__init__).get(argument)) is Mapping


def require_columns(name: str, table: Table) -> None:
    """Refuse a table that has nothing to read for an encoder of a method.

    Raises:
        TableError: names the columns there are, and how to map one.
    """
    cls = method_class(name)
    for argument in entry(name).encoders:
        needed = [argument]
        if _takes_several(cls, argument):
            needed = [role for role, reading in cls.reads.items() if not accepted(reading)[1]]
        for place in needed:
            _kind_for(place, cls, table)


def build_method(
    name: str,
    table: Table,
    *,
    encoder: str | Mapping[str, str] | None = None,
    hyperparameters: Mapping[str, Any] | None = None,
    seed: int = 0,
    max_length: int | None = None,
    seen: Table | None = None,
) -> Method:
    """Make a method with its encoders for a table; the same seed gives the same weights.

    Args:
        name: the method's name in the catalogue.
        table: training rows, with the method's roles mapped; tokenisers made from scratch see only these.
        encoder: see `encoder_specs`.
        hyperparameters: the method's, by name.
        seed: of all weights made from scratch.
        max_length: tokens read of a text; None keeps the encoder's own limit.
        seen: the rows that encoders made from scratch may look at; None: all of the table.
    """
    cls = method_class(name)
    for role in cls.reads:
        if table.kinds.get(role) is Label:
            require_labels(table, role)
    values = hyperparameters_of(name, hyperparameters or {})
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    arguments: dict[str, Any] = {}
    places = _places(name, table)
    for place, spec in encoder_specs(encoder, name, table).items():
        argument, (kind, role) = places[place], _kind_for(place, cls, table)
        several = _takes_several(cls, argument)
        examples: list[Any] = []
        if spec in (None, "tiny"):
            # Columns of numbers with an encoder each may differ in width.
            examples = _examples(
                seen or table, kind, [role] if several and kind is Vector else list(table.kinds)
            )
        made = _of_its_own(cls, argument, examples, seed, max_length)
        form = _FORMS.get(get_type_hints(cls.__init__).get(argument), "encoder")
        made = made or make_encoder(spec, kind, examples, max_length=max_length, seed=seed, form=form)
        if hint := _mismatch(cls, argument, made):
            raise ArgumentError(f"{name} needs {hint} for column role {role!r}")
        if several:
            arguments.setdefault(argument, {})[place] = made
        else:
            arguments[argument] = made
    try:
        return cls(**arguments, **values)
    except TypeError as wrong:
        raise ArgumentError(f"{name} cannot be made: {wrong}") from wrong


def _examples(table: Table, kind: type[Kind], roles: Sequence[str]) -> list[Any]:
    """What an encoder from scratch may learn its vocabulary or scale from: cells of its kind in some roles.

    One that is for all roles sees all, not the method's own alone: methods that are compared must start from equal
    encoders.
    """
    limit = MOST_EXAMPLES.get(kind, FEW_EXAMPLES)
    rows = np.unique(np.linspace(0, len(table) - 1, min(len(table), limit)).astype(np.int64))
    cells = table.rows(rows)
    return [cell for role in roles if table.kinds[role] is kind for cell in cells[role]]


def _of_its_own(
    cls: type[Method], argument: str, examples: list[Any], seed: int, max_length: int | None
) -> Encoder | None:
    """The encoder of a method that asks for a class which is fitted to examples, where no other was named.

    A method that takes others as well, `Own | Encoder`, has the first such class as its own.
    """
    wanted = get_type_hints(cls.__init__).get(argument)
    kinds = get_args(wanted) if isinstance(wanted, types.UnionType) else (wanted,)
    own: Any = next((kind for kind in kinds if hasattr(kind, "fitted")), None)
    if not examples or own is None:
        return None
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made: Encoder = own.fitted(examples)
    if max_length is not None and isinstance(made, RecurrentText):
        made.set_max_length(max_length)
    return made


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
    role = roles[0]
    raise TableError(
        f"{table.name} has no column that the method knows to read as {kinds}. Its columns are: {columns}. "
        f"Name one with --column {role}=NAME"
    )
