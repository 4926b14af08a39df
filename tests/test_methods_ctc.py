"""CTC: the loss by enumeration, what learns when, what users are told, and the errors of a recogniser."""

from __future__ import annotations

import csv
import functools
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from samples import sounds, write_sounds
from test_encoders_audio import network

from nearfar.data.kinds import Audio, Text
from nearfar.data.sound import Sound
from nearfar.data.table import Table, read_table
from nearfar.encoders.audio import TransformersAudio
from nearfar.errors import ArgumentError, TableError
from nearfar.heads import make_head
from nearfar.heads.ctc import CTCHead
from nearfar.measures.embeddings import measure_embeddings, primary_measure
from nearfar.measures.transcripts import edit_distance, error_rate, transcribe, transcripts_of
from nearfar.methods.audio.ctc import CTC
from nearfar.objectives.ctc import collapsed, ctc_loss, fewest_frames
from nearfar.space import Space
from nearfar.training.settings import Settings
from nearfar.training.trainer import train
from nearfar.verbs.fit import fit
from nearfar.verbs.measure import measure

SMALL: dict[str, Any] = {"span": 3, "channel_span": 4}


def method(**changed: Any) -> CTC:
    torch.manual_seed(0)
    return CTC(TransformersAudio(network(), 8000), **{**SMALL, **changed})


def table(texts: list[str] | None = None, cells: list[Sound] | None = None) -> Table:
    texts = texts or ["a bee", "a cat", "an owl", "a bat"]
    columns = {"audio": cells or sounds(len(texts)), "text": texts}
    return Table.from_columns(columns, {"audio": Audio, "text": Text}, name="said.csv")


# -- the loss --------------------------------------------------------------------------------------


def test_the_loss_is_the_sum_over_all_paths() -> None:
    torch.manual_seed(0)
    log_p = torch.randn(2, 6, 3, dtype=torch.double).log_softmax(-1).float()
    texts, frames = [[1, 1], [2]], [5, 6]
    nats = 0.0
    for row, (text, n) in enumerate(zip(texts, frames, strict=True)):
        paths = itertools.product(range(3), repeat=n)
        likely = sum(
            float(log_p[row, torch.arange(n), torch.tensor(path)].sum().exp())
            for path in paths
            if collapsed(torch.tensor(path)) == text
        )
        nats -= float(np.log(likely))
    got = ctc_loss(log_p, torch.tensor(frames), torch.tensor([[1, 1], [2, 0]]), torch.tensor([2, 1]))
    assert float(got) == pytest.approx(nats / 3, rel=1e-4), "per character, padded frames left out"


def test_a_text_too_long_for_its_sound_counts_nothing() -> None:
    log_p = torch.randn(1, 2, 3).log_softmax(-1).requires_grad_()
    loss = ctc_loss(log_p, torch.tensor([2]), torch.tensor([[1, 1]]), torch.tensor([2]))
    loss.backward()
    assert float(loss.detach()) == 0
    assert log_p.grad is not None
    assert not log_p.grad.any()
    assert [fewest_frames(text) for text in ([1, 1], [1, 2], [1, 2, 2, 2], [])] == [3, 2, 6, 0]


def test_a_path_collapses_by_merging_before_dropping_blanks() -> None:
    assert collapsed(torch.tensor([0, 1, 1, 0, 1, 2, 2, 0, 0])) == [1, 1, 2]
    head = CTCHead(4, alphabet="ab ")
    log_p = torch.nn.functional.one_hot(torch.tensor([[1, 1, 0, 1, 3, 2, 2, 2]]), 4).float()
    mask = torch.ones(1, 8, dtype=torch.bool)
    assert head.read(log_p, mask) == ["aa b"]
    mask[0, 5:] = False
    assert head.read(log_p, mask) == ["aa "]


