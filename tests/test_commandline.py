"""The command `nearfar`: exit codes, messages, JSON, and a table that is wrong in every way."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import nearfar, sentences
from PIL import Image as Pictures
from samples import text_space, write_csv

from nearfar import progress
from nearfar.commandline.app import VERBS, main
from nearfar.commandline.signatures import describe_function, describe_settings
from nearfar.space import Space
from nearfar.version import __version__


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = [cell for row in sentences() for cell in row[:2]]
    return text_space(texts).save(tmp_path_factory.mktemp("spaces") / "space")


Said = tuple[int, str, str]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Call the command line in this process: exit status, standard output, standard error."""

    def call(*arguments: object) -> Said:
        capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return status, out, err

    return call


def no_constant(word: str) -> Any:
    raise AssertionError(f"{word} is not JSON")


def parsed(out: str) -> Any:
    """The value of one line of strict JSON."""
    assert out.count("\n") == 1
    return json.loads(out, parse_constant=no_constant)


# -- in a process of its own -----------------------------------------------------------------------


def test_a_user_sees_one_line_and_a_status(pairs_csv: Path, tmp_path: Path) -> None:
    wrong = nearfar("fit", "simcse", tmp_path / "nothing.csv", "--out", tmp_path / "x", check=False)
    assert wrong.returncode == 1
    assert wrong.stdout == ""
    assert wrong.stderr.startswith("nearfar: ")
    assert wrong.stderr.count("\n") == 1
    assert "nothing.csv does not exist" in wrong.stderr
    usage = nearfar("fit", "simcse", pairs_csv, check=False)
    assert (usage.returncode, usage.stdout) == (2, "")
    assert "--out requires an argument" in usage.stderr


def test_json_has_the_standard_output_for_itself(space: Path, tmp_path: Path) -> None:
    rows = [("a cat", "x"), ("", "x"), ("a dog", "y"), ("a goose", "y")]
    table = write_csv(tmp_path / "t.csv", ["text", "label"], rows)
    done = nearfar("measure", space, table, "--json", "--on-bad-row", "skip")
    assert parsed(done.stdout)["uniformity"]["n"] == 3
    assert f"{table}: 1 row left out: 1 with empty text in column 'text' (row 2)" in done.stderr


# -- usage -----------------------------------------------------------------------------------------


