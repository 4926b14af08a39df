"""The sentence methods beside each other: one encoder, one table, the same steps and seeds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from nearfar.data.kinds import Text
from nearfar.data.table import Table
from nearfar.experiment import Board, DataFolder, Track
from nearfar.methods import catalogue
from nearfar.recipes.sentences import caption_pairs, sentences, sts_tests
from nearfar.recipes.tiny_mlm import pooled_folder

TEXTS = PAIRS = 5_000
SPARE = 1_000
"""Rows more that are read, of which those with a text of a test are left out."""
PROBED = 1_000
"""Rows of a transfer task, drawn once."""
POOLING = "mean"
SETTINGS: dict[str, Any] = {"epochs": 1.0, "batch_size": 64, "learning_rate": 3e-4, "max_length": 24}
"""Rate and pooling were chosen with SimCSE on STS-B dev, seed 0, the mean of both tracks: of 1e-4, 3e-4 and 1e-3 with
the mean .631, .641 and .631, with the first token .537, .559 and .535; without training .598 and .546."""
TASKS = ("MR", "CR", "SUBJ", "MPQA", "TREC", "SST2")
FIRST = "simcse"
OTHER_TEXTS = {
    "quickthoughts": "learns from the order of running text, which these sentences have not",
    "cesna": "learns from labels",
    "mcse": "is SimCSE where no text has a picture",
    "translico": "brings scripts together, and these sentences are in Latin letters already",
}
SMALL = {
    "compcse.compared": "43",
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
    texts, pairs = (
        _apart(sentences(data, TEXTS + SPARE), tests),
        _apart(caption_pairs(data, PAIRS + SPARE), tests),
    )
    return Board(
        title="Sentence methods",
        tracks={
            "from sentences": Track(texts, (FIRST, *rest), OTHER_TEXTS, _own(rest)),
            "from pairs": Track(pairs, (FIRST, *paired), {**OTHER_TEXTS, **alone}, _own(paired)),
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
        seeds=5,
        remarks=(
            f"{TEXTS:,} sentences (captions and Wikipedia, about half each) or {PAIRS:,} pairs of captions, one pass, "
            f"batches of 64, learning rate {SETTINGS['learning_rate']:g}, {SETTINGS['max_length']} tokens of a text, "
            "and their mean: rate and pooling are the best for SimCSE on STS-B dev. Methods whose papers ask for "
            "another rate, more steps or a larger encoder are at a disadvantage.",
            "Hyperparameters of a method are its defaults, those of its paper, but for sizes, which are named below "
            "the tables. denosent pools the mask token of its prompt, not the mean. dclr takes MiniLM, which has "
            "learned from far more text, as the judge of paraphrases.",
            "No text of a test is trained on, but the encoder that all start from has read some by masked language "
            "modelling: it saw captions, of which STS-B and SICK have some.",
            "relatedness is the mean of the Spearman correlations on STS-B and SICK-R test; transfer is the mean "
            f"accuracy of a linear probe on {', '.join(TASKS)}, {PROBED:,} rows of each.",
        ),
    )


def _apart(table: Table, tests: Mapping[str, Table]) -> Table:
    """`TEXTS` rows, drawn once, of which no text is in a test but for case and punctuation."""
    roles = ("text", "positive")
    seen = {
        _bare(text)
        for test in tests.values()
        for role in roles
        if role in test.kinds
        for text in test.column(role)
    }
    columns = [[_bare(text) in seen for text in table.column(role)] for role in roles if role in table.kinds]
    rows = np.flatnonzero(~np.any(columns, axis=0))
    return table.select(np.random.default_rng(0).permutation(rows)[:TEXTS])


def _bare(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


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
