"""`reproduce`: every arm and seed in a process of its own, what is finished is kept, verdicts follow the figures."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import ttest_rel

import nearfar
from nearfar.errors import ArgumentError, NearfarError
from nearfar.experiment import Claim, DataFolder, Experiment
from nearfar.files import fingerprint_of_sources
from nearfar.verbs import reproduce as verb
from nearfar.verbs.reproduce import _result, as_text, load_experiment, reproduce

RECIPE = '''
"""A recipe whose arms read their figures from the data folder and leave a trace of every run."""

import json
import os

import nearfar
from nearfar.errors import ArgumentError
from nearfar.experiment import Claim, Experiment


def experiment(data):
    file = data.file("figures.json")

    def arm(name):
        def run(seed):
            with open(data.folder / "trace.txt", "a") as trace:
                print(name, seed, os.getpid(), file=trace)
            value = json.loads(file.read_text())[name][seed]
            if value == "stop":
                raise ArgumentError("the figures stop here")
            if value == "die":
                os._exit(7)
            return {"score": value, "seconds spent": float(seed)}
        return run

    return Experiment(
        data={"figures": "0123456789abcdef"},
        arms={"base": arm("base"), "method": arm("method")},
        claims=(Claim("the method scores higher", "method", "base", "score"),),
        examples={"method": 500},
        deviations=("no training at all",),
        packages=("pytest",),
    )


def picture(result, file):
    file.write_text("<svg>" + result["verdict"] + "</svg>")
'''
CUSTOMISE = """
import nearfar.recipes
nearfar.recipes.__path__.append({folder!r})
"""


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A data folder; a recipe for mlm, which has none, is found in this process and in those it starts."""
    recipes, start, folder = tmp_path / "recipes", tmp_path / "start", tmp_path / "data"
    for place in (recipes, start, folder):
        place.mkdir()
    (recipes / "mlm.py").write_text(RECIPE)
    (start / "sitecustomize.py").write_text(CUSTOMISE.format(folder=str(recipes)))
    inherited = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(start), str(Path(__file__).parent.parent), inherited])
    )
    import nearfar.recipes

    monkeypatch.setattr(nearfar.recipes, "__path__", [*nearfar.recipes.__path__, str(recipes)])
    yield folder
    sys.modules.pop("nearfar.recipes.mlm", None)


def figures(data: Path, **arms: list[Any]) -> None:
    (data / "figures.json").write_text(json.dumps(arms))


def trace(data: Path) -> list[list[str]]:
    return [line.split() for line in (data / "trace.txt").read_text().splitlines()]


