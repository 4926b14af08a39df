"""`fit` and `methods`: what they take, what they leave behind, and what they refuse."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import sentences
from PIL import Image as Pictures
from samples import text_space, write_csv

from nearfar.data.table import read_table
from nearfar.errors import ArgumentError, ArtefactError, TableError
from nearfar.space import Space
from nearfar.verbs.fit import fit, read_run
from nearfar.verbs.methods import methods

SHORT: dict[str, Any] = {"steps": 2, "batch_size": 16}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a small text encoder."""
    texts = [cell for row in sentences() for cell in row[:2]]
    return str(text_space(texts).save(tmp_path_factory.mktemp("encoder") / "space") / "text")


@pytest.fixture(scope="module")
def space(pairs_csv: Path, encoder: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Space, Path]:
    folder = tmp_path_factory.mktemp("fits") / "space"
    return fit("simcse", pairs_csv, folder, encoder=encoder, seed=1, **SHORT), folder


def test_methods_are_listed_or_told_about() -> None:
    everything = methods()
    names = [entry.name for entry in everything]
    assert {"simcse", "align-uniform", "moco-dual", "modality-gap", "clip"} <= set(names)
    assert len(names) == len(set(names))
    for entry in everything:
        assert entry.title
        assert entry.venue
        assert entry.family
        assert entry.reads
        assert methods(entry.name) == [entry]
    with pytest.raises(ArgumentError, match="no method 'simsce': did you mean simcse"):
        methods("simsce")


# -- what is left behind ---------------------------------------------------------------------------


def test_the_folder_holds_the_space_its_card_the_command_and_the_curve(
    space: tuple[Space, Path], pairs_csv: Path, encoder: str
) -> None:
    returned, folder = space
    loaded = Space.load(folder)
    assert loaded.fingerprint == returned.fingerprint
    assert loaded.card == json.loads(json.dumps(returned.card))
    assert {path.name for path in folder.iterdir()} == {
        "README.md", "log.csv", "run.json", "space.json", "text", "text-head.safetensors"}  # fmt: skip
    run = read_run(folder)
    assert run["method"] == "simcse"
    assert run["table"] == str(pairs_csv)
    assert run["columns"] == {"text": "text", "positive": "positive", "label": "label"}
    assert run["encoders"] == {"encoder": encoder}
    assert (run["settings"]["seed"], run["settings"]["steps"], run["settings"]["batch_size"]) == (1, 2, 16)
    assert len((folder / "log.csv").read_text().splitlines()) == 3
    page = (folder / "README.md").read_text()
    assert all(
        said in page for said in ("simcse", "EMNLP 2021", "| mrr@10 |", "@misc{simcse", str(pairs_csv))
    )


def test_the_card_measures_before_and_after_on_rows_that_training_did_not_see(
    space: tuple[Space, Path],
) -> None:
    card = space[0].card
    data = card["data"]
    assert data["training_rows"] + data["measured_rows"] == 144
    assert data["training_fingerprint"] != data["measured_fingerprint"]
    assert card["primary_measure"] == "mrr@10"
    assert {"uniformity", "alignment", "mrr@10", "knn_accuracy"} <= set(card["measures"])
    for measure in card["measures"].values():
        assert np.isfinite([measure["before"], measure["after"]]).all()
        assert measure["n"] <= data["measured_rows"]
    assert any(m["before"] != m["after"] for m in card["measures"].values())
    assert f"trained on {data['training_rows']} rows" in card["notes"]
    assert {"nearfar", "torch", "processor"} <= set(card["versions"])


def test_the_same_seed_gives_the_same_space_and_another_gives_another(
    space: tuple[Space, Path], pairs_csv: Path, encoder: str
) -> None:
    random.seed(99)
    again = fit("simcse", pairs_csv, encoder=encoder, seed=1, **SHORT)
    assert again.fingerprint == space[0].fingerprint
    assert again.card["measures"] == space[0].card["measures"]
    assert fit("simcse", pairs_csv, encoder=encoder, seed=2, **SHORT).fingerprint != again.fingerprint


