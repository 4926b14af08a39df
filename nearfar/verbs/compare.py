"""`compare`: which method helps here, with everything else equal."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nearfar.data.kinds import Reading
from nearfar.data.splits import holdout
from nearfar.data.table import OnBadRow, Table, read_table
from nearfar.errors import ArgumentError
from nearfar.files import read_json, write_json
from nearfar.measures.embeddings import Measurement, primary_measure
from nearfar.measures.intervals import mean_interval, paired_interval
from nearfar.memory import peak_mb, reset_peak
from nearfar.progress import progress
from nearfar.verbs.building import hyperparameters_of, reads_of, require_columns, together_of
from nearfar.verbs.fitting import fit_rows
from nearfar.versions import own_code, versions

HELD_OUT_LIMIT = 2000


@dataclass(frozen=True)
class Comparison:
    """What `compare` found.

    Attributes:
        methods: in the order asked; differences are against the first.
        measure: the measure that the table, the picture and the verdicts are about.
        better: "higher" or "lower".
        values: method -> measure -> one value a seed. "before" stands for the encoder without training; where
            the methods start from different spaces (another pooling, a head), each of these is "before METHOD".
        differences: method -> measure -> mean, low and high of (method - first method), paired by seed.
        seconds: method -> training time of each seed.
        facts: data, settings and versions.
        peak_mb: method -> most memory that the process held in each seed's run, in MB; nothing where the system
            does not tell it.
    """

    methods: list[str]
    measure: str
    better: str
    values: dict[str, dict[str, list[float]]]
    differences: dict[str, dict[str, dict[str, float]]]
    seconds: dict[str, list[float]]
    facts: dict[str, Any]
    peak_mb: dict[str, list[float]] = field(default_factory=dict)


def compare(
    methods: Sequence[str],
    table: Table | Path | str,
    *,
    seeds: int = 3,
    measure: str | None = None,
    out: Path | str | None = None,
    encoder: str | None = None,
    columns: Mapping[str, str] | None = None,
    on_bad_row: OnBadRow = "error",
    holdout_share: float = 0.2,
    measure_on: Table | Path | str | Mapping[str, str] | Mapping[str, Table] | None = None,
    max_length: int | None = None,
    steps: int | None = None,
    epochs: float | None = None,
    batch_size: int = 64,
    learning_rate: float | None = None,
    options: Mapping[str, str] | None = None,
) -> Comparison:
    """Train several methods on the same rows, from the same encoder, with the same steps and seeds.

    Seed by seed, all methods get the same rows to train on, are measured on the same other rows, and start
    from the same weights; so differences are taken within a seed and their 95% interval over the seeds.

    Args:
        methods: names from `nearfar methods`; the first is the one that the others are held against. On the
            command line the table comes after them: METHOD METHOD ... TABLE.
        table: a table or its source, with what all of the methods read.
        seeds: how many.
        measure: what to compare by; None takes the most telling one that the table allows.
        out: a folder for the figures, the table and the picture; finished runs in it are not run again.
        encoder: what reads the raw data.
        columns: role -> column, where names do not tell.
        on_bad_row: "error" or "skip".
        holdout_share: share of the rows kept from training for measuring.
        measure_on: another table to measure on instead; or several by name, whose measures are then NAME/MEASURE.
            On the command line: --measure-on NAME=TABLE, once for each.
        max_length: tokens read of a text; None keeps the encoder's own limit.
        steps: optimiser steps; with `epochs` None too, one epoch (300 where a batch is the whole table).
        epochs: passes over the training rows.
        batch_size: examples whose embeddings are contrasted with each other.
        learning_rate: None means 5e-5 where all encoders that learn are pretrained, else 1e-3.
        options: METHOD.HYPERPARAMETER -> value, where a method is not to be compared as its paper has it. On the
            command line: --option simcse.temperature=0.1, once for each.

    Raises:
        ArgumentError: fewer than two methods or seeds, an unknown measure, or an option of none of the methods.
        TableError: the table is wrong, or lacks what a method reads.
    """
    if len(methods) < 2 or len(set(methods)) < len(methods):
        raise ArgumentError("compare needs at least two different methods")
    if seeds < 2:
        raise ArgumentError("compare needs at least two seeds: one figure has no interval")
    if not isinstance(table, Table):
        table = read_table(str(table), reads=_union(methods), columns=columns, on_bad_row=on_bad_row)
    for method in methods:
        require_columns(method, table)
    tests = _tests(measure_on, on_bad_row)
    chosen = _options(methods, options or {})
    settings = {
        "encoder": encoder,
        "max_length": max_length,
        "steps": steps,
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
    }
    together = together_of(methods)
    data = {
        "table": table.name,
        "fingerprint": table.fingerprint,
        "holdout_share": holdout_share,
        "together": together,
        "measured_on": {name: test.fingerprint for name, test in tests.items()} or None,
    }
    folder = None if out is None else Path(out)
    told = {**data, **settings, "versions": versions()}
    code = own_code()  # of another code no finished run is taken
    runs: dict[tuple[str, int], dict[str, Any]] = {}
    known: dict[str, dict[str, Measurement]] | None = {} if tests else None  # all runs start from few spaces
    with progress("comparing", len(methods) * seeds) as shown:
        for seed, method in itertools.product(range(seeds), methods):
            done = None if folder is None else folder / "runs" / f"{method}-{seed}.json"
            facts = {"method": method, "seed": seed, "code": code, **told, "hyperparameters": chosen[method]}
            if done is not None and done.exists() and (kept := read_json(done))["facts"] == facts:
                runs[method, seed] = kept
            else:
                given = {"known": known, "hyperparameters": chosen[method], **settings}
                runs[method, seed] = _run(method, seed, table, tests, holdout_share, together, **given)
                if done is not None:
                    write_json(done, {"facts": facts, **runs[method, seed]})
            shown.advance(note=f"{method}, seed {seed}")
    result = _compared(list(methods), seeds, measure, runs, {**told, "hyperparameters": chosen})
    if folder is not None:
        write_json(folder / "comparison.json", asdict(result))
        _draw(result, folder)
    return result


def _tests(given: Any, on_bad_row: OnBadRow) -> dict[str, Table]:
    """The tables to measure on, by name; "" is the name of a single one."""
    named = given if isinstance(given, Mapping) else {} if given is None else {"": given}
    return {
        name: test if isinstance(test, Table) else read_table(str(test), on_bad_row=on_bad_row)
        for name, test in named.items()
    }


def _options(methods: Sequence[str], given: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Hyperparameters of each method, of words such as simcse.temperature=0.1."""
    chosen: dict[str, dict[str, Any]] = {method: {} for method in methods}
    for name, value in given.items():
        method, _, own = name.partition(".")
        if method not in chosen or not own:
            raise ArgumentError(
                f"option {name!r} must be METHOD.HYPERPARAMETER with one of the methods {', '.join(methods)}"
            )
        chosen[method][own] = value
    return {method: hyperparameters_of(method, own) for method, own in chosen.items()}


