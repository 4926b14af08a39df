"""The contrast engine beside the matrix product, the textbook loss and other libraries, each time in one run.

Figures of time are medians of the ratios of repeats taken in turn; the brackets hold the smallest and the largest.
Every comparison has a process of its own. Nothing else should run on the machine meanwhile.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.contrast_forms import NEARFAR, PEERS, TEXTBOOK, Kind
from benchmarks.contrast_jobs import CHUNK, MAX_LENGTH, OPERATIONS, PRODUCTS
from benchmarks.contrast_picture import draw
from benchmarks.contrast_table import Measurement, crossover, kernel_time, ratio, table
from nearfar.files import read_json, write_json
from nearfar.versions import versions

ROOT = Path(__file__).parent.parent
WIDTH = 256
PEER_LIMIT = 8 * 10**9
"""Bytes that a peer may use before it counts as not fitting."""


@dataclass(frozen=True)
class Plan:
    """How to measure.

    Attributes:
        threads: of every process.
        data_dir: folder of data sets.
        sizes: in place of every part's own; None leaves these.
    """

    threads: int
    data_dir: Path
    sizes: tuple[int, ...] | None

    def of(self, *usual: int) -> tuple[int, ...]:
        """The sizes of a part."""
        return self.sizes or usual

    def run(self, job: str, **arguments: Any) -> dict[str, Any]:
        """Run a job of `contrast_jobs` in a fresh process."""
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.contrast_jobs", job, json.dumps(arguments)],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": str(self.threads)},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise SystemExit(f"{job} {arguments} failed ({done.returncode}):\n{done.stderr[-2000:]}")
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found


Rows = Iterator[Measurement]


def rate(plan: Plan) -> Rows:
    """Loss and gradient, in operations per second, as a share of the rate of one large matrix product."""
    for d, (kind, factor), product in itertools.product((256, 384), OPERATIONS.items(), PRODUCTS):
        for n in plan.of(8192, 16384):
            found = plan.run("rate", kind=kind, n=n, d=d, product=product)
            shares = [found["operations"] * other / own for own, other in _turns(found)]
            what, beside = f"rate, {kind}, d = {d}, {factor} N² d operations", f"{product} of 4096³"
            yield ratio("rate", what, beside, "at least 0.85", n, shares, found)


def textbook(plan: Plan) -> Rows:
    """Time and additional memory as multiples of the textbook loss's, and where its form stops being faster."""
    for kind in TEXTBOOK:
        aim = "at most 1.05" + ("; 0.5 from 8,192" if kind == "symmetric" else "")
        for n in plan.of(64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384):
            found = plan.run("beside", who="textbook", kind=kind, n=n, d=WIDTH)
            yield ratio("textbook", f"time, {kind}, ours / theirs", "textbook", aim, n, _shares(found), found)
        for n in plan.of(64, 128, 256, 384, 512, 1024, 2048):
            found = plan.run("beside", who="textbook", kind=kind, n=n, d=WIDTH, ours="kernel")
            yield ratio("textbook", kernel_time(kind), "textbook", "", n, _shares(found), found)
        for n in plan.of(1024, 2048, 4096, 8192, 16384):
            ours, theirs = (_peak(plan, who, kind, n)["bytes"] for who in ("nearfar", "textbook"))
            what, aim = f"additional memory, {kind}, ours / theirs", "at most 0.1 from 8,192"
            details = {"ours": ours, "theirs": theirs}
            yield Measurement(
                "textbook", what, "textbook", aim, n, ours / theirs, f"{ours / theirs:.2f}", details
            )


def memory(plan: Plan) -> Rows:
    """Additional memory of a very large batch, and what is kept for the backward pass."""
    for kind in TEXTBOOK:
        for n in plan.of(65536):
            found = _peak(plan, "nearfar", kind, n)
            megabytes = found["bytes"] / 1e6
            what = f"additional memory, {kind}, d = {WIDTH}, MB"
            yield Measurement("memory", what, "", "under 400", n, megabytes, f"{megabytes:.0f}", found)
    for kind in NEARFAR:
        for n in plan.of(16384):
            found = plan.run("saved", kind=kind, n=n, d=WIDTH)
            what = f"kept for backward, {kind}, multiples of the embeddings"
            shown = f"{found['multiple']:.2f}"
            yield Measurement("memory", what, "", "nothing N x N", n, found["multiple"], shown, found)