def test_a_run_from_scratch_learns_its_vocabulary_from_its_training_rows(tmp_path: Path) -> None:
    rows = [
        (f"{word} stone", f"a {word} pebble") for word in ("red", "blue", "grey", "round", "flat", "warm")
    ]
    table = write_csv(tmp_path / "t.csv", ["text", "positive"], rows)
    other = write_csv(tmp_path / "o.csv", ["text", "positive"], [("zebra", "quagga"), ("quagga", "zebra")])
    made = fit("simcse", table, encoder="tiny", steps=1, batch_size=4, measure_on=other)
    words = set(made.encoders["text"].tokenizer.get_vocab())  # type: ignore[attr-defined]
    assert {"stone", "pebble", "red", "warm"} <= words
    assert not {"zebra", "quagga"} & words
    assert made.card["data"]["training_rows"] == 6
    assert made.card["data"]["measured_rows"] == 2
    assert made.card["settings"]["learning_rate"] == 1e-3


# -- how long, on what -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "steps"), [({}, 8), ({"epochs": 2.0}, 16), ({"steps": 3}, 3), ({"epochs": 0.5}, 4)]
)
def test_steps_or_epochs_or_one_epoch(
    pairs_csv: Path, encoder: str, given: dict[str, Any], steps: int
) -> None:
    made = fit("simcse", pairs_csv, encoder=encoder, batch_size=16, **given)
    assert made.card["steps"] == steps
    left_over = "2 rows are left over by batches of 16: other ones in every epoch"
    assert (left_over in made.card["notes"]) == ("steps" not in given)
    assert made.card["settings"]["learning_rate"] == 5e-5, "the encoder was trained before"


def test_both_steps_and_epochs_are_refused(pairs_csv: Path, encoder: str) -> None:
    with pytest.raises(ArgumentError, match="exactly one of steps and epochs"):
        fit("simcse", pairs_csv, encoder=encoder, steps=2, epochs=1.0)


def test_columns_are_read_as_the_user_says(pairs_csv: Path, encoder: str) -> None:
    swapped = fit(
        "simcse", pairs_csv, encoder=encoder, columns={"text": "positive", "positive": "text"}, **SHORT
    )
    assert swapped.card["columns"] == {"text": "positive", "positive": "text", "label": "label"}
    assert swapped.fingerprint != fit("simcse", pairs_csv, encoder=encoder, **SHORT).fingerprint
    with pytest.raises(TableError, match=r"no column 'nothing'.*text \(text\), positive \(text\), label"):
        fit("simcse", pairs_csv, encoder=encoder, columns={"text": "nothing"}, **SHORT)


def test_without_held_out_rows_nothing_is_measured(pairs_csv: Path, encoder: str) -> None:
    card = fit("simcse", pairs_csv, encoder=encoder, holdout_share=0, **SHORT).card
    assert (card["measures"], card["primary_measure"], card["data"]["measured_rows"]) == ({}, None, 0)
    assert card["data"]["training_rows"] == 144
    with pytest.raises(ArgumentError, match="at least 0 and below 1, not 1"):
        fit("simcse", pairs_csv, encoder=encoder, holdout_share=1, **SHORT)
    with pytest.raises(ArgumentError, match="measure_every needs rows to measure on"):
        fit("simcse", pairs_csv, encoder=encoder, holdout_share=0, measure_every=1, **SHORT)


def test_texts_that_are_cut_and_batches_that_are_added_are_told(pairs_csv: Path, encoder: str) -> None:
    notes = fit("simcse", pairs_csv, encoder=encoder, max_length=5, accumulate=2, **SHORT).card["notes"]
    [cut] = [note for note in notes if "longer than 5 tokens" in note]
    assert cut.startswith("128 of 128 texts read")  # 2 steps of 2 batches of 16 pairs, all of which are long
    assert any(
        "accumulation adds the gradients of 2 batches of 16; each example still meets" in n for n in notes
    )


def test_the_best_weights_by_a_watched_measure_are_those_of_the_space(pairs_csv: Path, encoder: str) -> None:
    given: dict[str, Any] = {
        "encoder": encoder,
        "batch_size": 16,
        "learning_rate": 0.01,
        "schedule": "constant",
    }
    run = fit("simcse", pairs_csv, steps=6, measure_every=2, watch="alignment", **given)
    kept = run.card["kept_step"]
    assert kept in (2, 4, 6)
    assert fit("simcse", pairs_csv, steps=kept, **given).fingerprint == run.fingerprint
    with pytest.raises(
        ArgumentError, match=r"watch 'map' is not measured on these rows; measured are: uniformity"
    ):
        fit("simcse", pairs_csv, measure_every=2, watch="map", **given)