def _union(methods: Sequence[str]) -> dict[str, Reading]:
    """What all the methods read together; a role that any of them needs is needed."""
    union: dict[str, Reading] = {}
    for method in methods:
        for role, reading in reads_of(method).items():
            optional = role in union and type(None) in getattr(reading, "__args__", ())
            union[role] = union[role] if optional else reading
    return union


def _run(
    method: str,
    seed: int,
    table: Table,
    tests: Mapping[str, Table],
    share: float,
    together: str | None,
    **given: Any,
) -> dict[str, Any]:
    training, held_out = table, dict(tests)
    if not tests:
        train_rows, test_rows = holdout(table, share, seed, HELD_OUT_LIMIT, together)
        training, held_out = table.select(train_rows), {"": table.select(test_rows)}
    reset_peak()
    # A method that collapses is a result, and no reason to lose those of the others.
    fitting = fit_rows(method, training, held_out, seed=seed, on_collapse="warn", **given)
    return {
        "before": {name: m.value for name, m in fitting.before.items()},
        "after": {name: m.value for name, m in fitting.after.items()},
        "better": {name: m.better for name, m in fitting.after.items()},
        "primary": _primary(fitting.after, next(iter(held_out))),
        "seconds": fitting.run.seconds,
        "peak_mb": peak_mb(),
    }


