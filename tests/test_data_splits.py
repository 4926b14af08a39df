"""Splits that leak nothing, and the built-in tables."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfar.data.builtin import builtin_names
from nearfar.data.builtin.python_code import held_out
from nearfar.data.kinds import Label, Text
from nearfar.data.splits import grouped_split, holdout
from nearfar.data.table import Table, read_table
from nearfar.errors import ArgumentError, TableError


@pytest.fixture(autouse=True, scope="module")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@settings(max_examples=60, deadline=None)
@given(ids=st.lists(st.integers(0, 12), min_size=1, max_size=60), seed=st.integers(0, 5))
def test_no_group_is_on_two_sides(ids: list[int], seed: int) -> None:
    try:
        sides = grouped_split(ids, [0.6, 0.2, 0.2], seed)
    except TableError:
        assert len(set(ids)) < 3 or max(Counter(ids).values()) > 0.2 * len(ids)
        return
    assert sorted(np.concatenate(sides).tolist()) == list(range(len(ids)))
    groups = [{ids[i] for i in side} for side in sides]
    assert all(groups)
    assert sum(map(len, groups)) == len(set(ids))
    again = grouped_split([str(i) for i in ids], [0.6, 0.2, 0.2], seed)
    assert all(np.array_equal(a, b) for a, b in zip(sides, again, strict=True))


def test_shares_are_met_and_seeds_differ() -> None:
    ids = np.repeat(np.arange(200), 5)
    sides = grouped_split(ids, [0.7, 0.3], seed=1)
    assert [len(side) for side in sides] == [700, 300]
    assert not np.array_equal(sides[1], grouped_split(ids, [0.7, 0.3], seed=2)[1])
    with pytest.raises(TableError, match="10 rows in 1 groups cannot be split"):
        grouped_split(["same"] * 10, [0.5, 0.5], seed=0)
    with pytest.raises(ArgumentError, match="must be positive and sum to 1"):
        grouped_split(ids, [0.7, 0.2], seed=0)


@settings(max_examples=40, deadline=None)
@given(
    words=st.lists(st.sampled_from(["a", "b", "c", "d", "e"]), min_size=12, max_size=40),
    seed=st.integers(0, 3),
)
def test_duplicates_never_straddle_the_holdout(words: list[str], seed: int) -> None:
    table = Table.from_columns({"text": words})
    try:
        train, test = holdout(table, 0.3, seed)
    except TableError:
        assert len(set(words)) < 5 or max(Counter(words).values()) > len(words) * 0.3
        return
    assert not {words[i] for i in train} & {words[i] for i in test}
    assert len(train) + len(test) == len(words)


def test_holdout_limit_and_share() -> None:
    table = Table.from_columns({"text": [f"row {i}" for i in range(300)]})
    assert [len(side) for side in holdout(table, 0.2, 0)] == [240, 60]
    assert [len(side) for side in holdout(table, 0.2, 0, limit=10)] == [290, 10]
    with pytest.raises(ArgumentError, match="fraction is 1"):
        holdout(table, 1.0, 0)


@pytest.mark.parametrize("mapped", [True, False])
def test_marked_rows_decide(mapped: bool) -> None:
    marks = ["train", "Test", "dev", "train", "test", "validation"]
    columns = {"text": [f"row {i}" for i in range(6)], "split": marks}
    reads = {"text": Text, "split": Label} if mapped else {"text": Text}
    train, test = holdout(read_table(columns, reads), 0.5, 0)
    assert train.tolist() == [0, 3]
    assert test.tolist() == [1, 4]
    columns["split"] = ["train", "dev", "dev", "train", "val", "train"]
    assert holdout(read_table(columns, reads), 0.5, 0)[1].tolist() == [1, 2, 4]
    columns["split"] = ["train"] * 6
    only = read_table(columns, reads)
    assert [len(side) for side in holdout(only, 0.5, 0)] == [3, 3]
    assert any("marks train rows only" in note for note in only.notes)
    columns["split"] = ["train", "test", "blue", "train", "test", "train"]
    with pytest.raises(TableError, match=r"row 3, column 'split': holds 'blue'"):
        holdout(read_table(columns, reads), 0.5, 0)


def test_builtin_tables_are_found_by_file_name() -> None:
    assert {"digits", "python_code"} <= set(builtin_names())


def test_digits() -> None:
    from sklearn.datasets import load_digits

    table = read_table("builtin:digits")
    assert len(table) == 1797
    row = table.rows([3])
    assert row["text"] == ["a handwritten three"]
    assert table.label_names["label"][row["label"][0]] == "three"
    pixels = np.asarray(row["image"][0])
    assert pixels.shape == (8, 8, 3)
    np.testing.assert_allclose(pixels[..., 0].astype(float) * 16 / 255, load_digits().images[3], atol=0.05)
    train, test = holdout(table, 0.5, 0)
    assert abs(len(test) / len(table) - 0.2) < 0.01
    counts = Counter(table.select(test).column("label"))
    assert max(counts.values()) - min(counts.values()) <= 2
    contents = list(table.cell_bytes("image"))
    assert not {contents[i] for i in train} & {contents[i] for i in test}


def test_python_code_pairs_leak_nothing_and_parse() -> None:
    table = read_table("builtin:python_code")
    train, test = holdout(table, 0.5, 0)
    assert len(train) > 6000
    assert len(test) > 1500
    texts, codes, modules = table.column("text"), table.column("positive"), table.raw_cells("module")
    for cells in (texts, codes, modules):
        assert not {cells[i] for i in train} & {cells[i] for i in test}
    assert all(held_out(modules[i]) for i in test)
    assert len(set(zip(texts, codes, strict=True))) == len(table)
    for i in range(0, len(table), 60):
        function = ast.parse(codes[i]).body[0]
        assert isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
        assert ast.get_docstring(function) is None
        assert len(texts[i].split()) >= 5
        assert texts[i] == " ".join(texts[i].split())
    assert {"numpy", "scipy", "sklearn", "networkx"} <= {module.split(".")[0] for module in modules}