def test_help_and_version(run: Callable[..., Said]) -> None:
    assert run("--version") == (0, f"{__version__}\n", "")
    for arguments in ((), ("--help",)):
        status, out, err = run(*arguments)
        assert (status, err) == (0, "")
        assert all(verb in out for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_a_verb_comes_from_its_docstring_and_signature(
    run: Callable[..., Said], verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    described = describe_function(*VERBS[verb])
    status, out, err = run(verb, "--help")
    assert (status, err) == (0, "")
    words = " ".join(out.replace("│", " ").split())
    assert " ".join(described.summary.split()) in words
    for argument in described.arguments:
        if argument.name == "hyperparameters" or (verb, argument.name) == ("compare", "table"):
            continue  # the former are options of their own; the latter is the last of the words
        name = argument.name.replace("_", "-")
        assert argument.about, f"{verb} does not say what {argument.name} is"
        assert name.removesuffix("s") in words or argument.name.upper() in words, argument.name
        assert " ".join(argument.about.split()) in words, argument.name
    assert "--json" in words
    assert ("METHOD METHOD ... TABLE" in words) == (verb == "compare")


def test_the_help_of_fit_has_settings_and_the_hyperparameters_of_the_method(
    run: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    words = " ".join(run("fit", "simcse", "--help")[1].replace("│", " ").split())
    own = {argument.name for argument in describe_function(*VERBS["fit"]).arguments}
    for setting in describe_settings("training.settings", "Settings").arguments:
        assert "--" + setting.name.replace("_", "-") in words
        assert setting.name in own or " ".join(setting.about.split()) in words
    assert "--hard-negative-log-weight" in words
    assert "(simcse)" in words
    assert "--hard-negative-log-weight" not in run("fit", "clip", "--help")[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fitt"], 'Unknown command "fitt"'),
        (["fit"], "--method requires an argument"),
        (["fit", "simcse"], "--table requires an argument"),
        (["fit", "simcse", "t.csv"], "--out requires an argument"),
        (["fit", "simcse", "t.csv", "--out", "o", "--steps", "many"], 'unable to convert "many" into int'),
        (["fit", "simcse", "t.csv", "--out", "o", "--temperature", "hot"], '"hot" into float'),
        (["fit", "simcse", "t.csv", "--out", "o", "--pooling", "sum"], 'Invalid value "sum"'),
        (["fit", "simcse", "t.csv", "--out", "o", "--dim", "8"], "Unknown option"),
        (["fit", "simcse", "t.csv", "--out", "o", "--schedule", "steep"], 'Invalid value "steep"'),
        (["fit", "simcse", "t.csv", "--out", "o", "--precision", "8-true"], 'Invalid value "8-true"'),
        (["fit", "simcse", "t.csv", "--out", "o", "--on-bad-row", "ignore"], 'Invalid value "ignore"'),
        (
            ["fit", "simcse", "t.csv", "--out", "o", "--column", "body"],
            "'body' should have the form role=name",
        ),
        (
            ["fit", "clip", "t.csv", "--out", "o", "--encoder", "tiny", "--encoder", "x=y"],
            "'tiny' should have",
        ),
        (["embed", "s", "t.csv"], "--out requires an argument"),
        (["search", "s", "t.csv"], "QUERIES requires an argument"),
        (["search", "s", "t.csv", "q", "-k", "few"], 'unable to convert "few" into int'),
        (["compare"], "METHODS requires an argument"),
        (["compare", "simcse"], "give methods and then table"),
        (["reproduce"], "--method requires an argument"),
        (["measure"], "--space requires an argument"),
    ],
)
def test_wrong_usage_is_status_2(run: Callable[..., Said], arguments: list[str], message: str) -> None:
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert message in " ".join(err.replace("│", " ").split())


# -- verbs, as a user calls them -------------------------------------------------------------------


def test_methods(run: Callable[..., Said]) -> None:
    status, out, _ = run("methods")
    assert status == 0
    assert out.splitlines()[0].split() == ["name", "family", "reads", "venue", "title"]
    listed = parsed(run("methods", "--json")[1])
    assert [line.split()[0] for line in out.splitlines()[2:]] == [entry["name"] for entry in listed]
    for entry in listed:
        assert set(entry) >= {"name", "title", "venue", "family", "reads", "encoders", "hyperparameters"}
    [one] = parsed(run("methods", "simcse", "--json")[1])
    assert one["reads"] == {"text": "Text", "positive": "Text | None", "negative": "Text | None"}
    assert "--temperature float = 0.05" in run("methods", "simcse")[1]
    status, said, err = run("methods", "simsce")
    assert (status, said) == (1, "")
    assert err.startswith("nearfar: there is no method 'simsce': did you mean simcse")


def test_from_fit_to_search(run: Callable[..., Said], pairs_csv: Path, space: Path, tmp_path: Path) -> None:
    out = tmp_path / "fitted"
    short = ("--steps", "2", "--batch-size", "16", "--encoder", space / "text")
    command = ("fit", "simcse", pairs_csv, "--out", out, *short, "--temperature", "0.1", "--head", "none",
               "--column", "text=positive", "--column", "positive=text", "--warmup", "0.5")  # fmt: skip
    status, said, err = run(*command)
    assert (status, err) == (0, "")
    assert "trained on 130 rows" in said
    heading = next(line for line in said.splitlines() if line.startswith("measure"))
    assert heading.split() == ["measure", "before", "after", "change", "better", "is"]
    card = Space.load(out).card
    assert card["hyperparameters"] == {"temperature": 0.1, "head": "none"}
    assert card["settings"]["warmup"] == 0.5
    assert card["columns"]["text"] == "positive"
    told = parsed(run(*command, "--overwrite", "--json")[1])
    assert told["out"] == str(out)
    assert told["measures"] == card["measures"]

    assert run("embed", out, pairs_csv, "--out", tmp_path / "v.parquet") == (
        0,
        f"wrote {tmp_path / 'v.parquet'}\n",
        "",
    )
    vectors = parsed(run("measure", tmp_path / "v.parquet", "--json")[1])
    spaces = parsed(run("measure", out, pairs_csv, "--json", "--report", tmp_path / "page.html")[1])
    assert vectors["alignment"]["value"] == pytest.approx(spaces["alignment"]["value"], abs=1e-5)
    assert set(vectors["alignment"]) == {"name", "value", "n", "better", "about"}
    assert (tmp_path / "page.html").is_file()

    queries = ("the snow near the road", "a cat")
    _, shown, _ = run("search", out, pairs_csv, *queries, "-k", "2", "--role", "text")
    assert shown.splitlines()[0] == f"? {queries[0]}"
    assert "row 64  the snow near the road" in shown.splitlines()[1]
    found = parsed(run("search", out, pairs_csv, *queries, "-k", "2", "--role", "text", "--json")[1])
    assert [answer["query"] for answer in found] == list(queries)
    assert [len(answer["hits"]) for answer in found] == [2, 2]
    assert found[0]["hits"][0]["row"] == 64
    assert found[0]["hits"][0]["cells"]["label"] == "weather"


def test_compare(run: Callable[..., Said], pairs_csv: Path, space: Path, tmp_path: Path) -> None:
    command = ("compare", "simcse", "mlm", pairs_csv, "--seeds", "2", "--steps", "1", "--batch-size", "16",
               "--encoder", space / "text", "--out", tmp_path / "c")  # fmt: skip
    status, out, _ = run(*command)
    assert status == 0
    assert [line.split()[0] for line in out.splitlines()[2:5]] == ["before", "simcse", "mlm"]
    told = parsed(run(*command, "--json")[1])
    assert told["methods"] == ["simcse", "mlm"]
    assert set(told["differences"]["mlm"]["mrr@10"]) == {"mean", "low", "high"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "simsce", "{table}", "--out", "{tmp}/x"], "did you mean simcse"),
        (["fit", "simcse", "{table}", "--out", "{tmp}/x", "--steps", "1", "--epochs", "1"],
         "exactly one of steps and epochs"),
        (["fit", "simcse", "{table}", "--out", "{tmp}/x", "--column", "text=body"], "no column 'body'"),
        (["fit", "clip", "{table}", "--out", "{tmp}/x"], "no column 'image' (image), and none is image"),
        (["fit", "simcse", "{table}", "--out", "{table}"], "is a file: choose a folder"),
        (["fit", "simcse", "{table}", "--out", "{space}"], "holds a finished space"),
        (["fit", "mlm", "{table}", "--out", "{tmp}/x", "--encoder", "{space}/text", "--cache-chunk", "4"],
         "MLM computes its loss in one piece: it cannot use cache_chunk"),
        (["embed", "{tmp}", "{table}", "--out", "{tmp}/v.parquet"], "no model folder"),
        (["embed", "{space}", "{table}", "--out", "{table}"], "exists already"),
        (["embed", "{space}", "{table}", "--out", "{tmp}/v.parquet", "--batch-size", "0"], "batch_size must be"),
        (["measure", "{space}"], "give a table as well"),
        (["measure", "{table}"], "no column of vectors"),
        (["search", "{space}", "{table}", "q", "-k", "0"], "k must be at least 1"),
        (["search", "{space}", "{table}", "q", "--role", "answer"], "no role 'answer'"),
        (["compare", "simcse", "{table}"], "at least two different methods"),
        (["compare", "simcse", "mlm", "{table}", "--seeds", "1"], "at least two seeds"),
        (["reproduce", "mlm"], "mlm has no experiment: add nearfar/recipes/mlm.py"),
        (["reproduce", "clip", "--data-dir", "{tmp}"], "say with --data-dir where the data are"),
        (["reproduce", "nothing"], "no method 'nothing'"),
    ],
)  # fmt: skip
def test_named_errors_are_status_1_and_one_line(
    run: Callable[..., Said], pairs_csv: Path, space: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    names = {"table": pairs_csv, "space": space, "tmp": tmp_path}
    status, out, err = run(*(argument.format(**names) for argument in arguments))
    assert (status, out) == (1, "")
    assert err.startswith("nearfar: ")
    assert err.count("\n") == 1
    assert message in err


def test_progress_goes_to_standard_error(
    run: Callable[..., Said], pairs_csv: Path, space: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    monkeypatch.setattr(progress, "PLAIN_INTERVAL", 0.0)
    command = ("fit", "simcse", pairs_csv, "--out", tmp_path / "s", "--encoder", space / "text", "--steps", "2",
               "--batch-size", "16", "--json")  # fmt: skip
    status, out, err = run(*command)
    assert status == 0
    assert parsed(out)["steps"] == 2
    steps = [line for line in err.splitlines() if line.startswith("training: 2/2")]
    assert len(steps) == 1
    shown = float(steps[0].split("loss ")[1].split()[0])
    excess = float(steps[0].split("loss - log n ")[1].split(")")[0])
    assert shown - excess == pytest.approx(math.log(15), abs=0.01)


def test_vectors_are_numbers_in_json(run: Callable[..., Said], tmp_path: Path) -> None:
    from nearfar.encoders.vector import MLPVector

    rows = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)
    Space({"vector": MLPVector(3, 8, 4)}).save(tmp_path / "space")
    np.save(tmp_path / "v.npy", rows)
    status, out, _ = run(
        "embed", tmp_path / "space", tmp_path / "v.npy", "--out", tmp_path / "v.parquet", "--json"
    )
    assert (status, parsed(out)) == (0, {"out": str(tmp_path / "v.parquet")})
    from nearfar.commandline.printing import as_json
    from nearfar.verbs.search import search_table

    hits = search_table(tmp_path / "space", tmp_path / "v.npy", [rows[2]], k=1)
    told = json.loads(json.dumps(as_json("search", hits, {"queries": ["row 3"]})))
    assert told[0]["hits"][0]["row"] == 3
    assert told[0]["hits"][0]["cells"]["vector"] == pytest.approx(rows[2].tolist())


# -- a table that is wrong in every way ------------------------------------------------------------

GOOD = [f"text number {i}" for i in range(1, 41)]


def table_of(cells: dict[str, list[Any]]) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        return write_csv(folder / "t.csv", list(cells), list(zip(*cells.values(), strict=True)))

    return write


def replaced(values: list[Any], *changes: tuple[int, Any]) -> list[Any]:
    """`values` with others in some rows, counted from 1."""
    changed = dict(changes)
    return [changed.get(row, value) for row, value in enumerate(values, start=1)]


def lines(*extra: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        path = folder / "t.csv"
        path.write_bytes(b"\n".join([b"text,label", *(f"{t},x".encode() for t in GOOD[:30]), *extra]) + b"\n")
        return path

    return write


def pictures(folder: Path) -> Path:
    (folder / "img").mkdir()
    for i in range(1, 5):
        Pictures.new("RGB", (8, 8), (50 * i, 9, 9)).save(folder / "img" / f"{i}.png")
    (folder / "img" / "3.png").write_bytes(b"\x89PNG\r\n\x1a\nand then nothing")
    rows = [(f"img/{i}.png", f"a picture {i}") for i in range(1, 5)]
    return write_csv(folder / "t.csv", ["image", "text"], rows)


def vectors(value: float, row: int = 5) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        cells = [[float(i), 1.0, 0.5] for i in range(1, 13)]
        cells[row - 1][1] = value
        return table_of({"vector": [json.dumps(cell) for cell in cells], "label": ["x", "y"] * 6})(folder)

    return write


FIT = [
    "fit",
    "simcse",
    "{table}",
    "--out",
    "{tmp}/out",
    "--steps",
    "1",
    "--batch-size",
    "4",
    "--encoder",
    "{text}",
]
MEASURE = ["measure", "{space}", "{table}"]
SCORED = {"text": GOOD, "positive": GOOD[::-1], "score": [str(i % 6) for i in range(40)]}
WRONG: list[tuple[str, list[str], Callable[[Path], Path], list[str], str | None]] = [
    ("missing file", FIT, lambda folder: folder / "t.csv", ["t.csv does not exist"], None),
    ("missing column", [*FIT, "--column", "text=body"], table_of({"review": GOOD, "stars": ["5"] * 40}),
     ["no column 'body'", "review (text)", "stars (", "--column text=review"], None),
    ("empty text", FIT, table_of({"text": replaced(GOOD, (7, ""), (9, ""))}),
     ["row 7, column 'text': the text is empty", "1 other row is bad too", "rows 7, 9"], "2 rows left out"),
    ("blank text", FIT, table_of({"text": replaced(GOOD, (3, " \t "))}),
     ["row 3, column 'text': the text is empty"], "1 row left out: 1 with empty text in column 'text' (row 3)"),
    ("undecodable bytes", FIT, lines(b"caf\xe9,x"),
     ["row 31, column 'text': byte 0xE9 at character 4", "save the file as UTF-8"],
     "1 row left out: 1 with undecodable bytes in column 'text' (row 31)"),
    ("ragged row", FIT, lines(b"one,two,three", b"fine,x"),
     ["row 31: has 3 cells where the header has 2", "quote cells that hold ','"], "1 row left out"),
    ("unclosed quote", FIT, lines(b'"open,x', b"more,x"), ["row 31: a quote that opens in this row never closes"],
     None),
    ("unreadable picture", ["fit", "align-uniform", "{table}", "--out", "{tmp}/out", "--encoder", "tiny"], pictures,
     ["row 3, column 'image': the picture img/3.png cannot be decoded"], None),
    ("NaN vector", ["measure", "{table}"], vectors(math.nan), ["row 5, column 'vector'"], "1 row left out"),
    ("infinite vector", ["measure", "{table}"], vectors(1e300),
     ["row 5, column 'vector': position 2 of the vector is inf"],
     "1 row left out: 1 with a number that is not finite in column 'vector' (row 5)"),
    ("score that is no number", [*MEASURE, "--column", "score=score"],
     table_of({**SCORED, "score": replaced(SCORED["score"], (12, "high"))}),
     ["row 12, column 'score': holds 'high', which is not a number"], "1 row left out"),
    ("label missing", [*MEASURE, "--column", "label=label"],
     table_of({"text": GOOD, "label": replaced(["x", "y"] * 20, (2, ""))}),
     ["row 2, column 'label': the cell is empty"], "1 row left out"),
    ("fewer rows than a batch", [word if word != "4" else "64" for word in FIT], table_of({"text": GOOD}),
     ["t.csv has 36 rows, fewer than one batch of 64", "--batch-size 36"], None),
    ("one row to measure on", FIT, table_of({"text": GOOD[:8]}),
     ["one row to measure on is not enough", "--holdout-share"], None),
    ("no rows", FIT, lambda folder: write_csv(folder / "t.csv", ["text"], []), ["t.csv has no rows"], None),
    ("all rows bad", FIT, table_of({"text": [" "] * 5}), ["row 1, column 'text': the text is empty"], None),
    ("repeated column", FIT, lambda folder: write_csv(folder / "t.csv", ["text", "text"], [("a", "b")]),
     ["names a column twice: 'text'"], None),
]  # fmt: skip


@pytest.mark.parametrize(("command", "write", "messages", "note"), [case[1:] for case in WRONG],
                         ids=[case[0] for case in WRONG])  # fmt: skip
def test_a_wrong_table_is_named_by_row_and_column_or_its_bad_rows_are_counted(
    run: Callable[..., Said],
    space: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    command: list[str],
    write: Callable[[Path], Path],
    messages: list[str],
    note: str | None,
) -> None:
    table = write(tmp_path)
    names = {"table": table, "space": space, "text": space / "text", "tmp": tmp_path}
    arguments = [argument.format(**names) for argument in command]
    status, out, err = run(*arguments)
    assert (status, out) == (1, "")
    assert err.startswith("nearfar: ")
    assert err.count("\n") == 1
    assert str(table) in err
    for message in messages:
        assert message in err
    assert not (tmp_path / "out" / "space.json").exists()
    if note is None:
        return
    assert "--on-bad-row skip" in err
    status, out, err = run(*arguments, "--on-bad-row", "skip")
    assert (status, err) == (0, "")
    assert f"{table}: {note}" in caplog.text
    if "fit" in command:
        assert f"- {note}" in out
    kept = parsed(run(*arguments, "--on-bad-row", "skip", "--json", *["--overwrite"] * ("fit" in command))[1])
    assert ("measures" in kept) == ("fit" in command)


def test_when_every_row_is_bad_skipping_them_is_refused_too(
    run: Callable[..., Said], space: Path, tmp_path: Path
) -> None:
    table = write_csv(tmp_path / "t.csv", ["text", "label"], [(" ", "x")] * 3)
    status, _, err = run("measure", space, table, "--on-bad-row", "skip")
    assert status == 1
    assert "no row is left; 3 rows left out: 3 with empty text in column 'text' (rows 1, 2, 3)" in err


def test_one_label_only_is_said(run: Callable[..., Said], space: Path, tmp_path: Path) -> None:
    table = write_csv(tmp_path / "t.csv", ["text", "label"], [(text, "same") for text in GOOD])
    status, out, _ = run("measure", space, table)
    assert status == 0
    assert "the label measures need two classes" in out
