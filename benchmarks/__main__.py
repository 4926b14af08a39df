"""`python -m benchmarks [--data-dir DIR]`: run all, print a table, write benchmarks/results.json.

`python -m benchmarks contrast` runs those of the contrast engine, and writes benchmarks/contrast.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

from benchmarks import contrast, encoding, starting, training_step
from nearfar.versions import versions

HERE = Path(__file__).parent


def main() -> None:
    """Run benchmarks on a machine that does nothing else."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=Path("../shared/data"))
    parser.set_defaults(run=speed)
    contrast.add_arguments(parser.add_subparsers().add_parser("contrast", description=contrast.__doc__))
    arguments = parser.parse_args()
    arguments.run(arguments)


def speed(arguments: argparse.Namespace) -> None:
    """Starting, encoding and training."""
    data_dir = arguments.data_dir
    ratios = [ratio for part in (starting, encoding, training_step) for ratio in part.run(data_dir)]
    lines = ["| what | beside | ours, s | theirs, s | theirs / ours | aim |", "|---|---|---|---|---|---|"]
    for ratio in ratios:
        ours, theirs = statistics.median(ratio.ours), statistics.median(ratio.theirs)
        lines.append(
            f"| {ratio.what} | {ratio.peer} | {ours:.3f} | {theirs:.3f} | {ratio.faster:.2f} | {ratio.mark} |"
        )
    print("\n".join(lines))
    found = [{**vars(ratio), "faster": ratio.faster} for ratio in ratios]
    (HERE / "results.json").write_text(json.dumps({"versions": versions(), "ratios": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