def peers(plan: Plan) -> Rows:
    """Time of other libraries as multiples of ours, and their additional memory."""
    for name, form in PEERS.items():
        for n in plan.of(256, 512, 1024, 2048, 4096, 8192):
            what, aim = f"time, {form.kind}, theirs / ours", "above 1"
            beside = name if form.version is None else f"{name} ({form.version})"
            if form.version is None:
                yield Measurement("peers", what, beside, aim, n, None, "not installed", {})
                continue
            found = plan.run("beside", who=name, kind=form.kind, n=n, d=WIDTH, limit=PEER_LIMIT)
            if "does_not_fit" in found:
                yield Measurement("peers", what, beside, aim, n, None, _does_not_fit(found), found)
                continue
            found["gap"] = abs(found["values"][0] - found["values"][1])
            shares = [other / own for own, other in _turns(found)]
            yield ratio("peers", what, beside, aim, n, shares, found)
            ours, theirs = (_peak(plan, who, form.kind, n) for who in ("nearfar", name))
            if "does_not_fit" in theirs:
                continue
            details = {"ours": ours["bytes"], "theirs": theirs["bytes"]}
            share = details["theirs"] / details["ours"]
            what = f"additional memory, {form.kind}, theirs / ours"
            yield Measurement("peers", what, beside, "", n, share, f"{share:.1f}", details)


def cache(plan: Plan) -> Rows:
    """Peak memory of a process that takes one step with gradient caching, by the size of the batch."""
    for n in plan.of(1024, 4096, 16384, 65536):
        found = plan.run("step", data_dir=str(plan.data_dir), n=n)
        what = f"process in a step of SimCSE, MiniLM, {CHUNK} captions of {MAX_LENGTH} tokens at a time, MB"
        shown = f"{found['bytes'] / 1e6:.0f}"
        yield Measurement("cache", what, "", "under 6,000", n, found["bytes"] / 1e6, shown, found)
        own = found["embeddings_bytes"] / 1e6
        yield Measurement("cache", "the embeddings in it, one copy, MB", "", "", n, own, f"{own:.0f}", {})


PARTS: dict[str, Callable[[Plan], Rows]] = {
    "rate": rate,
    "textbook": textbook,
    "memory": memory,
    "peers": peers,
    "cache": cache,
}


def _shares(found: dict[str, Any]) -> list[float]:
    return [own / other for own, other in _turns(found)]


def _turns(found: dict[str, Any]) -> list[tuple[float, float]]:
    return list(zip(found["ours"], found["theirs"], strict=True))


def _peak(plan: Plan, who: str, kind: Kind, n: int) -> dict[str, Any]:
    limit = {"limit": PEER_LIMIT} if who in PEERS else {}
    return plan.run("peak", who=who, kind=kind, n=n, d=WIDTH, **limit)


def _does_not_fit(found: dict[str, Any]) -> str:
    asked = found["does_not_fit"]
    return "does not fit" + (f" (asks for {asked / 1e9:.0f} GB at once)" if asked else "")


def _kept(file: Path, run: dict[str, str]) -> list[Measurement]:
    """What earlier calls measured under the same versions, processor and threads."""
    if not file.exists():
        return []
    stored = read_json(file)
    if stored["versions"] != run:
        print(f"{file} is of other versions or threads: it is replaced", file=sys.stderr)
        return []
    return [Measurement(**cell) for cell in stored["measurements"]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m benchmarks contrast`."""
    parser.add_argument("--data-dir", type=Path, default=Path("../shared/data"))
    parser.add_argument("--parts", default=",".join(PARTS), help="of these, separated by commas")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--sizes", help="numbers of rows in place of every part's own, as in 256,1024")
    parser.add_argument(
        "--out", type=Path, help="folder for contrast.json and contrast.svg; default: the project's"
    )
    parser.set_defaults(run=main)


def main(arguments: argparse.Namespace) -> None:
    """Measure the parts, add them to those of earlier calls, print the table, draw the picture."""
    unknown = sorted(set(arguments.parts.split(",")) - set(PARTS))
    if unknown:
        raise SystemExit(f"no part {', '.join(unknown)}; there are: {', '.join(PARTS)}")
    torch.set_num_threads(arguments.threads)
    sizes = tuple(map(int, arguments.sizes.split(","))) if arguments.sizes else None
    plan = Plan(arguments.threads, arguments.data_dir.resolve(), sizes)
    file = (arguments.out or ROOT / "benchmarks") / "contrast.json"
    picture = (arguments.out or ROOT / "docs" / "images") / "contrast.svg"
    run = {**versions(), **{f.package: f.version or "not installed" for f in PEERS.values() if f.package}}
    cells = _kept(file, run)
    for part in arguments.parts.split(","):
        for cell in PARTS[part](plan):
            print(f"{cell.what} | {cell.beside} | N = {cell.n:,}: {cell.shown}", file=sys.stderr, flush=True)
            key = (cell.what, cell.beside, cell.n)
            cells = [old for old in cells if (old.what, old.beside, old.n) != key] + [cell]
            cells.sort(key=lambda old: list(PARTS).index(old.part))
            measurements = [asdict(old) for old in cells]
            # After every cell: a run takes an hour, and may be cut short.
            write_json(file, {"versions": run, "crossover": crossover(cells), "measurements": measurements})
    print(table(cells))
    for kind, n in crossover(cells).items():
        since = f"from N = {n:,}" if n else "not seen"
        print(f"streaming kernel faster than the textbook form, {kind}: {since}")
    draw([asdict(cell) for cell in cells], picture)
