"""`cluster`: which rows of a table are the same thing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nearfar.data.table import OnBadRow, Table, read_table
from nearfar.errors import ArgumentError
from nearfar.measures.clustering import ClusteringMetrics, clustering_metrics
from nearfar.report.tables import number
from nearfar.report.tables import table as aligned
from nearfar.search.clustering import cluster_threshold, single_linkage
from nearfar.search.records import encode_table
from nearfar.space import Space
from nearfar.verbs.writing import check_out, write_rows

SHOWN = 10
"""Clusters that are printed for people: the largest."""


@dataclass(frozen=True)
class Clusters:
    """Every row of a table with its cluster.

    Attributes:
        rows: numbers of the rows as the file counts them [N].
        clusters: of each row, from 1 in the order of their first rows [N].
        threshold: rows whose score reaches it are of one cluster, and so is what such rows connect.
        agreement: of the clusters with the labels of the table; None where it has none.
        tuned: whether the threshold was tuned on labelled rows.
    """

    rows: list[int]
    clusters: list[int]
    threshold: float
    agreement: ClusteringMetrics | None = None
    tuned: bool = False


def cluster(
    space: Space | Path | str,
    table: Table | Path | str,
    *,
    out: Path | str | None = None,
    threshold: float | None = None,
    labelled: Table | Path | str | None = None,
    columns: Mapping[str, str] | None = None,
    on_bad_row: OnBadRow = "error",
    batch_size: int = 64,
    overwrite: bool = False,
) -> Clusters:
    """Put rows that are near, or that a chain of near rows connects, into one cluster (single linkage).

    A row is read from all its columns that the space reads: picture and text together, where it has both. One
    that is near no other is a cluster of its own. Where the table has labels, the result tells how well the
    clusters agree with them.

    Args:
        space: a space or its folder.
        table: a table or its source.
        out: a .csv, .jsonl or .parquet file for row and cluster, one line a row; None writes none.
        threshold: lowest score that joins two rows; None: tuned on `labelled`.
        labelled: a table with a column of labels, other rows than those to cluster: the threshold is the one at
            which their clusters agree best with the labels.
        columns: role -> column, where names do not tell; for both tables.
        on_bad_row: "error" or "skip".
        batch_size: cells encoded at once.
        overwrite: replace `out` where it exists.

    Raises:
        ArgumentError: neither threshold nor labelled rows or both, a table has nothing that the space reads, or
            `out` has another suffix.
        ArtefactError: `out` exists already.
    """
    check_out(out, overwrite)
    if (threshold is None) == (labelled is None):
        raise ArgumentError(
            "clusters need a threshold: give a score (--threshold 0.8), or a table with labels to tune it on "
            "(--labelled FILE), one of the two"
        )
    if not isinstance(space, Space):
        space = Space.load(space)
    tables = [
        one if isinstance(one, Table) else read_table(str(one), columns=columns, on_bad_row=on_bad_row)
        for one in (table, labelled)
        if one is not None
    ]
    if threshold is None:
        known = tables[1]
        if "label" not in known.kinds:
            raise ArgumentError(
                f"{known.name} has no labels to tune on: name a column with --column label=NAME"
            )
        merges = single_linkage(encode_table(space, known, batch_size=batch_size), space.geometry)
        threshold = cluster_threshold(merges, known.column("label"))
    rows = tables[0]
    merges = single_linkage(encode_table(space, rows, batch_size=batch_size), space.geometry)
    found = merges.clusters(threshold)
    agreement = clustering_metrics(found, rows.column("label")) if "label" in rows.kinds else None
    result = Clusters(
        rows.row_numbers(range(len(rows))), (found + 1).tolist(), threshold, agreement, labelled is not None
    )
    if out is not None:
        write_rows(out, {"row": result.rows, "cluster": result.clusters})
    return result


def as_text(found: Clusters) -> str:
    """The result for people: how many clusters, and which are the largest."""
    sizes = Counter(found.clusters)
    members: dict[int, list[int]] = {}
    for row, name in zip(found.rows, found.clusters, strict=True):
        members.setdefault(name, []).append(row)
    alone = sum(size == 1 for size in sizes.values())
    shown = [
        [f"{name:,}", f"{size:,}", ", ".join(f"{row:,}" for row in members[name][:6]) + ", ..." * (size > 6)]
        for name, size in sorted(sizes.items(), key=lambda item: (-item[1], item[0]))[:SHOWN]
    ]
    lines = [
        f"{len(found.rows):,} rows are {len(sizes):,} clusters, {alone:,} of one row (score at least "
        f"{number(found.threshold)}{', tuned on labelled rows' if found.tuned else ''}); the largest:",
        "",
        aligned(["cluster", "size", "rows"], shown, right=2),
    ]
    if found.agreement is not None:
        a = found.agreement
        lines += ["", f"against the labels: ARI {a.ari:.4f}, NMI {a.nmi:.4f}, purity {a.purity:.4f}"]
    return "\n".join(lines)


def as_json(found: Clusters) -> dict[str, object]:
    """The result for machines."""
    agreement = None if found.agreement is None else vars(found.agreement)
    return {
        "rows": found.rows,
        "clusters": found.clusters,
        "threshold": found.threshold,
        "tuned": found.tuned,
        "agreement": agreement,
    }
