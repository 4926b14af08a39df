"""`reproduce`: run a method's experiment and publish what came out."""

from __future__ import annotations

import importlib
import importlib.util
import multiprocessing
import resource
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any

from nearfar.errors import ArgumentError, NearfarError
from nearfar.experiment import Claim, DataFolder, Experiment
from nearfar.files import read_json, write_json
from nearfar.measures.intervals import paired_interval
from nearfar.methods import entry
from nearfar.progress import progress
from nearfar.verbs.board import BOARDS, run_board
from nearfar.verbs.board import as_text as board_as_text
from nearfar.versions import own_code, versions


def reproduce(
    method: str,
    *,
    out: Path | str = "results",
    data_dir: Path | str = "../shared/data",
    seeds: int | None = None,
    fresh: bool = False,
) -> dict[str, Any]:
    """Run the small real experiment of a method, against its baselines, and write `OUT/METHOD.json`.

    `boards/FAMILY` in place of a method runs the comparison of a whole family, and writes `OUT/boards/FAMILY.json`.

    Where the recipe draws what was found, the picture is `OUT/METHOD.svg`.

    Every arm and seed runs in a process of its own. What is finished is kept beside the result until all is
    done, so an interrupted run goes on where it stopped.

    Args:
        method: a name from `nearfar methods`, or boards/FAMILY.
        out: folder of the results.
        data_dir: folder of the data sets.
        seeds: how many; None takes the recipe's number (at least 3).
        fresh: forget what an interrupted run had finished.

    Returns:
        What was written: data, command, versions, figures of every seed, differences with 95% intervals,
        cost, and a verdict on each claim (held, not shown, contradicted).

    Raises:
        ArgumentError: the method has no experiment, or its data are not there.
    """
    if method.startswith(BOARDS):
        return run_board(method, out=out, data_dir=data_dir, seeds=seeds, fresh=fresh)
    entry(method)
    experiment = load_experiment(method, data_dir)
    count = experiment.seeds if seeds is None else seeds
    if count < 2:
        raise ArgumentError("at least two seeds are needed: one figure has no interval")
    out = Path(out)
    partial = out / f".{method}.partial.json"
    if fresh:
        partial.unlink(missing_ok=True)
    code = own_code()
    identity = {"data": dict(experiment.data), "versions": versions(experiment.packages), "code": code}
    kept = read_json(partial) if partial.exists() else {}
    runs: dict[str, dict[str, Any]] = kept.get("runs", {}) if kept.get("identity") == identity else {}
    with progress(f"reproducing {method}", len(experiment.arms) * count) as shown:
        for seed in range(count):
            for arm in experiment.arms:
                key = f"{arm}/{seed}"
                if key not in runs:
                    runs[key] = _run_apart(method, arm, seed, str(data_dir), code)
                    write_json(partial, {"identity": identity, "runs": runs})
                shown.advance(note=f"{arm}, seed {seed}")
    result = {**_result(method, experiment, count, runs), "code": code}
    write_json(out / f"{method}.json", result)
    draw = getattr(_recipe(method), "picture", None)
    if draw is not None:
        draw(result, out / f"{method}.svg")
    partial.unlink(missing_ok=True)
    return result


def load_experiment(method: str, data_dir: Path | str) -> Experiment:
    """The recipe of a method.

    Raises:
        ArgumentError: there is none.
    """
    module = _module(method)
    if importlib.util.find_spec(module) is None:
        raise ArgumentError(
            f"{method} has no experiment: add {module.replace('.', '/')}.py with a function experiment(data)"
        )
    made: Experiment = _recipe(method).experiment(DataFolder(data_dir))
    return made


def _recipe(method: str) -> ModuleType:
    return importlib.import_module(_module(method))


def _module(method: str) -> str:
    return f"nearfar.recipes.{method.replace('-', '_')}"


