"""The verb generate, and the audit by measure, in Python and on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import nearfar
from samples import text_space, tiny_causal, write_csv
from test_encoders_text import TEXTS

from nearfar.encoders.causal import CausalText
from nearfar.errors import ArgumentError
from nearfar.heads.decoding import ContrastiveDecoding
from nearfar.measures.generation import coherence, diversity
from nearfar.measures.language import language_measures, layer_isotropy
from nearfar.space import Space
from nearfar.steer.decoding import Decoding, continue_texts
from nearfar.verbs.fit import fit
from nearfar.verbs.generate import as_text, generate
from nearfar.verbs.measure import measure

PROMPTS = ["two red dogs", "snow falls"]


@pytest.fixture(scope="module")
def lm() -> CausalText:
    return tiny_causal(TEXTS).eval()


@pytest.fixture(scope="module")
def folder(lm: CausalText, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("spaces") / "lm"
    return Space({"text": lm}, parts={"decoder": ContrastiveDecoding(3, 0.4)}).save(place)


def test_texts_are_those_of_each_decoder_in_the_order_asked_for(lm: CausalText, folder: Path) -> None:
    made = generate(folder, PROMPTS, decoders=["greedy", "contrastive-search"], new_tokens=8)
    assert made.prompts == PROMPTS
    greedy, contrastive = made.generated
    assert greedy.texts == continue_texts(lm, PROMPTS, Decoding("greedy", 8))
    assert contrastive.texts == continue_texts(lm, PROMPTS, Decoding("contrastive-search", 8, k=3, alpha=0.4))
    for one in made.generated:
        assert one.figures["diversity"] == pytest.approx(100 * diversity(one.texts))
        assert max(one.tokens) <= 8
    ids = lm.split_prompts(PROMPTS)
    added = [lm.split_prompts([text])[0] for text in greedy.texts]
    if [len(row) for row in added] == greedy.tokens:  # the tokens survive being written out
        assert greedy.figures["coherence"] == pytest.approx(coherence(lm, ids, added), abs=1e-4)


def test_the_space_says_how_unless_the_caller_does(folder: Path, lm: CausalText) -> None:
    def asked(model: object, **settings: object) -> tuple[int, float]:
        (one,) = generate(model, PROMPTS, new_tokens=2, **settings).generated
        return one.decoding.k, one.decoding.alpha

    assert asked(folder) == (3, 0.4)
    assert asked(folder, k=7, alpha=0.0) == (7, 0.0)
    assert asked(Space({"text": lm})) == (5, 0.6)
    assert asked(folder / "text") == (5, 0.6), "the encoder of a space is a model, too"


def test_prompts_come_from_arguments_and_from_a_table(folder: Path, tmp_path: Path) -> None:
    table = write_csv(tmp_path / "t.csv", ["body", "n"], [[text, i] for i, text in enumerate(TEXTS)])
    made = generate(folder, PROMPTS, table=table, columns={"text": "body"}, new_tokens=2)
    assert made.prompts == PROMPTS + TEXTS
    cut = generate(folder, table=table, columns={"text": "body"}, new_tokens=2, prompt_tokens=3)
    assert all(text.startswith(prompt) for prompt, text in zip(cut.prompts, TEXTS, strict=True))
    assert cut.prompts != TEXTS


def test_what_cannot_be_continued_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="nothing to continue"):
        generate(folder)
    with pytest.raises(ArgumentError, match="not one text"):
        generate(folder, "rain")
    for wrong, message in (
        ({"decoders": ["magic"]}, "decoder must be one of"),
        ({"alpha": 7.0}, "alpha must be between 0 and 1"),
        ({"prompt_tokens": 0}, "prompt_tokens must be between 1"),
    ):
        with pytest.raises(ArgumentError, match=message):
            generate(folder, PROMPTS, **wrong)
    with pytest.raises(ArgumentError, match="no causal language model, only TransformerText"):
        generate(text_space(TEXTS), PROMPTS)


def test_the_page_shows_texts_side_by_side_and_runs_nothing_of_them(folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    made = generate(folder, ["<b>rain</b>"], decoders=["greedy", "beam"], new_tokens=3, report=page)
    html = page.read_text(encoding="utf-8")
    assert "&lt;b&gt;rain&lt;/b&gt;" in html
    assert "<b>rain" not in html
    for name in ("greedy", "beam (beams 4)"):
        assert f'<th scope="col">{name}</th>' in html
    assert "[greedy]" in as_text(made)


def test_the_command_takes_words_and_decoders_and_prints_both_forms(folder: Path) -> None:
    command = (
        "generate",
        folder,
        *PROMPTS,
        "--decoder",
        "greedy",
        "--decoder",
        "contrastive-search",
        "-k",
        "2",
    )
    said = nearfar(*command, "--new-tokens", "4").stdout
    assert [line for line in said.splitlines() if line.startswith(">")] == [f"> {p}" for p in PROMPTS]
    assert "contrastive-search (k 2, alpha 0.4)" in said
    read = json.loads(nearfar(*command, "--new-tokens", "4", "--json").stdout)
    assert read["prompts"] == PROMPTS
    assert [one["decoder"] for one in read["decoders"]] == ["greedy", "contrastive-search"]
    assert read["decoders"][1]["settings"] == {"k": 2, "alpha": 0.4}
    assert [len(one["texts"]) for one in read["decoders"]] == [2, 2]


# -- the audit -------------------------------------------------------------------------------------


def test_measure_audits_the_token_space_of_a_language_model(
    folder: Path, lm: CausalText, tmp_path: Path
) -> None:
    table = write_csv(tmp_path / "t.csv", ["text"], [[text] for text in TEXTS])
    found = measure(folder, table)
    expected = layer_isotropy(lm, TEXTS)
    assert found["token_isotropy"].value == pytest.approx(expected[-1], abs=1e-6)
    assert [found[f"self_similarity/layer-{i}"].value for i in range(3)] == pytest.approx(
        list(1 - expected), abs=1e-6
    )
    assert found["perplexity"].value == pytest.approx(language_measures(lm, TEXTS)["perplexity"].value)
    assert "perplexity" not in measure(text_space(TEXTS), table)


def test_fit_tells_what_the_language_model_was_like_before_and_after(tmp_path: Path) -> None:
    rows = [[f"{text} {i}"] for i in range(4) for text in TEXTS]
    table = write_csv(tmp_path / "t.csv", ["text"], rows)
    space = fit("simctg", table, tmp_path / "out", encoder="tiny", steps=3, batch_size=8, max_length=32)
    told = space.card["measures"]
    assert told["perplexity"]["after"] < told["perplexity"]["before"]
    assert "token_isotropy" in told
    assert generate(tmp_path / "out", ["rain"], new_tokens=4).generated[0].decoding.k == 8


def test_an_encoder_without_a_vocabulary_is_refused_with_its_reason(tmp_path: Path, pairs_csv: Path) -> None:
    text_space(TEXTS).save(tmp_path / "plain")
    with pytest.raises(ArgumentError, match="no causal language model"):
        fit("simctg", pairs_csv, tmp_path / "out", encoder=str(tmp_path / "plain" / "text"))
