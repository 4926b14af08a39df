"""Does wav2vec 2.0 on unlabelled strings of digits help where few recordings of each digit have a label?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers import Wav2Vec2Config, Wav2Vec2Model

from nearfar.data.kinds import Audio, Text
from nearfar.data.sound import Sound
from nearfar.data.table import Table, read_table
from nearfar.encoders.audio import TransformersAudio
from nearfar.experiment import Claim, DataFolder, Experiment
from nearfar.measures.probes import knn_probe
from nearfar.methods.audio.wav2vec2 import Wav2Vec2
from nearfar.objectives import perplexity
from nearfar.training.settings import Settings
from nearfar.training.trainer import train

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEST_TAKES = 5
"""Takes 0 to 4 are the test side, as the data set has it."""
STRINGS, TEST_STRINGS = 600, 120
LABELS, DRAWS = (1, 10), 20
"""Recordings of each digit with a label, and how often the probe draws such a set."""
METHOD: dict[str, Any] = {"codes": 32, "code_dim": 64, "dim": 64, "distractors": 50, "crop": 2.0, "span": 5}
METHOD |= {"gumbel_decay": 0.997}
PRETRAINING: dict[str, Any] = {"steps": 400, "batch_size": 8, "learning_rate": 3e-3}
"""The rate, the spans and the network were chosen on takes 5 to 7, with takes 8 to 19 to train on."""


def experiment(data: DataFolder) -> Experiment:
    """Free Spoken Digit Dataset: 900 recordings of 6 speakers to train on, 300 to test on, joined to strings."""
    clips = recordings(data)
    training = [clip for clip in clips if clip[3] >= TEST_TAKES]
    held_out = [clip for clip in clips if clip[3] < TEST_TAKES]
    unlabelled, test = strings(training, STRINGS, seed=1), strings(held_out, TEST_STRINGS, seed=0)

    def trained(seed: int, steps: int = PRETRAINING["steps"], **changed: Any) -> Wav2Vec2:
        torch.manual_seed(seed)
        method = Wav2Vec2(network(seed), **{**METHOD, **changed})
        if steps:
            train(method, unlabelled, Settings(seed=seed, **{**PRETRAINING, "steps": steps}))
        return method

    def figures(method: Wav2Vec2) -> dict[str, float]:
        return {**recognised(method, test), **probed(method, training, held_out)}

    few, more = (f"digits, {labels} labelled" for labels in LABELS)
    return Experiment(
        data={"unlabelled": unlabelled.fingerprint, "test": test.fingerprint},
        arms={
            "wav2vec2": lambda seed: figures(trained(seed)),
            "no diversity": lambda seed: figures(trained(seed, diversity=0.0)),
            "untrained": lambda seed: figures(trained(seed, steps=0)),
        },
        claims=(
            Claim("a digit is known better from one recording of it", "wav2vec2", "untrained", few),
            Claim("a digit is known better from ten recordings of it", "wav2vec2", "untrained", more),
            Claim(
                "hidden frames of unheard recordings are told from 50 others of theirs",
                "wav2vec2",
                "untrained",
                "hidden frames found",
            ),
            Claim("the diversity keeps codes in use", "wav2vec2", "no diversity", "perplexity of codes"),
        ),
        examples=dict.fromkeys(
            ("wav2vec2", "no diversity"), PRETRAINING["steps"] * PRETRAINING["batch_size"]
        ),
        deviations=(
            "8 kHz, convolutions of 32 channels, two layers of width 96 without dropout, two codebooks of 32, 50 "
            f"distractors, spans of 5 frames, {PRETRAINING['steps']} steps of 8 pieces of 2 s (6.5 minutes of "
            "different speech) in place of 12 layers and LibriSpeech",
            "few labels are judged by a probe: the nearest of 1 or 10 labelled recordings of each digit, mean over "
            f"{DRAWS} draws. Fine-tuning by CTC is not part: on training rows its transcripts were still empty after "
            "240 steps, with pretraining and without, and more steps do not fit the experiment's time",
            "digits are joined to strings of 2 to 5 with noise of 50 to 200 ms between them; each string "
            "is of one speaker",
        ),
    )


def network(seed: int) -> TransformersAudio:
    """A small one with the group norm of the base model; the same weights for the same seed."""
    torch.manual_seed(seed)
    config = Wav2Vec2Config(
        hidden_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=384,
        conv_dim=(32,) * 6,
        conv_stride=(5, 2, 2, 2, 2, 2),
        conv_kernel=(10, 3, 3, 3, 2, 2),
        do_stable_layer_norm=True,
        num_conv_pos_embeddings=32,
        num_conv_pos_embedding_groups=4,
        **dict.fromkeys(("hidden_dropout", "activation_dropout", "attention_dropout", "layerdrop"), 0.0),
    )
    return TransformersAudio(Wav2Vec2Model(config).eval(), 8000)


@torch.no_grad()
def recognised(method: Wav2Vec2, table: Table) -> dict[str, float]:
    """How many hidden frames are nearer to their own target than to all distractors, and how even codes are."""
    method.eval()
    right, frames, codes = 0, 0, []
    torch.manual_seed(0)  # of the distractors
    generator = torch.Generator().manual_seed(0)
    for start in range(0, len(table), 8):
        batch = method.prepare(table.rows(range(start, min(start + 8, len(table)))), generator)
        found = method.hidden_frames(batch)
        scores = functional.cosine_similarity(found.states[:, None], found.targets[found.drawn], dim=-1)
        own = (found.chosen.codes[found.drawn] == found.chosen.codes[:, None]).all(dim=-1)
        others = scores[:, 1:].masked_fill(own[:, 1:], -torch.inf)
        right += int((scores[:, 0] > others.amax(dim=1)).sum())
        frames += len(scores)
        codes.append(found.chosen.codes)
    method.train()
    chosen = functional.one_hot(torch.cat(codes), method.quantiser.codes).double().mean(dim=0)
    return {"hidden frames found": right / frames, "perplexity of codes": float(perplexity(chosen).sum())}


def probed(method: Wav2Vec2, training: Sequence[Clip], test: Sequence[Clip]) -> dict[str, float]:
    """Share of test recordings whose nearest labelled one is of their digit; of their speaker, with all labelled."""
    space = method.space()
    keys, queries = (space.encode([sound for sound, *_ in side]) for side in (training, test))
    digits, speakers = (np.array([clip[which] for clip in training]) for which in (1, 2))
    asked, spoken = (np.array([clip[which] for clip in test]) for which in (1, 2))
    figures = {}
    for labels in LABELS:
        found = []
        for draw in range(DRAWS):
            rows = _drawn(digits, labels, draw)
            found.append(knn_probe(keys[rows], digits[rows], queries, asked, k=1).accuracy)
        figures[f"digits, {labels} labelled"] = float(np.mean(found))
    figures["digits, all labelled"] = knn_probe(keys, digits, queries, asked, k=1).accuracy
    figures["speakers, all labelled"] = knn_probe(keys, speakers, queries, spoken, k=1).accuracy
    return figures


# -- data ------------------------------------------------------------------------------------------

Clip = tuple[Sound, int, int, int]
"""A recording, its digit, the number of its speaker, its take."""


def recordings(data: DataFolder) -> list[Clip]:
    """All recordings of the data set."""
    table = read_table(data.file("fsdd/fsdd.parquet"), reads={"audio": Audio}, columns={"audio": "audio"})
    told = (table.raw_cells(name) for name in ("digit", "speaker", "take"))
    digits, names, takes = told
    speakers = {name: at for at, name in enumerate(sorted(set(names)))}
    return [
        (sound, int(digit), speakers[name], int(take))
        for sound, digit, name, take in zip(table.column("audio"), digits, names, takes, strict=True)
    ]


def _drawn(digits: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Rows with `count` of each digit."""
    drawn = np.random.default_rng(seed)
    return np.concatenate(
        [drawn.choice(np.flatnonzero(digits == d), count, replace=False) for d in range(10)]
    )


def strings(clips: Sequence[Clip], count: int, seed: int) -> Table:
    """Strings of 2 to 5 digits with faint noise between them, and their texts."""
    drawn = np.random.default_rng(seed)
    sounds, texts = [], []
    for _ in range(count):
        speaker = clips[int(drawn.integers(len(clips)))][2]
        pool = [clip for clip in clips if clip[2] == speaker]
        chosen = [pool[i] for i in drawn.integers(len(pool), size=drawn.integers(2, 6))]
        rate = chosen[0][0].rate
        pieces = [_gap(drawn, rate)]
        for sound, *_ in chosen:
            pieces += [sound.samples, _gap(drawn, rate)]
        sounds.append(Sound(np.concatenate(pieces), rate))
        texts.append(" ".join(DIGITS[digit] for _, digit, *_ in chosen))
    return Table.from_columns({"audio": sounds, "text": texts}, {"audio": Audio, "text": Text})


def _gap(drawn: np.random.Generator, rate: int) -> np.ndarray:
    noise = drawn.normal(scale=1e-3, size=round(drawn.uniform(0.05, 0.2) * rate))
    return noise.astype(np.float32)
