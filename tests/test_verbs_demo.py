"""`demo` on a handful of made-up functions: everything but the size."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nearfar.measures.retrieval import retrieval_metrics
from nearfar.space import Space
from nearfar.verbs import demo as verb
from nearfar.verbs.demo import as_text, demo

NOUNS = ["bytes", "labels", "message", "matrix", "graph", "file", "socket", "token"]
WORK = ["compress", "compare", "send", "sort", "read", "merge", "split", "count", "hash", "parse"]


@pytest.fixture
def functions(tmp_path: Path) -> Path:
    """80 functions, of which those of one module are held out."""
    file = tmp_path / "functions.jsonl"
    with open(file, "w", encoding="utf-8") as lines:
        for noun in NOUNS:
            for verb_ in WORK:
                row = {
                    "text": f"{verb_.capitalize()} the given {noun}.",
                    "positive": f"def {verb_}_{noun}({noun[0]}):\n    return {verb_}({noun[0]})",
                    "module": f"{noun}lib",
                    "split": "test" if noun in ("token", "socket") else "train",
                }
                print(json.dumps(row), file=lines)
    return file


def test_the_demonstration_measures_answers_and_leaves_space_and_report(
    functions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verb, "TABLE", str(functions))
    monkeypatch.setattr(verb, "BATCH", 16)
    result = demo(out=tmp_path / "demo", steps=1)
    assert result.rows == (60, 20)
    held_out = [json.loads(line) for line in functions.read_text().splitlines() if '"test"' in line]
    space = Space.load(result.space)
    z = [space.encode([row[role] for row in held_out]) for role in ("text", "positive")]
    assert result.after["mrr@10"].value == pytest.approx(retrieval_metrics(*z)["mrr@10"], abs=1e-6)
    assert result.after["mrr@10"].n == 20
    assert result.before["alignment"].value != result.after["alignment"].value
    assert 0 < result.bm25["mrr@10"] <= 1
    assert [query for query, _ in result.answers] == list(verb.QUERIES)
    for _, hits in result.answers:
        assert len(hits) == 3
        assert all(line.startswith(("tokenlib: def ", "socketlib: def ")) for _, line in hits)
        assert [score for score, _ in hits] == sorted((score for score, _ in hits), reverse=True)

    text = as_text(result)
    lines = text.splitlines()
    assert lines[0] == "20 held-out functions of modules that training did not see (60 pairs trained on)"
    for name, figure in (
        ("BM25 (words)", result.bm25["mrr@10"]),
        ("fitted space", result.after["mrr@10"].value),
    ):
        [line] = [line for line in lines if line.startswith(name)]
        assert f"{figure:.4f}" in line
    assert lines[-1].startswith(f"ask your own: nearfar search {result.space} {functions}")
    page = result.report.read_text(encoding="utf-8")
    assert all(query in page for query in verb.QUERIES)
    assert (result.space / "README.md").is_file()
    assert demo(out=tmp_path / "demo", steps=1).after == result.after, (
        "same seed, same figures; run again at will"
    )