def _primary(measured: Mapping[str, Measurement], test: str) -> str:
    """The most telling measure of one test, by its whole name."""
    prefix = f"{test}/" if test else ""
    own = {name.removeprefix(prefix): value for name, value in measured.items() if name.startswith(prefix)}
    return prefix + primary_measure(own)


def _compared(
    methods: list[str],
    seeds: int,
    measure: str | None,
    runs: Mapping[tuple[str, int], dict[str, Any]],
    facts: dict[str, Any],
) -> Comparison:
    first = runs[methods[0], 0]
    measure = measure or first["primary"]
    if measure not in first["after"]:
        raise ArgumentError(
            f"measure {measure!r} was not taken; there are: {', '.join(sorted(first['after']))}"
        )
    names = [name for name in first["after"] if all(name in run["after"] for run in runs.values())]
    values = {
        method: {name: [runs[method, seed]["after"][name] for seed in range(seeds)] for name in names}
        for method in methods
    }
    starts: dict[tuple[float | None, ...], list[str]] = {}
    for method in methods:
        start = tuple(runs[method, seed]["before"].get(measure) for seed in range(seeds))
        starts.setdefault(start, []).append(method)
    before = {"before": methods[0]} if len(starts) == 1 else {_before(own): own[0] for own in starts.values()}
    values = {
        **{
            label: {n: [runs[method, s]["before"][n] for s in range(seeds)] for n in names}
            for label, method in before.items()
            if all(n in runs[method, s]["before"] for n in names for s in range(seeds))
        },
        **values,
    }
    against = values[methods[0]]
    differences = {
        method: {name: paired_interval(values[method][name], against[name])._asdict() for name in names}
        for method in values
        if method != methods[0]
    }
    seconds = {method: [runs[method, seed]["seconds"] for seed in range(seeds)] for method in methods}
    facts = {**facts, "seeds": seeds}
    memory = {
        method: [runs[method, seed]["peak_mb"] for seed in range(seeds)]
        for method in methods
        if all(runs[method, seed].get("peak_mb") for seed in range(seeds))
    }
    return Comparison(methods, measure, first["better"][measure], values, differences, seconds, facts, memory)


def _before(methods: Sequence[str]) -> str:
    """What the space is called that some of the methods start from."""
    others = f" and {len(methods) - 1} other{'s' * (len(methods) > 2)}" if len(methods) > 1 else ""
    return f"before {methods[0]}{others}"


def _draw(result: Comparison, folder: Path) -> None:
    from nearfar.report.pictures import comparison_picture

    comparison_picture(
        {method: measured[result.measure] for method, measured in result.values.items()},
        result.measure,
        folder / "comparison.svg",
        baseline=result.methods[0],
    )
    (folder / "comparison.txt").write_text(as_text(result) + "\n", encoding="utf-8")


def as_text(result: Comparison) -> str:
    """The comparison as a table, with a verdict for each method in words."""
    from nearfar.report.tables import number, table

    rows = []
    for method, measured in result.values.items():
        mean, low, high = mean_interval(measured[result.measure])
        row = [method, number(mean), f"{number(low)} to {number(high)}"]
        if method == result.methods[0]:
            row += ["", "", "the others are held against it"]
        else:
            gap = result.differences[method][result.measure]
            row += [
                f"{gap['mean']:+.4f}",
                f"{gap['low']:+.4f} to {gap['high']:+.4f}",
                _verdict(gap, result.better),
            ]
        seconds = result.seconds.get(method)
        memory = result.peak_mb.get(method)
        cost = [
            f"{sum(seconds) / len(seconds):.0f} s" if seconds else "",
            f"{max(memory):,.0f}" if memory else "",
        ]
        rows.append([*row[:5], *cost, row[5]])
    heading = [
        "method",
        result.measure,
        "95% interval",
        f"minus {result.methods[0]}",
        "95% interval",
        "time",
        "peak MB",
        "so it is",
    ]
    return table(heading, rows, right=1, left=(7,))


def _verdict(gap: Mapping[str, float], better: str) -> str:
    if gap["low"] <= 0 <= gap["high"]:
        return "not told apart"
    higher = gap["mean"] > 0
    if better not in {"higher", "lower"}:
        return "higher" if higher else "lower"
    return "better" if higher == (better == "higher") else "worse"
