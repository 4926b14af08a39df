"""The experiment of wav2vec 2.0: its strings, its probe, and the figure of hidden frames."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from samples import sounds
from test_methods_wav2vec2 import method, spread

from nearfar.data.sound import Sound
from nearfar.data.table import Table
from nearfar.methods.audio.wav2vec2 import HiddenFrames, Wav2Vec2
from nearfar.recipes.wav2vec2 import DIGITS, Clip, _drawn, probed, recognised, strings
from nearfar.space import Space


def clips() -> list[Clip]:
    """Constant sounds whose height tells digit, speaker and take."""
    return [
        (Sound(np.full(400, 1 + digit + speaker / 10 + take / 100, np.float32), 8000), digit, speaker, take)
        for digit in range(10)
        for speaker in range(3)
        for take in range(4)
    ]


def heights(sound: Sound) -> list[float]:
    """The constant stretches of a string, in order."""
    steps = np.flatnonzero(np.abs(np.diff(sound.samples)) > 0.5)
    middles = [(a + b) // 2 for a, b in itertools.pairwise(steps)]
    return [float(sound.samples[at]) for at in middles if sound.samples[at] > 0.5]


def test_a_string_says_its_digits_in_order_by_one_speaker_with_noise_between() -> None:
    table = strings(clips(), 30, seed=0)
    lengths = set()
    for sound, text in zip(table.column("audio"), table.column("text"), strict=True):
        said = heights(sound)
        assert [DIGITS[int(height) - 1] for height in said] == text.split()
        assert len({round(height * 10) % 10 for height in said}) == 1
        lengths.add(len(said))
        assert 0.05 * 8000 <= len(sound.samples) - 400 * len(said) <= 6 * 0.2 * 8000
        assert sound.samples.all(), "noise, not digital silence"
    assert lengths == {2, 3, 4, 5}
    assert strings(clips(), 30, seed=0).fingerprint == table.fingerprint
    assert strings(clips(), 30, seed=1).fingerprint != table.fingerprint


def test_the_probe_labels_by_the_nearest_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    """Embeddings that tell the digit alone: right for digits from one label on, by chance for speakers."""
    made = method()

    def encode(self: Space, rows: list[Sound]) -> np.ndarray:
        return np.eye(10, dtype=np.float32)[[int(sound.samples[0]) - 1 for sound in rows]]

    monkeypatch.setattr(Space, "encode", encode)
    training = [clip for clip in clips() for _ in range(3)]
    figures = probed(made, training, clips())
    assert [figures[f"digits, {labels} labelled"] for labels in (1, 10, "all")] == [1, 1, 1]
    assert figures["speakers, all labelled"] == pytest.approx(1 / 3)


def test_labelled_rows_are_equally_many_of_each_digit() -> None:
    digits = np.arange(50) % 10
    rows = _drawn(digits, 2, seed=0)
    assert np.bincount(digits[rows]).tolist() == [2] * 10
    assert len(set(rows.tolist())) == 20
    assert not np.array_equal(rows, _drawn(digits, 2, seed=1))


class Knowing(Wav2Vec2):
    """Its states are its targets, or the opposite of them."""

    sign = 1.0

    def hidden_frames(self, batch: dict[str, object]) -> HiddenFrames:
        found = super().hidden_frames(batch)
        return replace(found, states=self.sign * found.targets)


def test_hidden_frames_are_found_by_who_knows_them_and_never_by_their_opposite() -> None:
    made = spread(method())
    made.__class__ = Knowing
    table = Table.from_columns({"audio": sounds(10)})
    figures = recognised(made, table)
    assert figures["hidden frames found"] == 1
    assert 2 <= figures["perplexity of codes"] <= 12
    assert made.training
    assert recognised(made, table) == figures
    made.sign = -1.0  # type: ignore[attr-defined]
    assert recognised(made, table)["hidden frames found"] < 0.1