def test_code_that_changes_under_a_run_ends_it(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arms are processes of their own, which read the code as it is then."""
    figures(data, base=[0.1, 0.2], method=[0.3, 0.4])
    monkeypatch.setattr(verb, "own_code", lambda: "the code of before")
    with pytest.raises(NearfarError, match="the code of nearfar was changed meanwhile"):
        reproduce("mlm", out=tmp_path / "results", data_dir=data, seeds=2)
    assert not (data / "trace.txt").exists()


def test_an_interrupted_run_goes_on_and_the_result_has_all_of_the_evidence(
    data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "results"
    figures(data, base=[0.1, 0.2], method=[0.3, "stop"])
    with pytest.raises(NearfarError, match="arm 'method' of mlm, seed 1: the figures stop here"):
        reproduce("mlm", out=out, data_dir=data, seeds=2)
    assert [line[:2] for line in trace(data)] == [
        ["base", "0"],
        ["method", "0"],
        ["base", "1"],
        ["method", "1"],
    ]
    assert not (out / "mlm.json").exists()
    figures(data, base=[9.0, 9.0], method=[9.0, 0.5])  # what is finished is not run again
    result = reproduce("mlm", out=out, data_dir=data, seeds=2)
    assert [line[:2] for line in trace(data)[4:]] == [["method", "1"]]
    assert len({line[2] for line in trace(data)} | {str(os.getpid())}) == 6, "each in a process of its own"
    assert sorted(place.name for place in out.iterdir()) == ["mlm.json", "mlm.svg"]
    assert (out / "mlm.svg").read_text() == "<svg>not shown</svg>"
    assert json.loads((out / "mlm.json").read_text()) == result
    assert result["code"] == fingerprint_of_sources(Path(nearfar.__file__).parent)

    assert result["method"] == "mlm"
    assert result["claim"] == "the method scores higher"
    assert result["data"] == {"figures": "0123456789abcdef"}
    assert result["seeds"]["base"] == {"score": [0.1, 0.2], "seconds spent": [0.0, 1.0]}
    assert result["seeds"]["method"]["score"] == [0.3, 0.5]
    [claim] = result["claims"]
    assert claim["mean_difference"] == pytest.approx(0.25)
    expected = ttest_rel([0.3, 0.5], [0.1, 0.2]).confidence_interval(0.95)
    assert claim["interval"] == pytest.approx([expected.low, expected.high])
    assert result["verdict"] == claim["verdict"] == "not shown"
    assert result["command"] == "nearfar reproduce mlm --seeds 2"
    assert {"nearfar", "python", "torch", "processor"} <= set(result["versions"])
    assert result["versions"]["pytest"] == pytest.__version__
    assert result["deviations"] == ["no training at all"]
    for arm in ("base", "method"):
        cost = result["cost"][arm]
        assert len(cost["seconds"]) == len(cost["peak_mb"]) == 2
        assert min(cost["peak_mb"]) > 10
    assert result["cost"]["base"]["seconds_per_1000_examples"] is None
    assert result["cost"]["method"]["seconds_per_1000_examples"] >= 0


def test_an_arm_that_dies_is_named_and_fresh_forgets(data: Path, tmp_path: Path) -> None:
    figures(data, base=[0.1, 0.2], method=["die", 0.5])
    with pytest.raises(
        NearfarError, match=r"arm 'method' of mlm, seed 0, ended without an answer \(exit 7\)"
    ):
        reproduce("mlm", out=tmp_path, data_dir=data, seeds=2)
    figures(data, base=["die"], method=["die"])
    with pytest.raises(NearfarError, match="arm 'base' of mlm, seed 0"):
        reproduce("mlm", out=tmp_path, data_dir=data, seeds=2, fresh=True)


def test_what_cannot_be_reproduced_is_said(data: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ArgumentError, match=r"needs figures\.json, which is not in .*data: say with --data-dir"
    ):
        reproduce("mlm", data_dir=data)
    figures(data, base=[0.1], method=[0.1])
    with pytest.raises(ArgumentError, match="at least two seeds"):
        reproduce("mlm", data_dir=data, seeds=1)
    with pytest.raises(ArgumentError, match="no method 'mlmm'"):
        reproduce("mlmm", data_dir=data)
    assert not (data / "trace.txt").exists()


def test_a_method_without_a_recipe_says_which_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"mlm has no experiment: add nearfar/recipes/mlm\.py"):
        load_experiment("mlm", tmp_path)
    with pytest.raises(ArgumentError, match="--data-dir"):
        DataFolder(tmp_path).file("nothing.parquet")


def judged(claims: list[Claim], runs: Mapping[str, list[float]]) -> dict[str, Any]:
    """The result of runs whose figures are given: arm -> one figure a seed."""
    count = len(next(iter(runs.values())))
    experiment = Experiment({}, {arm: lambda seed: {} for arm in runs}, tuple(claims), {})
    done = {
        f"{arm}/{seed}": {"figures": {"f": value}, "seconds": 2.0, "peak_mb": 100.0 + seed}
        for arm, values in runs.items()
        for seed, value in enumerate(values)
    }
    return _result("mlm", experiment, count, done)


UP, DOWN = [1.0, 1.1, 0.9], [0.0, 0.2, 0.1]


@pytest.mark.parametrize(
    ("arm", "baseline", "better", "verdict"),
    [
        (UP, DOWN, "higher", "held"),
        (DOWN, UP, "higher", "contradicted"),
        (DOWN, UP, "lower", "held"),
        (UP, DOWN, "lower", "contradicted"),
        ([1.0, 0.0, 0.5], [0.0, 1.0, 0.4], "higher", "not shown"),
        ([1.0, 0.0, 0.5], [0.0, 1.0, 0.4], "lower", "not shown"),
        ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5], "higher", "not shown"),
    ],
)
def test_a_claim_holds_where_its_interval_lies_on_the_claimed_side(
    arm: list[float], baseline: list[float], better: str, verdict: str
) -> None:
    result = judged([Claim("it is so", "a", "b", "f", better)], {"a": arm, "b": baseline})
    [claim] = result["claims"]
    assert claim["verdict"] == result["verdict"] == verdict
    assert claim["mean_difference"] == pytest.approx(sum(arm) / 3 - sum(baseline) / 3)
    low, high = claim["interval"]
    assert low <= claim["mean_difference"] <= high
    text = as_text(result)
    assert f"{verdict.upper()}: it is so (f: a minus b = {claim['mean_difference']:+.4f}" in text
    assert [line.split()[0] for line in text.splitlines()[2:4]] == ["a", "b"]
    assert "102" in text.splitlines()[2], "the largest memory of all seeds"


@pytest.mark.parametrize("main", ["held", "contradicted", "not shown"])
def test_the_verdict_of_a_result_is_that_of_the_claim_that_it_names(main: str) -> None:
    runs = {"a": UP, "b": DOWN, "c": [1.0, 0.0, 0.5], "d": [0.0, 1.0, 0.4]}
    claims = {
        "held": Claim("this holds", "a", "b", "f"),
        "contradicted": Claim("this does not", "a", "b", "f", "lower"),
        "not shown": Claim("nobody can tell", "c", "d", "f"),
    }
    result = judged([claims.pop(main), *claims.values()], runs)
    assert result["verdict"] == result["claims"][0]["verdict"] == main
    assert result["claim"] == result["claims"][0]["words"]
    assert {claim["verdict"] for claim in result["claims"]} == {"held", "contradicted", "not shown"}
