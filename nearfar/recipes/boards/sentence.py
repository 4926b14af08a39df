"""The sentence methods beside each other: one encoder, one table, the same steps and seeds."""

from __future__ import annotations

from typing import Any

import pandas as pd

from nearfar.data.kinds import Text
from nearfar.data.table import Table
from nearfar.experiment import Board, DataFolder, Track
from nearfar.methods import catalogue
from nearfar.recipes.sentences import caption_pairs, sentences, sts_tests
from nearfar.recipes.tiny_mlm import pooled_folder

TEXTS = 5_000
PAIRS = 5_000
PROBED = 1_000
"""Rows of a transfer task, drawn once."""
POOLING = "mean"
SETTINGS: dict[str, Any] = {"epochs": 1.0, "batch_size": 64, "learning_rate": 3e-4}
"""Rate and pooling were chosen with SimCSE on STS-B dev, seed 0, the mean of both tracks: of 1e-4, 3e-4 and 1e-3 with
the mean .631, .641 and .631, with the first token .537, .559 and .535; without training .598 and .546."""
TASKS = ("MR", "CR", "SUBJ", "MPQA", "TREC", "SST2")
FIRST = "simcse"
OTHER_TEXTS = {
    "quickthoughts": "learns from the order of running text, which these sentences have not",
    "cesna": "learns from labels",
    "mcse": "is SimCSE where no text has a picture",
}
SMALL = {
    "denosent.layers": "2",
    "denosent.ffn": "512",
    "micse.layers": "2",
    "micse.above": "0",
    "promcse.prompt_length": "8",
    "sct.queue": "1024",
    "sgbert.width": "512",
}
"""Sizes that go with the encoder: those of the papers are for twelve layers of 768, and for a million sentences."""


def board(data: DataFolder) -> Board:
    """All methods of the family that can learn from plain sentences, and those that can learn from pairs."""
    family = {name: entry for name, entry in catalogue().items() if entry.family == "sentence"}
    rest = sorted(name for name in family if name not in (FIRST, *OTHER_TEXTS))
    paired = [name for name in rest if "positive" in family[name].reads]
    alone = {name: "does not read pairs" for name in rest if name not in paired}
    tests = {name: _scored(frame) for name, frame in sts_tests(data).items()}
    tests |= {task.lower(): _labelled(data, task) for task in TASKS}
    return Board(
        title="Sentence methods",
        tracks={
            "from sentences": Track(sentences(data, TEXTS), (FIRST, *rest), OTHER_TEXTS, _own(rest)),
            "from pairs": Track(
                caption_pairs(data, PAIRS), (FIRST, *paired), {**OTHER_TEXTS, **alone}, _own(paired)
            ),
        },
        tests=tests,
        encoder=pooled_folder(data, POOLING),
        settings=SETTINGS,
        figures={
            "relatedness": ("sts-b/sts", "sick-r/sts"),
            "sts-b": ("sts-b/sts",),
            "sick-r": ("sick-r/sts",),
            "transfer": tuple(f"{task.lower()}/logistic_accuracy" for task in TASKS),
            "alignment": ("sts-b/alignment",),
            "uniformity": ("sts-b/uniformity",),
        },
        across=("uniformity", "alignment"),
        remarks=(
            f"{TEXTS:,} sentences (half captions, half Wikipedia) or {PAIRS:,} pairs of captions, one pass, batches of "
            f"64, learning rate {SETTINGS['learning_rate']:g}, the mean of the tokens: rate and pooling are the best "
            "for SimCSE on STS-B dev. Methods whose papers ask for another rate, more steps or a larger encoder are "
            "at a disadvantage.",
            "Hyperparameters of a method are its defaults, those of its paper, but for sizes, which are named below "
            "the tables. dclr takes MiniLM, which has learned from far more text, as the judge of paraphrases.",
            "relatedness is the mean of the Spearman correlations on STS-B and SICK-R test; transfer is the mean "
            f"accuracy of a linear probe on {', '.join(TASKS)}, {PROBED:,} rows of each.",
        ),
    )


def _own(methods: list[str]) -> dict[str, str]:
    return {name: value for name, value in SMALL.items() if name.partition(".")[0] in methods}


def _scored(frame: pd.DataFrame) -> Table:
    columns = {
        "text": list(frame["sentence1"]),
        "positive": list(frame["sentence2"]),
        "score": frame["score"].tolist(),
    }
    return Table.from_columns(columns, {"text": Text, "positive": Text})


def _labelled(data: DataFolder, task: str) -> Table:
    frame = pd.read_parquet(data.file("transfer_tasks/transfer_tasks.parquet"))
    rows = frame[(frame["task"] == task) & frame["text"].str.strip().astype(bool)]
    rows = rows.drop_duplicates("text").sample(n=min(PROBED, len(rows)), random_state=0)
    return Table.from_columns({"text": list(rows["text"]), "label": [str(label) for label in rows["label"]]})
