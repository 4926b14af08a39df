"""`compare`: the same rows, encoder and steps for all, differences within a seed, intervals over seeds."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import sentences
from samples import text_space
from scipy.stats import t as student
from scipy.stats import ttest_rel

from nearfar.data.table import read_table
from nearfar.errors import ArgumentError, TableError
from nearfar.memory import peak_mb, reset_peak
from nearfar.verbs import compare as verb
from nearfar.verbs.building import build_method
from nearfar.verbs.compare import Comparison, _compared, as_text, compare
from nearfar.verbs.fitting import Fitting

METHODS = ["simcse", "mlm"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    texts = [cell for row in sentences() for cell in row[:2]]
    return str(text_space(texts).save(tmp_path_factory.mktemp("encoder") / "space") / "text")


Call = tuple[str, int, str, str, str]


@pytest.fixture(scope="module")
def calls() -> list[Call]:
    """Every training run: method, seed, fingerprints of its rows, settings."""
    return []


@pytest.fixture(scope="module", autouse=True)
def watched(calls: list[Call]) -> Any:
    original = verb.fit_rows

    def fit_rows(method: str, training: Any, held_out: dict[str, Any], **given: Any) -> Fitting:
        settings = json.dumps(
            {name: value for name, value in given.items() if name not in ("seed", "known", "hyperparameters")}
        )
        calls.append(
            (method, given["seed"], training.fingerprint, next(iter(held_out.values())).fingerprint, settings)
        )
        return original(method, training, held_out, **given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verb, "fit_rows", fit_rows)
        yield


@pytest.fixture(scope="module")
def settings(encoder: str) -> dict[str, Any]:
    return {"encoder": encoder, "steps": 2, "batch_size": 16, "learning_rate": 0.01}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("comparisons") / "one"


@pytest.fixture(scope="module")
def result(pairs_csv: Path, folder: Path, settings: dict[str, Any], calls: list[Call]) -> Comparison:
    return compare(METHODS, pairs_csv, seeds=2, out=folder, **settings)


def test_all_methods_get_the_same_rows_and_settings_and_seeds_other_rows(
    result: Comparison, calls: list[Call]
) -> None:
    assert [call[:2] for call in calls[:4]] == [("simcse", 0), ("mlm", 0), ("simcse", 1), ("mlm", 1)]
    for seed in (0, 1):
        one, two = (call for call in calls[:4] if call[1] == seed)
        assert one[2:] == two[2:]
        assert one[2] != one[3]
    assert calls[0][2] != calls[2][2]
    assert calls[0][3] != calls[2][3]


def test_before_is_the_encoder_that_all_start_from(result: Comparison) -> None:
    assert list(result.values) == ["before", "simcse", "mlm"]
    assert result.methods == METHODS
    assert result.measure == "mrr@10"
    assert result.better == "higher"
    for measured in result.values.values():
        assert all(len(values) == 2 for values in measured.values())
    assert len({tuple(measured["uniformity"]) for measured in result.values.values()}) == 3


def test_several_tables_to_measure_on_give_measures_by_their_names(
    pairs_csv: Path, settings: dict[str, Any]
) -> None:
    tests = {"all": str(pairs_csv), "again": str(pairs_csv)}
    made = compare(METHODS, pairs_csv, seeds=2, measure_on=tests, **settings)
    assert made.measure == "all/mrr@10"
    for measured in made.values.values():
        assert measured["all/mrr@10"] == measured["again/mrr@10"]
        assert all(name.startswith(("all/", "again/")) for name in measured)
    one = compare(METHODS, pairs_csv, seeds=2, measure_on=str(pairs_csv), measure="mrr@10", **settings)
    assert one.values["mlm"]["mrr@10"] == made.values["mlm"]["again/mrr@10"]
    if peak_mb() is not None:
        assert all(100 < peak < 100_000 for peaks in made.peak_mb.values() for peak in peaks)


def test_options_are_hyperparameters_of_one_method(
    pairs_csv: Path, settings: dict[str, Any], result: Comparison
) -> None:
    options = {"simcse.temperature": "0.5"}
    made = compare(METHODS, pairs_csv, seeds=2, options=options, **settings)
    assert made.facts["hyperparameters"] == {"simcse": {"temperature": 0.5}, "mlm": {}}
    assert made.values["mlm"] == result.values["mlm"]
    assert made.values["simcse"] != result.values["simcse"]
    for wrong in ({"clip.temperature": "1"}, {"temperature": "1"}):
        with pytest.raises(
            ArgumentError, match=r"must be METHOD\.HYPERPARAMETER with one of the methods simcse"
        ):
            compare(METHODS, pairs_csv, options=wrong, **settings)
    with pytest.raises(ArgumentError, match="no hyperparameter 'heat'"):
        compare(METHODS, pairs_csv, options={"simcse.heat": "1"}, **settings)


@pytest.mark.parametrize("rows", [0, 1])
def test_too_few_rows_to_measure_on_are_refused_by_name(
    pairs_csv: Path, settings: dict[str, Any], rows: int
) -> None:
    table = read_table(str(pairs_csv))
    tests = {"all": table, "few": table.select(np.arange(rows))}
    with pytest.raises(TableError, match="two are needed"):
        compare(METHODS, pairs_csv, seeds=2, measure_on=tests, **settings)


def test_a_peak_of_memory_is_that_of_the_work_since_it_was_reset() -> None:
    if peak_mb() is None:
        pytest.skip("this system does not tell it")
    reset_peak()
    before = peak_mb()
    held = bytearray(300 * 2**20)
    assert before is not None
    assert (peak_mb() or 0) >= before + 290
    del held
    reset_peak()
    assert (peak_mb() or 0) < before + 100


def test_methods_that_start_from_other_spaces_have_each_its_own_before() -> None:
    def run(before: float) -> dict[str, Any]:
        return {
            "before": {"mrr@10": before},
            "after": {"mrr@10": 0.9},
            "better": {"mrr@10": "higher"},
            "primary": "mrr@10",
            "seconds": 1.0,
        }

    runs = {(m, s): run(0.1 if m == "simcse" else 0.2) for m in METHODS for s in (0, 1)}
    made = _compared(METHODS, 2, None, runs, {})
    assert list(made.values) == ["before simcse", "before mlm", "simcse", "mlm"]
    assert made.values["before mlm"]["mrr@10"] == [0.2, 0.2]
    names = [*METHODS, "b3", "csr"]
    runs = {(m, s): run(0.2 if m == "mlm" else 0.1) for m in names for s in (0, 1)}
    starts = list(_compared(names, 2, None, runs, {}).values)[:2]
    assert starts == ["before simcse and 2 others", "before mlm"]


def test_differences_are_paired_and_their_interval_is_that_of_students_t(result: Comparison) -> None:
    assert set(result.differences) == {"before", "mlm"}
    for method, gaps in result.differences.items():
        assert set(gaps) == set(result.values["simcse"])
        for name, gap in gaps.items():
            one, two = np.array(result.values[method][name]), np.array(result.values["simcse"][name])
            assert gap["mean"] == pytest.approx((one - two).mean())
            if np.ptp(one - two) > 0:
                expected = ttest_rel(one, two).confidence_interval(0.95)
                assert (gap["low"], gap["high"]) == pytest.approx((expected.low, expected.high))
    one, two = result.values["mlm"]["alignment"], result.values["simcse"]["alignment"]
    half = student.ppf(0.975, 1) * abs((one[0] - two[0]) - (one[1] - two[1])) / 2  # by hand, for two seeds
    gap = result.differences["mlm"]["alignment"]
    assert (gap["high"] - gap["low"]) / 2 == pytest.approx(half)


def test_figures_table_and_picture_are_written(result: Comparison, folder: Path) -> None:
    kept = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))
    assert kept == json.loads(json.dumps(asdict(result)))
    assert kept["facts"]["seeds"] == 2
    assert {"fingerprint", "encoder", "steps", "batch_size", "versions"} <= set(kept["facts"])
    text = (folder / "comparison.txt").read_text(encoding="utf-8")
    assert text == as_text(result) + "\n"
    lines = text.splitlines()
    assert lines[0].split()[:2] == ["method", "mrr@10"]
    assert [line.split()[0] for line in lines[2:]] == ["before", "simcse", "mlm"]
    assert "the others are held against it" in text
    assert sorted(place.name for place in (folder / "runs").iterdir()) == [
        "mlm-0.json", "mlm-1.json", "simcse-0.json", "simcse-1.json"]  # fmt: skip
    pictures = [place for place in folder.iterdir() if place.suffix in {".svg", ".png"}]
    assert len(pictures) == 1
    assert pictures[0].stat().st_size > 2000


def test_finished_runs_are_not_run_again(
    result: Comparison,
    folder: Path,
    pairs_csv: Path,
    settings: dict[str, Any],
    calls: list[Call],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = len(calls)
    (folder / "runs" / "mlm-1.json").unlink()
    again = compare(METHODS, pairs_csv, seeds=2, out=folder, **settings)
    assert [call[:2] for call in calls[before:]] == [("mlm", 1)]
    assert again.values == result.values
    more = compare(METHODS, pairs_csv, seeds=3, out=folder, **settings)
    assert [call[:2] for call in calls[before + 1 :]] == [("simcse", 2), ("mlm", 2)]
    assert more.values["mlm"]["mrr@10"][:2] == result.values["mlm"]["mrr@10"]
    compare(METHODS, pairs_csv, seeds=2, out=folder, **{**settings, "steps": 1})
    assert len(calls) == before + 3 + 4, "other settings are other runs"
    monkeypatch.setattr(verb, "own_code", lambda: "other code")
    compare(METHODS, pairs_csv, seeds=2, out=folder, **{**settings, "steps": 1})
    assert len(calls) == before + 3 + 4 + 4, "what other code has found is not mixed with what this one finds"


def test_the_measure_can_be_chosen(
    result: Comparison, folder: Path, pairs_csv: Path, settings: dict[str, Any], calls: list[Call]
) -> None:
    chosen = {**settings, "steps": 1, "out": folder, "seeds": 2}  # kept by the test before, or run now
    found = compare(METHODS, pairs_csv, measure="alignment", **chosen)
    assert (found.measure, found.better) == ("alignment", "lower")
    with pytest.raises(ArgumentError, match="measure 'accuracy' was not taken; there are: alignment"):
        compare(METHODS, pairs_csv, measure="accuracy", **chosen)


def test_encoders_from_scratch_are_equal_for_methods_that_read_different_columns(pairs_csv: Path) -> None:
    """mlm reads the column text alone; its vocabulary comes from all columns in use all the same."""
    table = read_table(pairs_csv, reads=verb._union(METHODS))
    assert {"text", "positive"} <= set(table.kinds)
    encoders = [build_method(method, table, encoder="tiny").encoders()[0] for method in METHODS]
    assert encoders[0].tokenizer.get_vocab() == encoders[1].tokenizer.get_vocab()  # type: ignore[union-attr]
    weights = [encoder.state_dict() for encoder in encoders]
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[0])


def comparison(gap: tuple[float, float, float], better: str) -> Comparison:
    mean, low, high = gap
    values = {"simcse": {"m": [0.5, 0.5]}, "mlm": {"m": [0.5 + mean, 0.5 + mean]}}
    difference = {"mlm": {"m": {"mean": mean, "low": low, "high": high}}}
    seconds, memory = {"simcse": [1.0], "mlm": [3.0]}, {"mlm": [1000.0, 1234.4]}
    return Comparison(METHODS, "m", better, values, difference, seconds, {}, memory)


@pytest.mark.parametrize(
    ("gap", "better", "word"),
    [
        ((0.1, 0.05, 0.15), "higher", "better"),
        ((-0.1, -0.15, -0.05), "higher", "worse"),
        ((0.1, 0.05, 0.15), "lower", "worse"),
        ((-0.1, -0.15, -0.05), "lower", "better"),
        ((0.1, -0.05, 0.25), "higher", "not told apart"),
        ((0.1, 0.05, 0.15), "closer_to_zero", "higher"),
    ],
)
def test_verdicts_in_words(gap: tuple[float, float, float], better: str, word: str) -> None:
    line = as_text(comparison(gap, better)).splitlines()[-1]
    assert line.split("  ")[-1] == word
    assert "3 s" in line
    assert "1,234" in line
    assert f"{gap[0]:+.4f}" in line
    assert not math.isnan(gap[0])


@pytest.mark.parametrize(
    ("methods", "given", "message"),
    [
        (["simcse"], {}, "at least two different methods"),
        (["simcse", "simcse"], {}, "at least two different methods"),
        (METHODS, {"seeds": 1}, "at least two seeds: one figure has no interval"),
        (["simcse", "simsce"], {}, "no method 'simsce': did you mean simcse"),
        (["simcse", "clip"], {"encoder": None}, r"no column 'image' \(image\), and none is image"),
        (METHODS, {"columns": {"text": "nothing"}}, "no column 'nothing'"),
        (METHODS, {"encoder": "no/such/folder"}, "no encoder 'no/such/folder'"),
    ],
)
def test_what_cannot_be_compared_is_said(
    pairs_csv: Path, methods: list[str], given: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    def offline(*_: Any, **__: Any) -> None:
        raise OSError("no network in tests")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises((ArgumentError, TableError), match=message):
        compare(methods, pairs_csv, **{"seeds": 2, "steps": 1, **given})