def _run_apart(method: str, arm: str, seed: int, data_dir: str, code: str) -> dict[str, Any]:
    """Run one arm in a fresh process and return its figures, seconds and peak memory."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_run_here, args=(theirs, method, arm, seed, data_dir, code))
    process.start()
    theirs.close()
    try:
        answer = ours.recv()
    except EOFError:
        process.join()
        raise NearfarError(
            f"arm {arm!r} of {method}, seed {seed}, ended without an answer (exit {process.exitcode})"
        ) from None
    process.join()
    if "error" in answer:
        raise NearfarError(f"arm {arm!r} of {method}, seed {seed}: {answer['error']}")
    return answer


def _run_here(answers: Connection, method: str, arm: str, seed: int, data_dir: str, code: str) -> None:
    try:
        if own_code() != code:
            raise NearfarError(
                "the code of nearfar was changed meanwhile: what is finished is of other code, start again"
            )
        run = load_experiment(method, data_dir).arms[arm]
        start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.monotonic()
        figures = run(seed)
        seconds = time.monotonic() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        answers.send(
            {"figures": figures, "seconds": seconds, "peak_mb": peak / 1024, "start_mb": start / 1024}
        )
    except NearfarError as error:
        answers.send({"error": str(error)})
    finally:
        answers.close()


def _result(
    method: str, experiment: Experiment, count: int, runs: Mapping[str, dict[str, Any]]
) -> dict[str, Any]:
    per_arm = {arm: [runs[f"{arm}/{seed}"] for seed in range(count)] for arm in experiment.arms}
    figures = {
        arm: {name: [run["figures"][name] for run in done] for name in done[0]["figures"]}
        for arm, done in per_arm.items()
    }
    claims = [_judged(claim, figures) for claim in experiment.claims]
    return {
        "method": method,
        "claim": claims[0]["words"],
        "verdict": claims[0]["verdict"],
        "claims": claims,
        "seeds": figures,
        "cost": {
            arm: {
                "seconds": [round(run["seconds"], 2) for run in done],
                "peak_mb": [round(run["peak_mb"]) for run in done],
                "seconds_per_1000_examples": _per_thousand(done, experiment.examples.get(arm, 0)),
            }
            for arm, done in per_arm.items()
        },
        "data": dict(experiment.data),
        "deviations": list(experiment.deviations),
        "command": f"nearfar reproduce {method}" + (f" --seeds {count}" if count != experiment.seeds else ""),
        "versions": versions(experiment.packages),
    }


def _per_thousand(done: list[dict[str, Any]], examples: int) -> float | None:
    return round(1000 * sum(run["seconds"] for run in done) / len(done) / examples, 3) if examples else None


def _judged(claim: Claim, figures: Mapping[str, Mapping[str, list[float]]]) -> dict[str, Any]:
    """The paired difference behind a claim, and whether its interval lies on the claimed side of 0."""
    gap = paired_interval(figures[claim.arm][claim.figure], figures[claim.baseline][claim.figure])
    low, high = (gap.low, gap.high) if claim.better == "higher" else (-gap.high, -gap.low)
    verdict = "held" if low > 0 else "contradicted" if high < 0 else "not shown"
    return {
        "words": claim.words,
        "arm": claim.arm,
        "baseline": claim.baseline,
        "figure": claim.figure,
        "better": claim.better,
        "mean_difference": gap.mean,
        "interval": [gap.low, gap.high],
        "verdict": verdict,
    }


def as_text(result: Mapping[str, Any]) -> str:
    """The result for people."""
    if "tracks" in result:
        return board_as_text(result)
    from nearfar.report.tables import number, table

    names = list(dict.fromkeys(name for figures in result["seeds"].values() for name in figures))
    rows = [
        [
            arm,
            *(number(sum(figures[n]) / len(figures[n])) if n in figures else "" for n in names),
            f"{sum(result['cost'][arm]['seconds']) / len(result['cost'][arm]['seconds']):.0f}",
            f"{max(result['cost'][arm]['peak_mb']):,}",
        ]
        for arm, figures in result["seeds"].items()
    ]
    lines = [table(["arm (means over seeds)", *names, "seconds", "peak MB"], rows), ""]
    for claim in result["claims"]:
        low, high = claim["interval"]
        lines.append(
            f"{claim['verdict'].upper()}: {claim['words']} ({claim['figure']}: "
            f"{claim['arm']} minus {claim['baseline']} = "
            f"{claim['mean_difference']:+.4f}, 95% interval {low:+.4f} to {high:+.4f})"
        )
    return "\n".join(lines)
