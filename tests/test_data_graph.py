"""Graphs as tables: what is read from nodes and edges, and what selecting and skipping rows do to links."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from samples import write_csv

from nearfar.data.kinds import Label, Links, Node, Vector
from nearfar.data.splits import holdout
from nearfar.data.table import Table, read_table
from nearfar.errors import TableError

READS = {"node": Node, "label": Label | None}
EDGES = [("a", "b"), ("c", "b"), ("b", "a"), ("d", "d"), ("a", "d")]
"""One repeats another backwards, one is of a node with itself; node e has none."""


def written(
    folder: Path, edges: list[tuple[str, ...]] = EDGES, header: tuple[str, ...] = ("source", "target")
) -> Path:
    rows = [(name, f"[{i}, {i * i}]", "odd" if i % 2 else "even") for i, name in enumerate("abcde")]
    write_csv(folder / "nodes.csv", ["id", "vector", "label"], rows)
    write_csv(folder / "edges.csv", header, edges)
    return folder


def neighbours(table: Table, role: str = "links") -> list[list[int]]:
    return [links.tolist() for links in table.column(role)]


# -- reading ---------------------------------------------------------------------------------------


def test_an_edge_is_read_both_ways_and_what_is_left_out_is_counted(tmp_path: Path) -> None:
    table = read_table(written(tmp_path), reads=READS)
    assert neighbours(table) == [[1, 3], [0, 2], [1], [0], []]
    assert table.kinds == {"label": Label, "vector": Vector, "links": Links, "node": Node}
    assert any("3 links, both ways" in note and "1 of a node with itself" in note for note in table.notes)
    assert any("1 that repeat another" in note and "1 nodes without any" in note for note in table.notes)


def test_csv_json_and_parquet_are_the_same_graph(tmp_path: Path) -> None:
    first = read_table(
        written(tmp_path / "csv" if (tmp_path / "csv").mkdir() is None else tmp_path), reads=READS
    )
    rows = [
        {"id": n, "vector": [float(i), float(i * i)], "label": "odd" if i % 2 else "even"}
        for i, n in enumerate("abcde")
    ]
    edges = [{"source": s, "target": t} for s, t in EDGES]
    for suffix in ("jsonl", "parquet"):
        folder = tmp_path / suffix
        folder.mkdir()
        for name, cells in (("nodes", rows), ("edges", edges)):
            if suffix == "jsonl":
                (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, cells)))
            else:
                pd.DataFrame(cells).to_parquet(folder / f"{name}.parquet")
        assert read_table(folder, reads=READS).fingerprint == first.fingerprint


def test_without_ids_edges_name_rows_from_0(tmp_path: Path) -> None:
    write_csv(tmp_path / "nodes.csv", ["vector"], [("[1, 0]",), ("[0, 1]",), ("[1, 1]",)])
    write_csv(tmp_path / "edges.csv", ["source", "target"], [(0, 2), ("1", 2)])
    table = read_table(tmp_path, reads={"node": Node})
    assert neighbours(table) == [[2], [2], [0, 1]]
    assert "edges name nodes by row number, 0 to 2 (no column id)" in table.notes
    write_csv(tmp_path / "edges.csv", ["source", "target"], [(1, 3)])
    with pytest.raises(TableError, match=r"edges.csv, row 1, column 'target': '3' is no node .*0 to 2"):
        read_table(tmp_path, reads={"node": Node})


def test_each_relation_is_a_column(tmp_path: Path) -> None:
    edges = [("a", "b", "cites"), ("a", "b", "likes"), ("c", "e", "likes")]
    folder = written(tmp_path, edges, ("source", "target", "relation"))
    table = read_table(folder, reads=READS)
    assert neighbours(table, "links:cites") == [[1], [0], [], [], []]
    assert neighbours(table, "links:likes") == [[1], [0], [4], [], [2]]
    assert list(table.column("node")[0].graph.relations) == ["cites", "likes"]
    one = read_table(folder, reads=READS, columns={"links": "links:likes"})
    assert {name: links.tolist() for name, links in one.column("node")[0].graph.relations.items()} == {
        "links": [[0, 1, 2, 4], [1, 0, 4, 2]]
    }


def test_other_columns_of_edges_are_told(tmp_path: Path) -> None:
    table = read_table(written(tmp_path, [("a", "b", "3")], ("source", "target", "weight")), reads=READS)
    assert "columns of edges.csv that are not read: weight" in table.notes


@pytest.mark.parametrize(
    ("edges", "header", "message"),
    [
        (
            [("a", "b"), ("a", "x")],
            ("source", "target"),
            r"edges.csv, row 2, column 'target': 'x' is no node",
        ),
        ([("a", "b")], ("from", "target"), r"edges.csv has no column 'source'.*from, target"),
        ([], ("source", "target"), r"edges.csv has no rows"),
    ],
)
def test_broken_edges_are_named(
    tmp_path: Path, edges: list[tuple[str, ...]], header: tuple[str, ...], message: str
) -> None:
    with pytest.raises(TableError, match=message):
        read_table(written(tmp_path, edges, header), reads=READS)


def test_an_empty_end_is_named(tmp_path: Path) -> None:
    written(tmp_path)
    (tmp_path / "edges.csv").unlink()
    (tmp_path / "edges.jsonl").write_text('{"source": "a", "target": "b"}\n{"source": "a"}\n')
    with pytest.raises(TableError, match=r"edges.jsonl, row 2, column 'target': the cell is empty"):
        read_table(tmp_path, reads=READS)


def test_an_id_of_two_nodes_is_named(tmp_path: Path) -> None:
    written(tmp_path)
    write_csv(tmp_path / "nodes.csv", ["id", "vector"], [("a", "[1]"), ("b", "[2]"), ("a", "[3]")])
    with pytest.raises(TableError, match=r"nodes.csv, row 3, column 'id': 'a' is the id of another row"):
        read_table(tmp_path, reads={"node": Node})


def test_edges_without_nodes_or_with_two_files_of_them(tmp_path: Path) -> None:
    written(tmp_path)
    (tmp_path / "nodes.jsonl").write_text('{"id": 1}')
    with pytest.raises(TableError, match=r"holds nodes.csv, nodes.jsonl"):
        read_table(tmp_path)
    for file in tmp_path.glob("nodes.*"):
        file.unlink()
    with pytest.raises(TableError, match=r"no nodes.csv, nodes.jsonl or nodes.parquet"):
        read_table(tmp_path)


def test_a_table_without_links_says_what_a_graph_is(tmp_path: Path) -> None:
    file = write_csv(tmp_path / "plain.csv", ["vector", "label"], [("[1, 2]", "x"), ("[3, 4]", "y")])
    with pytest.raises(TableError, match=r"no links between its rows.*nodes.csv and edges.csv"):
        read_table(file, reads=READS)
    written(tmp_path)
    write_csv(tmp_path / "nodes.csv", ["id", "text"], [(name, f"the node {name}") for name in "abcde"])
    with pytest.raises(TableError, match=r"no column 'vector' \(vector\), and none is vector"):
        read_table(tmp_path, reads=READS)


def test_a_row_that_cannot_be_read_would_shift_all_numbers(tmp_path: Path) -> None:
    written(tmp_path)
    with open(tmp_path / "nodes.csv", "a", encoding="utf-8") as file:
        file.write("f\n")
    with pytest.raises(TableError, match=r"nodes.csv, row 6: has 1 cell"):
        read_table(tmp_path, reads=READS, on_bad_row="skip")


# -- links that a table holds already --------------------------------------------------------------


def test_links_in_memory_are_whole_numbers_of_rows() -> None:
    columns = {"vector": np.eye(3, dtype=np.float32), "links": [[1], [0, 2], []]}
    table = Table.from_columns(columns, kinds={"links": Links})
    assert table.column("links")[1].dtype == np.int64
    assert table.column("node")[2].graph.relations["links"].tolist() == [[0, 1, 1], [1, 0, 2]]
    for links, message in (
        ([[1], [3], []], "row 2, column 'links': links to row number 3, .* from 0 to 2"),
        ([[1, 1], [0], []], "row 1, column 'links': links to one row twice"),
        ([[0.5], [0], []], "row 1, column 'links': holds .*not a list of row numbers"),
    ):
        with pytest.raises(TableError, match=message):
            Table.from_columns({**columns, "links": links}, kinds={"links": Links})


def test_lists_of_integers_are_still_vectors_where_no_links_are_meant() -> None:
    table = Table.from_columns({"vector": [[1, 2], [3, 4]]})
    assert table.kinds == {"vector": Vector}
    assert table.column("vector")[0].dtype == np.float32
    mixed = Table.from_columns({"vector": [[1, 2], [0.5, 4]]})
    assert mixed.column("vector")[1].tolist() == [0.5, 4.0]


# -- some of the rows ------------------------------------------------------------------------------


def test_selected_nodes_keep_the_whole_graph(tmp_path: Path) -> None:
    table = read_table(written(tmp_path), reads=READS)
    some = table.select([3, 1])
    nodes = some.rows([0, 1])["node"]
    assert [node.row for node in nodes] == [3, 1]
    assert nodes[0].graph is table.column("node")[0].graph
    assert neighbours(some) == [[0], [0, 2]]
    assert some.select([1]).column("node") == [nodes[1]]


def test_the_fingerprint_of_some_nodes_is_that_of_their_graph(tmp_path: Path) -> None:
    def selected(changed: float, rows: list[int]) -> str:
        vectors = np.eye(3, dtype=np.float32)
        vectors[2, 0] = changed
        columns = {"vector": vectors, "links": [[1], [0, 2], [1]]}
        return Table.from_columns(columns, kinds={"links": Links}).select(rows).fingerprint

    assert selected(0, [0]) == selected(0, [0])
    assert selected(0, [0]) != selected(5, [0])  # a node that is not selected, but is in reach
    ring = {"vector": np.ones((3, 2), dtype=np.float32), "links": [[1, 2], [0, 2], [0, 1]]}
    alike = Table.from_columns(ring, kinds={"links": Links})
    assert alike.select([0]).fingerprint != alike.select([1]).fingerprint


def test_a_node_that_is_skipped_takes_its_links_with_it(tmp_path: Path) -> None:
    written(tmp_path)
    rows = [("a", "[0, 0]"), ("b", "[7]"), ("c", "[2, 4]"), ("d", "[3, 9]"), ("e", "[4, 16]")]
    write_csv(tmp_path / "nodes.csv", ["id", "vector"], rows)
    with pytest.raises(TableError, match="row 2, column 'vector'"):
        read_table(tmp_path, reads={"node": Node})
    table = read_table(tmp_path, reads={"node": Node}, on_bad_row="skip")
    assert neighbours(table) == [[2], [], [0], []]  # a-b and c-b are gone, d is number 2 now
    graph = table.column("node")[0].graph
    assert graph.relations["links"].tolist() == [[0, 2], [2, 0]]
    assert graph.features[:, 0].tolist() == [0, 2, 3, 4]
    assert table.row_numbers([2]) == [4]


def test_nodes_with_equal_vectors_are_different_rows() -> None:
    columns = {"vector": np.ones((20, 2), dtype=np.float32), "links": [[(i + 1) % 20] for i in range(20)]}
    train, test = holdout(Table.from_columns(columns, kinds={"links": Links}), 0.2, seed=0)
    assert len(train) == 16
    assert len(test) == 4