# -- encoders and hyperparameters ------------------------------------------------------------------


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve small pictures with captions."""
    folder = tmp_path_factory.mktemp("pictures")
    rows = []
    for i in range(12):
        Pictures.new("RGB", (8, 8), (20 * i, 255 - 20 * i, 40)).save(folder / f"{i}.png")
        rows.append((f"{i}.png", f"colour number {i}"))
    return write_csv(folder / "captions.csv", ["image", "text"], rows)


def test_a_method_with_two_encoders_takes_them_by_name(pictures: Path, encoder: str) -> None:
    short: dict[str, Any] = {"steps": 1, "batch_size": 4, "holdout_share": 0.2, "hyperparameters": {"dim": 8}}
    made = fit("clip", pictures, encoder={"image": "tiny", "text": encoder}, **short)
    assert made.card["encoders"] == {"image": "tiny", "text": encoder}
    assert made.encode(["a colour"], "text").shape == (1, 8)
    assert made.encode([Pictures.new("RGB", (9, 7))], "image").shape == (1, 8)
    with pytest.raises(
        ArgumentError, match="several encoders: say which one is meant, such as --encoder image=tiny"
    ):
        fit("clip", pictures, encoder="tiny", **short)
    with pytest.raises(ArgumentError, match="clip has no encoder 'audio'; it has: image, text"):
        fit("clip", pictures, encoder={"audio": "tiny"}, **short)


@pytest.mark.parametrize("form", ["folder", "argument", "sentence-transformers", "tiny"])
def test_forms_of_an_encoder(pairs_csv: Path, encoder: str, tmp_path: Path, form: str) -> None:
    plain = tmp_path / "plain"
    if form == "sentence-transformers":
        plain.mkdir()
        for file in Path(encoder).rglob("*"):
            if file.is_file() and file.name != "encoder.json":
                (plain / file.relative_to(encoder)).parent.mkdir(exist_ok=True)
                (plain / file.relative_to(encoder)).write_bytes(file.read_bytes())
    given: Any = {"argument": {"encoder": encoder}, "tiny": "tiny", "sentence-transformers": str(plain)}
    made = fit("simcse", pairs_csv, encoder=given.get(form, encoder), **SHORT)
    same = fit("simcse", pairs_csv, encoder=encoder, **SHORT).fingerprint
    assert (made.fingerprint == same) == (form != "tiny")


def test_a_folder_that_is_no_encoder_is_named(pairs_csv: Path, encoder: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArtefactError, match=r"empty is no model folder: config\.json is missing"):
        fit("simcse", pairs_csv, encoder=str(tmp_path / "empty"), **SHORT)


def test_a_space_gives_the_encoder_that_reads_what_is_asked_for(pairs_csv: Path, encoder: str) -> None:
    same = fit("simcse", pairs_csv, encoder=encoder, **SHORT).fingerprint
    assert fit("simcse", pairs_csv, encoder=str(Path(encoder).parent), **SHORT).fingerprint == same


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"encoder": {"text": "tiny"}}, "simcse has no encoder 'text'; it has: encoder"),
        ({"hyperparameters": {"temprature": 1}}, "no hyperparameter 'temprature'; it has: temperature"),
        ({"hyperparameters": {"temperature": "hot"}}, "temperature must be of type float, not 'hot'"),
        ({"hyperparameters": {"pooling": "sum"}}, "pooling must be one of 'own', 'cls'.*, not 'sum'"),
        ({"batch_size": 200}, r"pairs\.csv has 130 rows, fewer than one batch of 200"),
        ({"max_length": 1}, "max_length=1: this model takes 3 to 64 tokens"),
    ],
)
def test_wrong_arguments_are_named(
    pairs_csv: Path, encoder: str, given: dict[str, Any], message: str
) -> None:
    with pytest.raises((ArgumentError, TableError), match=message):
        fit("simcse", pairs_csv, **{"encoder": encoder, **SHORT, **given})


def test_hyperparameters_given_as_words_are_of_their_type(pictures: Path, encoder: str) -> None:
    one = fit("align-uniform", pictures, encoder="tiny", steps=1, batch_size=4, holdout_share=0.2,
              hyperparameters={"dim": "6", "flip": "false", "crop": "0.5"})  # fmt: skip
    assert one.card["hyperparameters"] == {"dim": 6, "flip": False, "crop": 0.5}
    assert one.encode([Pictures.new("RGB", (8, 8))]).shape == (1, 6)
    for wrong in ({"dim": "6.5"}, {"flip": "maybe"}):
        with pytest.raises(ArgumentError, match=f"{next(iter(wrong))} must be"):
            fit("align-uniform", pictures, encoder="tiny", hyperparameters=wrong, **SHORT)


def test_a_table_without_anything_to_read_is_refused_before_all_else(tmp_path: Path) -> None:
    numbers = write_csv(tmp_path / "n.csv", ["a", "b"], [(i, i % 3) for i in range(30)])
    with pytest.raises(
        TableError, match=r"n\.csv has no column that the method knows to read as image or text"
    ):
        fit("align-uniform", numbers, **SHORT)
    with pytest.raises(TableError, match=r"no column 'image' \(image\), and none is image.*--column image="):
        fit("clip", numbers, **SHORT)


# -- what is in the way ----------------------------------------------------------------------------


def test_a_finished_space_is_replaced_only_when_asked_and_only_by_a_run_that_can_start(
    pairs_csv: Path, encoder: str, tmp_path: Path
) -> None:
    folder = tmp_path / "space"
    first = fit("simcse", pairs_csv, folder, encoder=encoder, **SHORT).fingerprint
    for resume in (False, True):
        with pytest.raises(ArtefactError, match=r"holds a finished space.*--overwrite"):
            fit("simcse", pairs_csv, folder, encoder=encoder, resume=resume, **SHORT)
    wrong: list[dict[str, Any]] = [
        {"columns": {"text": "nothing"}},
        {"hyperparameters": {"temperature": "hot"}},
        {"batch_size": 500},
        {"learning_rate": -1.0},
        {"encoder": str(tmp_path)},
    ]
    for given in wrong:
        with pytest.raises((ArgumentError, TableError, ArtefactError)):
            fit("simcse", pairs_csv, folder, overwrite=True, **{"encoder": encoder, **SHORT, **given})
        assert Space.load(folder).fingerprint == first, given
    (folder / "indexes").mkdir()
    second = fit("simcse", pairs_csv, folder, encoder=encoder, seed=5, overwrite=True, **SHORT)
    assert Space.load(folder).fingerprint == second.fingerprint != first
    assert not (folder / "indexes").exists()


@pytest.mark.parametrize("overwrite", [False, True])
def test_folders_of_other_things_and_files_are_never_touched(
    pairs_csv: Path, encoder: str, tmp_path: Path, overwrite: bool
) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("my work")
    with pytest.raises(ArtefactError, match="thesis"):
        fit("simcse", pairs_csv, tmp_path / "thesis", encoder=encoder, overwrite=overwrite, **SHORT)
    with pytest.raises(ArtefactError, match=r"chapter\.txt is a file"):
        fit("simcse", pairs_csv, tmp_path / "thesis" / "chapter.txt", encoder=encoder, overwrite=overwrite)
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "my work"


def test_an_unfinished_run_is_gone_on_with_or_started_anew(
    pairs_csv: Path, encoder: str, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    whole = fit("simcse", pairs_csv, folder, encoder=encoder, **SHORT).fingerprint
    (folder / "space.json").unlink()  # as if it had been killed while it wrote its last file
    with pytest.raises(ArtefactError, match=r"unfinished run: pass --resume .* or --overwrite"):
        fit("simcse", pairs_csv, folder, encoder=encoder, **SHORT)
    for given in ({"resume": True}, {"overwrite": True}):
        (folder / "space.json").unlink(missing_ok=True)
        assert fit("simcse", pairs_csv, folder, encoder=encoder, **given, **SHORT).fingerprint == whole
        assert Space.load(folder).fingerprint == whole


def test_a_table_may_be_given_instead_of_its_source(pairs_csv: Path, encoder: str) -> None:
    table = read_table(str(pairs_csv)).select(range(40))
    made = fit("simcse", table, encoder=encoder, **SHORT)
    assert made.card["data"]["training_rows"] + made.card["data"]["measured_rows"] == 40
