"""How long it takes until something is on the screen."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.ratios import Ratio, in_turn


def process(*arguments: str) -> None:
    """Run Python once."""
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)


def run(data_dir: Path) -> list[Ratio]:
    """Imports and help, beside what they are held against."""
    return [
        in_turn(
            "python -c 'import torch, nearfar'",
            "python -c 'import torch'",
            "at most 0.15 s more",
            lambda: process("-c", "import torch, nearfar"),
            lambda: process("-c", "import torch"),
        ),
        in_turn(
            "nearfar --help",
            "python -c 'import sentence_transformers'",
            "under 0.5 s",
            lambda: process("-m", "nearfar", "--help"),
            lambda: process("-c", "import sentence_transformers"),
        ),
    ]
