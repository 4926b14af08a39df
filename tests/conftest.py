"""What several test files use: small real tables and a command line to call."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)  # two threads wait for each other where the cores are shared

TOPICS = {
    "animals": ["cat", "dog", "horse", "rabbit", "sheep", "goose"],
    "weather": ["rain", "snow", "storm", "sunshine", "fog", "hail"],
    "kitchen": ["pan", "knife", "oven", "spoon", "kettle", "plate"],
}


def sentences() -> list[tuple[str, str, str]]:
    """(text, another text of the same topic, topic), 144 different ones."""
    rows = []
    for topic, words in TOPICS.items():
        for i, word in enumerate(words):
            for j, place in enumerate(
                ["barn", "garden", "valley", "house", "market", "yard", "field", "road"]
            ):
                other = words[(i + 1 + j) % len(words)]
                rows.append((f"the {word} near the {place}", f"a {other} and a {word} by the {place}", topic))
    return rows


@pytest.fixture(scope="session")
def pairs_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV with the columns text, positive, label."""
    path = tmp_path_factory.mktemp("tables") / "pairs.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "positive", "label"])
        writer.writerows(sentences())
    return path


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Converted tables go to a folder of this run, not to the user's cache."""
    import os

    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


def nearfar(*arguments: object, check: bool = True, **options: object) -> subprocess.CompletedProcess[str]:
    """Call the command line in a process of its own, as a user would."""
    command = [sys.executable, "-m", "nearfar", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, **options)  # type: ignore[call-overload]
    if check and done.returncode:
        raise AssertionError(
            f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        )
    return done
