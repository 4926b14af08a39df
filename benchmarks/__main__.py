"""`python -m benchmarks [--data-dir DIR]`: run all, print a table, write benchmarks/results.json."""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

from benchmarks import encoding, starting, training_step
from nearfar.versions import versions

HERE = Path(__file__).parent


def main() -> None:
    """Run every benchmark on a machine that does nothing else."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=Path("../shared/data"))
    data_dir = parser.parse_args().data_dir
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
