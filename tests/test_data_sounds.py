"""Columns of sounds: from files, bytes, folders and `datasets`, and what is wrong with which row."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import soundfile
from samples import sounds, write_sounds
from scipy.signal import resample_poly

from nearfar.data.kinds import Audio, Image, Label, Text
from nearfar.data.sound import Sound, decoded, encoded, resampled
from nearfar.data.splits import holdout
from nearfar.data.table import Table, read_table
from nearfar.errors import MissingExtra, TableError
from nearfar.measures.identity import identities


def test_a_sound_in_memory_comes_back_bit_for_bit() -> None:
    loud = Sound(np.array([0.0, 3.5, -7.25, 1e-9] * 100, np.float32), 11_025)
    made = [*sounds(3), loud]
    table = Table.from_columns({"audio": made})
    assert table.kinds == {"audio": Audio}
    assert table.column("audio") == made
    assert decoded(encoded(loud)) == loud
    assert Table.from_columns({"audio": made}).fingerprint == table.fingerprint
    assert encoded(Sound(loud.samples.copy(), loud.rate)) == encoded(loud)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg"])
def test_files_are_read_from_paths_and_from_bytes(suffix: str, tmp_path: Path) -> None:
    made = sounds(3)
    paths = write_sounds(tmp_path, made, suffix)
    with open(tmp_path / "list.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["path", "text"], *([path.name, "words said"] for path in paths)])
    table = read_table(tmp_path / "list.csv")
    assert table.kinds == {"audio": Audio, "text": Text}
    inside = read_table({"sound": [path.read_bytes() for path in paths]})
    assert inside.kinds == {"audio": Audio}
    assert inside.column("audio") == table.column("audio")
    tolerance = {".wav": 1e-4, ".flac": 1e-4, ".ogg": 0.2}[suffix]
    for found, sound in zip(table.column("audio"), made, strict=True):
        assert (found.rate, found.samples.dtype) == (8000, np.float32)
        np.testing.assert_allclose(found.samples, sound.samples, atol=tolerance)


def test_equal_files_have_one_fingerprint_and_equal_sounds_one_identity(tmp_path: Path) -> None:
    made = sounds(2)
    paths = write_sounds(tmp_path, [*made, made[0]])
    by_path = read_table({"audio": [str(path) for path in paths]})
    by_bytes = read_table({"audio": [path.read_bytes() for path in paths]})
    assert by_path.fingerprint == by_bytes.fingerprint
    assert identities(by_path.column("audio")).tolist() == [0, 1, 0]
    slower = Sound(made[0].samples, 4000)
    assert made[0] != slower
    assert made[0] != "a sound"


def test_equal_sounds_stay_on_one_side_of_a_split() -> None:
    table = Table.from_columns({"audio": sounds(10) * 2, "label": list("ab") * 10})
    for seed in range(5):
        training, held_out = holdout(table, 0.3, seed=seed)
        assert len(held_out)
        assert not {row % 10 for row in training} & {row % 10 for row in held_out}


def test_a_folder_of_sounds_has_its_subfolders_as_labels(tmp_path: Path) -> None:
    for name in ("dog", "cat"):
        (tmp_path / name).mkdir()
        write_sounds(tmp_path / name, sounds(2), ".flac")
    (tmp_path / "cat" / "transcript.txt").write_text("meow", encoding="utf-8")
    table = read_table(tmp_path)
    assert table.kinds == {"audio": Audio, "label": Label}
    assert table.label_names["label"] == ["cat", "dog"]
    assert any("1 files of other kinds" in note for note in table.notes)
    (tmp_path / "cat" / "picture.png").write_bytes(b"")
    with pytest.raises(TableError, match="both pictures and sounds"):
        read_table(tmp_path)


def test_audio_of_datasets_is_read_without_its_decoder(tmp_path: Path) -> None:
    made = sounds(3)
    paths = write_sounds(tmp_path, made, ".flac")
    said = {"audio": [str(path) for path in paths], "sentence": ["one two", "three four", "five six"]}
    stored = datasets.Dataset.from_dict(said).cast_column("audio", datasets.Audio())
    table = read_table(stored)
    assert table.kinds == {"audio": Audio, "text": Text}
    np.testing.assert_allclose(table.column("audio")[1].samples, made[1].samples, atol=1e-4)
    stored.save_to_disk(str(tmp_path / "saved"))
    assert read_table(tmp_path / "saved").column("audio") == table.column("audio")


def test_a_wave_is_not_taken_for_a_picture_though_both_may_start_with_riff() -> None:
    webp = b"RIFF\x24\0\0\0WEBPVP8 "
    with pytest.raises(TableError, match="picture"):
        read_table({"anything": [webp]}, reads={"image": Image})
    assert read_table({"anything": [encoded(sounds(1)[0])]}).kinds == {"audio": Audio}


def broken(kind: str) -> bytes:
    whole = encoded(sounds(1)[0])
    noise = np.random.default_rng(0).normal(scale=0.1, size=8000).astype(np.float32)
    if kind == "nan":
        noise[17] = np.nan
    short = {"empty": 0, "short": 150}.get(kind, len(noise))
    return {
        "cut": whole[: len(whole) // 2],
        "text": b"RIFF\x24\0\0\0WAVE not really",
        **dict.fromkeys(("nan", "empty", "short"), encoded(Sound(noise[:short], 8000))),
    }[kind]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("cut", "is cut off: its header promises more"),
        ("text", "cannot be decoded"),
        ("nan", "holds a sample that is not finite"),
        ("empty", "holds no sample"),
        ("short", r"lasts 19 ms, less than one frame \(25 ms\)"),
    ],
)
def test_a_bad_sound_is_named_by_row_and_column_or_left_out(kind: str, message: str, tmp_path: Path) -> None:
    paths = write_sounds(tmp_path, sounds(3))
    paths[1].write_bytes(broken(kind))
    (tmp_path / "list.csv").write_text(
        "recording\n" + "\n".join(path.name for path in paths), encoding="utf-8"
    )
    with pytest.raises(TableError, match=rf"row 2, column 'recording': the sound.*{message}"):
        read_table(tmp_path / "list.csv")
    table = read_table(tmp_path / "list.csv", on_bad_row="skip")
    assert table.row_numbers(range(len(table))) == [1, 3]
    folder = tmp_path / "sounds"
    folder.mkdir()
    (folder / "bad.wav").write_bytes(broken(kind))
    with pytest.raises(TableError, match=r"bad\.wav"):
        read_table(folder)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    paths = write_sounds(tmp_path, sounds(1))
    listed = tmp_path / "list.csv"
    listed.write_text(f"audio\n{paths[0].name}\nnone.wav\n", encoding="utf-8")
    with pytest.raises(TableError, match=r"row 2, column 'audio': the sound .*none\.wav cannot be read"):
        read_table(listed)


def test_channels_become_their_mean(tmp_path: Path) -> None:
    left, right = (sound.samples[:4000] for sound in sounds(2))
    soundfile.write(tmp_path / "two.wav", np.stack([left, right], axis=1), 8000, subtype="FLOAT")
    [found] = read_table(tmp_path).column("audio")
    np.testing.assert_allclose(found.samples, (left + right) / 2, atol=1e-6)


def test_resampling_keeps_pitch_and_takes_out_what_the_new_rate_cannot_carry() -> None:
    time = np.arange(16_000) / 16_000
    low, high = (np.sin(2 * np.pi * f * time).astype(np.float32) for f in (440, 6000))
    half = resampled(Sound(low + high, 16_000), 8000)
    assert half.dtype == np.float32
    assert len(half) == 8000
    np.testing.assert_allclose(half[200:-200], low[::2][200:-200], atol=0.02)
    sound = sounds(1)[0]
    np.testing.assert_allclose(
        resampled(sound, 11_025), resample_poly(sound.samples, 441, 320).astype(np.float32)
    )
    assert resampled(sound, 8000) is sound.samples


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_sounds(tmp_path, sounds(1))
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(MissingExtra, match=r"nearfar\[audio\]"):
        read_table(tmp_path)