def test_texts_are_lowered_and_foreign_characters_named() -> None:
    head = CTCHead(4, alphabet=" abc'")
    assert head.text(head.characters("  A\tcab'B ")) == "a cab'b"
    with pytest.raises(ArgumentError, match="'d' is not in the alphabet"):
        head.characters("bad")
    for alphabet in ("", "aa", "aB"):
        with pytest.raises(ArgumentError, match="alphabet must hold"):
            CTCHead(4, alphabet=alphabet)
    again = make_head(head.settings())
    again.load_state_dict(head.state_dict())
    states = torch.randn(2, 3, 4)
    assert torch.equal(again.eval()(states), head.eval()(states))


def test_a_head_learns_to_spell_from_frames_without_an_alignment() -> None:
    """Frames are noise but for a mark of the sound; a shifted alphabet or a wrong blank would not spell the words."""
    torch.manual_seed(0)
    head = CTCHead(12, alphabet="abc", dropout=0.0)
    texts = ["ab", "ba", "cc", "a"]
    states = torch.randn(4, 8, 12)
    frames = torch.tensor([8, 7, 8, 5])
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(head.characters(t)) for t in texts], batch_first=True)
    optimiser = torch.optim.Adam(head.parameters(), lr=0.1)
    for _ in range(100):
        optimiser.zero_grad()
        ctc_loss(head(states), frames, ids, torch.tensor([2, 2, 2, 1])).backward()
        optimiser.step()
    mask = torch.arange(8) < frames[:, None]
    assert head.read(head(states), mask) == texts


# -- what learns when ------------------------------------------------------------------------------


def test_the_convolutions_never_learn_and_the_transformer_only_after_the_head() -> None:
    made = method(frozen=0.5)
    assert [(stage.name, stage.share) for stage in made.stages()] == [("head", 0.5), ("all", 0.5)]

    def changed(steps: int, of: int) -> set[str]:
        fresh = method(frozen=0.5)
        before = {name: value.clone() for name, value in fresh.state_dict().items()}
        stages = fresh.stages

        def until() -> list[Any]:
            return stages() if steps == of else stages()[:1]

        fresh.stages = until  # type: ignore[method-assign]
        train(fresh, table(), Settings(steps=steps, batch_size=4, learning_rate=1e-3, warmup=0.0))
        return {name for name, value in fresh.state_dict().items() if not torch.equal(value, before[name])}

    assert changed(2, 4) == {"recogniser.map.weight", "recogniser.map.bias"}
    whole = changed(4, 4)
    assert any("encoder.model.encoder.layers.0" in name for name in whole)
    assert any("feature_projection" in name for name in whole)
    assert not any("feature_extractor" in name for name in whole)
    assert [stage.name for stage in method(frozen=0.0).stages()] == ["all"]
    assert [stage.name for stage in method(frozen=1.0).stages()] == ["head"]


def test_frames_are_hidden_and_channels_muted_in_training_only() -> None:
    made = method()
    rows = table().rows(range(4))
    batch = made.prepare(rows, torch.Generator().manual_seed(0))
    assert batch["hidden"].any()
    assert batch["muted"].shape == (4, 16)
    assert 0 < float(batch["muted"].float().mean()) < 0.6
    bare = method(mask_share=0.0, channel_share=0.0)
    assert set(bare.prepare(rows, torch.Generator())) == {"audio", "characters", "lengths"}
    made.eval()
    plain = {name: value for name, value in batch.items() if name not in ("hidden", "muted")}
    assert float(made.loss(batch)["ctc"].detach()) != float(made.loss(plain)["ctc"].detach())
    assert batch["characters"][0, : int(batch["lengths"][0])].tolist() == made.recogniser.characters("a bee")


def test_transcripts_come_in_the_order_of_their_sounds_however_these_are_batched() -> None:
    made = method()
    with torch.no_grad():
        made.recogniser.map.weight.normal_(std=20)
        made.recogniser.map.bias[0] = -50  # of the blank
    space, cells = made.space(), sounds(7)
    heard = transcribe(space, cells, batch_size=4)
    assert heard == [transcribe(space, [sound])[0] for sound in cells]
    assert len(set(heard)) > 1
    assert all(heard)
    made.train()
    assert transcribe(space, cells) == heard, "without dropout"
    assert made.recogniser.training
    assert made.encoder.training


# -- what users are told ---------------------------------------------------------------------------


