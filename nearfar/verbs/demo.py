"""`demo`: semantic search over the Python code on this machine, learned in minutes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nearfar.data.table import Table, read_table
from nearfar.files import atomic_file
from nearfar.measures.embeddings import Measurement
from nearfar.measures.retrieval import ranking_metrics
from nearfar.report.evidence import gather_evidence
from nearfar.report.measure_page import measure_page
from nearfar.report.model_card import model_card
from nearfar.report.page import Cell, PageTable, Section
from nearfar.search.bm25 import BM25
from nearfar.search.index import Index
from nearfar.space import Space
from nearfar.verbs.fit import card_of
from nearfar.verbs.fitting import Fitting, fit_rows

TABLE = "builtin:python_code"
QUERIES = (
    "compress a sequence of bytes",
    "how similar are two sets of cluster labels",
    "send an e-mail message to a server",
)
STEPS = 80
BATCH = 64
TOKENS = 64
"""What fits two CPU cores in under four minutes: all three were chosen by the clock."""
LEARNING_RATE = 5e-5

Answers = list[tuple[str, list[tuple[float, str]]]]
"""Each question with its nearest functions, as (cosine, headline)."""


@dataclass(frozen=True)
class Demo:
    """What the demonstration found.

    Attributes:
        rows: pairs to train on and held-out pairs, of other modules.
        bm25: figures of the word-matching baseline on the held-out corpus.
        before: measures of the shipped encoder on the held-out pairs.
        after: the same of the fitted space.
        answers: example queries and their nearest held-out functions, as (score, headline).
        seconds: wall-clock time of the parts.
        space: folder of the space.
        report: the page.
    """

    rows: tuple[int, int]
    bm25: dict[str, float]
    before: dict[str, Measurement]
    after: dict[str, Measurement]
    answers: Answers
    seconds: dict[str, float]
    space: Path
    report: Path


def demo(*, out: Path | str = "nearfar-demo", seed: int = 0, steps: int = STEPS) -> Demo:
    """Fit a space for code search from the docstrings of the installed Python code, and measure it.

    Pairs of (first paragraph of a docstring, source of the function without it) are read from the standard
    library and four installed packages; about a quarter of the modules is held out. The fitted space is
    compared with the encoder it started from and with BM25 on all held-out functions, then asked three
    questions.

    Args:
        out: folder of the space and the report.
        seed: of the order of the pairs and of dropout.
        steps: optimiser steps.
    """
    out = Path(out)
    clock = _Clock()
    table = read_table(TABLE)
    training, held_out = _sides(table)
    clock.lap("reading")
    bm25 = _bm25(held_out)
    clock.lap("bm25")
    fitting = fit_rows(
        "simcse",
        training,
        held_out,
        encoder="minilm",
        hyperparameters={"head": "none"},
        max_length=TOKENS,
        steps=steps,
        batch_size=BATCH,
        learning_rate=LEARNING_RATE,
        seed=seed,
    )
    clock.lap("fitting and measuring")
    space = fitting.method.space()
    space.card = card_of(fitting, training, held_out)
    space.save(out / "space", overwrite=True)
    (out / "space" / "README.md").write_text(model_card(space.card, space.geometry), encoding="utf-8")
    answers = _answers(space, held_out, fitting)
    clock.lap("saving and asking")
    report = out / "report.html"
    _write_report(report, fitting, bm25, answers)
    clock.lap("report")
    return Demo(
        (len(training), len(held_out)),
        bm25,
        fitting.before,
        fitting.after,
        answers,
        clock.laps,
        out / "space",
        report,
    )


class _Clock:
    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name] = round(now - self._last, 1)
        self._last = now


def _sides(table: Table) -> tuple[Table, Table]:
    split = np.array(table.raw_cells("split"))
    return table.select(np.flatnonzero(split == "train")), table.select(np.flatnonzero(split == "test"))


def _bm25(held_out: Table) -> dict[str, float]:
    queries, code = held_out.column("text"), held_out.column("positive")
    _, ranked = BM25(code).search(queries, k=len(code))
    return ranking_metrics(ranked, positives=None)


def _answers(space: Space, held_out: Table, fitting: Fitting) -> Answers:
    """The three held-out functions nearest to each example query."""
    assert fitting.embedded is not None
    code = fitting.embedded[1][0]["positive"]
    modules = held_out.raw_cells("module")
    scores, ids = Index(code, "cosine").search(space.encode(QUERIES), 3)
    found = []
    for query, row_scores, row_ids in zip(QUERIES, scores, ids, strict=True):
        rows = held_out.rows(row_ids)
        lines = [
            _headline(modules[int(i)], source, docstring)
            for i, source, docstring in zip(row_ids, rows["positive"], rows["text"], strict=True)
        ]
        found.append((query, list(zip(map(float, row_scores), lines, strict=True))))
    return found


def _headline(module: str, source: str, docstring: str) -> str:
    name = next(line for line in source.splitlines() if line.lstrip().startswith(("def ", "async def ")))
    return f"{module}: {name.strip()[:60]}  # {docstring[:70]}"


def _write_report(report: Path, fitting: Fitting, bm25: dict[str, float], answers: Answers) -> None:
    assert fitting.embedded is not None
    old, new = (gather_evidence(*rows) for rows in fitting.embedded)
    found = {
        "BM25, which matches words": (bm25["mrr@10"], bm25["recall@10"]),
        "MiniLM as shipped": (fitting.before["mrr@10"].value, fitting.before["recall@10"].value),
        "the fitted space": (fitting.after["mrr@10"].value, fitting.after["recall@10"].value),
    }
    first = [
        Section(
            "Finding a function by what it does",
            "How high the right function stands among all held-out ones, for each of their docstrings.",
            PageTable(
                ("search by", "MRR@10", "Recall@10"),
                [
                    [Cell(name), Cell(f"{mrr:.4f}", "number"), Cell(f"{recall:.4f}", "number")]
                    for name, (mrr, recall) in found.items()
                ],
            ),
        ),
        Section(
            "Three questions",
            "Asked of the fitted space, with the nearest held-out functions.",
            PageTable(
                ("question", "cosine", "answer"),
                [
                    [Cell(query if rank == 0 else ""), Cell(f"{score:.3f}", "number"), Cell(line, "muted")]
                    for query, hits in answers
                    for rank, (score, line) in enumerate(hits)
                ],
            ),
        ),
    ]
    notes = [
        "Each query is the first paragraph of a docstring; the key is the source of the function without it. No module "
        "is on both sides of the split.",
        *fitting.notes,
    ]
    title = "Code search: before and after fitting"
    page = measure_page(fitting.before, fitting.after, old, new, notes, title, first)
    with atomic_file(report) as temporary:
        temporary.write_text(page, encoding="utf-8")


def as_text(result: Demo) -> str:
    """The findings for people."""
    from nearfar.report.tables import number, table

    def row(name: str, mrr: float, recall: float, measured: dict[str, Measurement] | None) -> list[str]:
        extra = [number(measured[m].value) if measured else "" for m in ("alignment", "uniformity")]
        return [name, number(mrr), number(recall), *extra]

    rows = [
        row("BM25 (words)", result.bm25["mrr@10"], result.bm25["recall@10"], None),
        row(
            "MiniLM as shipped",
            result.before["mrr@10"].value,
            result.before["recall@10"].value,
            result.before,
        ),
        row("fitted space", result.after["mrr@10"].value, result.after["recall@10"].value, result.after),
    ]
    lines = [
        f"{result.rows[1]:,} held-out functions of modules that training did not see "
        f"({result.rows[0]:,} pairs trained on)",
        "",
        table(["", "MRR@10", "Recall@10", "alignment", "uniformity"], rows),
        "(alignment: lower is closer pairs; uniformity: lower is better spread)",
        "",
    ]
    for query, hits in result.answers:
        lines.append(f"? {query}")
        lines += [f"  {score:.3f}  {headline}" for score, headline in hits]
    lines += [
        "",
        "seconds: " + ", ".join(f"{name} {seconds:.0f}" for name, seconds in result.seconds.items()),
        f"report: {result.report}",
        f"space:  {result.space}",
        f'ask your own: nearfar search {result.space} {TABLE} "parse a date from a string"',
    ]
    return "\n".join(lines)