def test_a_foreign_character_is_named_by_row_before_training() -> None:
    with pytest.raises(
        TableError, match=r"said\.csv, row 3, column 'audio': of its text 'café', 'é' is not .* --alphabet"
    ):
        train(method(), table(["a", "b", "café", "d"]), Settings(steps=1, batch_size=2))


def test_texts_too_long_are_counted_in_the_notes() -> None:
    made = method()
    assert made.notes() == []
    train(made, table(["a", "very long " * 30, "c", "d"]), Settings(steps=1, batch_size=2))
    assert made.notes() == [
        "1 texts have more characters than their sounds have frames and taught nothing (rows 2)"
    ]


def test_arguments_out_of_range_are_refused() -> None:
    for name, value in (("frozen", 1.5), ("channel_span", 16), ("span", 0), ("alphabet", "AB")):
        with pytest.raises(ArgumentError, match=name):
            method(**{name: value})


def test_fine_tuning_from_the_folder_of_a_space(tmp_path: Path) -> None:
    """Pretrain on a folder, fine-tune on a list with texts, measure the errors."""
    place = tmp_path / "sounds"
    place.mkdir()
    paths = write_sounds(place, sounds(8))
    listed = tmp_path / "said.csv"
    with open(listed, "w", newline="", encoding="utf-8") as file:
        rows = [
            [f"sounds/{path.name}", ["one", "two", "three", "four"][i % 4]] for i, path in enumerate(paths)
        ]
        csv.writer(file).writerows([["path", "sentence"], *rows])
    common: dict[str, Any] = {"steps": 2, "batch_size": 4, "holdout_share": 0.25}
    fit("wav2vec2", place, tmp_path / "space", **common, hyperparameters={"codes": 8, "distractors": 5})
    again = fit("ctc", listed, tmp_path / "reader", **common, encoder=str(tmp_path / "space" / "audio"))
    assert again.card["primary_measure"] == "character_error"
    before = Space.load(tmp_path / "space").encoders["audio"].state_dict()
    space = Space.load(tmp_path / "reader")
    after = space.encoders["audio"].state_dict()
    extractor = [name for name in before if "feature_extractor" in name]
    assert extractor
    assert all(torch.equal(before[name], after[name]) for name in extractor)
    measured = measure(space, listed)
    heard = transcribe(space, read_table(listed).column("audio"))
    said = [["one", "two", "three", "four"][i % 4] for i in range(8)]
    assert measured["character_error"].value == pytest.approx(error_rate(said, heard))


# -- errors of a recogniser ------------------------------------------------------------------------


@functools.cache
def slow_distance(one: str, two: str) -> int:
    if not one or not two:
        return len(one) + len(two)
    return min(
        slow_distance(one[1:], two) + 1,
        slow_distance(one, two[1:]) + 1,
        slow_distance(one[1:], two[1:]) + (one[0] != two[0]),
    )


def test_the_edit_distance_is_the_fewest_edits() -> None:
    drawn = np.random.default_rng(0)
    for _ in range(200):
        one, two = ("".join(drawn.choice(list("abc"), drawn.integers(0, 8))) for _ in range(2))
        assert edit_distance(one, two) == slow_distance(one, two)
    assert edit_distance("kitten", "sitting") == 3
    assert edit_distance(["the", "cat", "sat"], ["the", "cat", "has", "sat"]) == 1


def test_error_rates_are_edits_over_what_was_said() -> None:
    assert error_rate(["abcd", "ab"], ["abxd", ""]) == pytest.approx(3 / 6)
    assert error_rate(["a"], ["abc"]) == 2
    pairs = [("One  two", "one too"), ("three", "")]
    characters, words = transcripts_of(pairs)
    assert (characters.name, characters.value) == ("character_error", pytest.approx(6 / 12))
    assert (words.name, words.value) == ("word_error", pytest.approx(2 / 3))
    assert characters.about.endswith("1 of 2 transcripts are empty")
    z = np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)
    measured = measure_embeddings({"audio": z}, {"transcript": pairs})
    assert measured["word_error"].value == words.value
    assert primary_measure(measured) == "character_error"
