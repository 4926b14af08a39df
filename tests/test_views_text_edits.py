"""Edits of texts in tokens: what each keeps and changes, how much, and that a seed decides."""

from __future__ import annotations

import copy
import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from samples import tiny_text

from nearfar.data.table import Table
from nearfar.encoders.prompted import PromptedText
from nearfar.encoders.text import TransformerText
from nearfar.errors import ArgumentError
from nearfar.views.lexicon import DELETED, Lexicon, lexicon_of
from nearfar.views.text_edits import EDITS, SHORTEST_SPAN, edit_inputs, edit_text

DEL = -1
TOKENS = list(range(100, 140))
ORDER = ("reorder", "swap", "shuffle")
"""Edits that only change places."""


@pytest.fixture(scope="module")
def encoder() -> TransformerText:
    return tiny_text(["the cat sat on the mat", "a dog ran over an old road", "rain and snow"])


@pytest.fixture(scope="module")
def words() -> Lexicon:
    """Every token is a word; 100 has similar ones."""
    return Lexicon(DEL, frozenset({1, 2}), None, {100: [7, 8], 101: [9]}, frozenset(TOKENS) | {7, 8, 9})


def edited(words: Lexicon, name: str, rate: float, seed: int = 0, n: int = 40) -> list[int]:
    return edit_text(TOKENS[:n], {name: rate}, np.random.default_rng(seed), words)


def subsequence(part: list[int], whole: list[int]) -> bool:
    rest = iter(whole)
    return all(token in rest for token in part)


@pytest.mark.parametrize("name", [name for name in EDITS if name != "spelling"])
def test_a_seed_decides_a_view_and_rate_0_changes_nothing(words: Lexicon, name: str) -> None:
    assert edited(words, name, 0.5, seed=3) == edited(words, name, 0.5, seed=3)
    assert edited(words, name, 0.0) == TOKENS
    if name != "subs":  # only two tokens can be replaced
        assert len({tuple(edited(words, name, 0.5, seed)) for seed in range(5)}) > 1


@pytest.mark.parametrize("name", ["del-word", "del-span"])
@pytest.mark.parametrize("rate", [0.1, 0.25, 0.7, 1.0])
def test_each_run_of_what_is_deleted_leaves_one_del(words: Lexicon, name: str, rate: float) -> None:
    for seed in range(30):
        view = edited(words, name, rate, seed)
        kept = [token for token in view if token != DEL]
        assert kept
        assert subsequence(kept, TOKENS)
        assert (DEL, DEL) not in pairwise(view)
        # A [DEL] stands wherever tokens are missing, and nowhere else.
        rebuilt, place = [], 0
        for token in view:
            if token == DEL:
                continue
            gap = TOKENS.index(token) - place
            rebuilt += [DEL] * bool(gap) + [token]
            place += gap + 1
        rebuilt += [DEL] * (place < len(TOKENS))
        assert view == rebuilt


@pytest.mark.parametrize(
    ("name", "changed"), [("del-word", 12), ("delete", 12), ("crop", 12), ("del-span", 12)]
)
def test_the_rate_is_the_share_that_goes(words: Lexicon, name: str, changed: int) -> None:
    """30% of 40 tokens, of spans of two six."""
    for seed in range(20):
        kept = [token for token in edited(words, name, 0.3, seed) if token != DEL]
        assert len(kept) == 40 - changed


def test_rates_hold_on_average_in_short_texts(words: Lexicon) -> None:
    """10% of three tokens is no token; 2,000 draws: four standard deviations are 0.04 tokens."""
    for name in ("del-word", "delete", "crop"):
        gone = [3 - sum(t != DEL for t in edited(words, name, 0.1, seed, n=3)) for seed in range(2000)]
        assert np.mean(gone) == pytest.approx(0.3, abs=0.045)
        assert set(gone) == {0, 1}


def test_spans_are_whole_and_do_not_overlap(words: Lexicon) -> None:
    for seed in range(20):
        gone = set(TOKENS) - set(edited(words, "del-span", 0.3, seed))
        runs = np.split(np.array(sorted(gone)), np.flatnonzero(np.diff(sorted(gone)) > 1) + 1)
        assert all(len(run) % SHORTEST_SPAN == 0 for run in runs)


@pytest.mark.parametrize("name", ORDER)
@pytest.mark.parametrize("n", [1, 2, 3, 7, 40])
def test_a_change_of_order_is_a_permutation(words: Lexicon, name: str, n: int) -> None:
    for seed in range(20):
        view = edited(words, name, 0.6, seed, n)
        assert Counter(view) == Counter(TOKENS[:n])
        moved = sum(a != b for a, b in zip(view, TOKENS, strict=False))
        assert moved <= 0.6 * n + 2 * SHORTEST_SPAN


def test_reorder_moves_spans_and_swap_single_tokens(words: Lexicon) -> None:
    for seed in range(20):
        moved = {t for t, u in zip(TOKENS, edited(words, "swap", 0.5, seed), strict=True) if t != u}
        assert len(moved) == 20, "a swap of distinct places moves two tokens"
        view = edited(words, "reorder", 0.1, seed)
        assert sum(t != u for t, u in zip(TOKENS, view, strict=True)) == 4
        assert sum(b == a + 1 for a, b in pairwise(view)) >= 39 - 4


def test_to_shuffle_tokens_is_to_shuffle_positions(encoder: TransformerText) -> None:
    """ConSERT shuffles the numbers of positions; to an encoder without other order it is the same."""
    encoder.eval()
    ids = encoder.prepare(["the cat sat on the mat"])["ids"]
    order = torch.tensor([0, 3, 1, 5, 2, 4, *range(6, ids.shape[1])])
    with torch.no_grad():
        by_tokens = encoder({"ids": ids[:, order]}).tokens
        by_places = encoder.model(input_ids=ids, position_ids=order.argsort()[None]).last_hidden_state
    torch.testing.assert_close(by_tokens, by_places[:, order], rtol=1e-4, atol=1e-5)


def test_crop_keeps_one_piece(words: Lexicon) -> None:
    for seed in range(20):
        view = edited(words, "crop", 0.5, seed)
        assert view == list(range(view[0], view[0] + 20))


def test_subs_takes_words_that_are_used_alike_and_keeps_the_others(words: Lexicon) -> None:
    views = [edited(words, "subs", 1.0, seed) for seed in range(20)]
    assert {view[0] for view in views} == {7, 8}
    assert all(view[1:] == [9, *TOKENS[2:]] for view in views)


def test_a_part_of_a_word_is_no_word() -> None:
    lexicon = Lexicon(DEL, frozenset(), None, {5: [6]}, frozenset({5, 6}))
    rng = np.random.default_rng(0)
    assert edit_text([5, 99, 5], {"subs": 1.0}, rng, lexicon) == [5, 99, 6]
    assert edit_text([5, DEL, 5, 5], {"subs": 1.0}, rng, lexicon) == [6, DEL, 6, 6]


def test_insert_adds_and_loses_nothing(words: Lexicon) -> None:
    for seed in range(10):
        view = edited(words, "insert", 0.25, seed)
        assert len(view) == 50
        assert subsequence(TOKENS, view)
        assert set(view) <= {*TOKENS, 7, 8, 9}


def test_chains_are_made_in_order_and_dels_are_merged(words: Lexicon) -> None:
    for seed in range(20):
        view = edit_text(TOKENS, {"del-word": 0.5, "del-span": 0.5}, np.random.default_rng(seed), words)
        assert (DEL, DEL) not in pairwise(view)
        one = edit_text(TOKENS, {"del-word": 0.5}, np.random.default_rng(seed), words)
        both = edit_text(TOKENS, {"del-word": 0.5, "reorder": 0.5}, np.random.default_rng(seed), words)
        assert Counter(both) == Counter(one)


@pytest.mark.parametrize("name", EDITS)
@pytest.mark.parametrize("n", [0, 1, 2])
def test_very_short_texts_keep_a_token(encoder: TransformerText, name: str, n: int) -> None:
    lexicon = lexicon_of(encoder)
    tokens = lexicon.split("cat mat")[:n]
    for seed in range(5):
        view = edit_text(tokens, {name: 1.0}, np.random.default_rng(seed), lexicon)
        assert bool(set(view) - {lexicon.deleted}) == bool(n)


class Letters:
    """A tokenizer whose tokens are characters."""

    def decode(self, tokens: list[int], skip_special_tokens: bool) -> str:
        return "".join(map(chr, tokens))

    def encode(self, text: str, add_special_tokens: bool) -> SimpleNamespace:
        return SimpleNamespace(ids=list(map(ord, text)))

    def get_added_tokens_decoder(self) -> dict[int, Any]:
        return {0: SimpleNamespace(content="[DEL]")}


def test_spelling_moves_two_neighbouring_letters_of_a_word() -> None:
    lexicon = Lexicon(DEL, frozenset(), Letters())
    text = "the cat, a sun; über 12 mats"
    tokens = lexicon.split(text)
    for seed in range(20):
        misspelt = lexicon.read(edit_text(tokens, {"spelling": 0.5}, np.random.default_rng(seed), lexicon))
        words = list(zip(text.split(), misspelt.split(), strict=True))
        assert all(sorted(one) == sorted(two) for one, two in words)
        assert 2 <= sum(one != two for one, two in words) <= 3, "half of five words; a and 12 are none"
        places = [[a != b for a, b in zip(one, two, strict=True)] for one, two in words]
        assert all(sum(moved) in (0, 2) for moved in places)
        assert all(moved[moved.index(True) + 1] for moved in places if any(moved))


def test_texts_of_pieces_are_read_and_split_without_loss(encoder: TransformerText) -> None:
    """Also where the tokenizer of the encoder does not say how pieces are put together."""
    from tokenizers import Tokenizer

    text = "snowmat raintheon, don't; übersat"
    told, untold = (
        encoder.tokenizer.backend_tokenizer,
        json.loads(encoder.tokenizer.backend_tokenizer.to_str()),
    )
    untold["decoder"] = None
    for tokenizer in (told, Tokenizer.from_str(json.dumps(untold))):
        encoder.tokenizer._tokenizer = tokenizer
        lexicon = lexicon_of(encoder)
        tokens = lexicon.split(text)
        assert len(tokens) > 2 * len(text.split())
        assert lexicon.split(lexicon.read(tokens)) == tokens
        assert "##" not in lexicon.read(tokens)
        assert edited_tokens(tokens, lexicon, 0.0) == tokens


def test_special_tokens_are_never_misspelt(encoder: TransformerText) -> None:
    lexicon = lexicon_of(encoder)
    unknown = encoder.tokenizer.unk_token_id
    tokens = [*lexicon.split("the cat"), lexicon.deleted, unknown, *lexicon.split("the mat")]
    misspelt = edited_tokens(tokens, lexicon, 1.0)
    assert misspelt.count(lexicon.deleted) == 1
    text = lexicon.read(misspelt)
    assert text.index("[DEL]") < text.index("[UNK]")
    assert misspelt != tokens


def edited_tokens(tokens: list[int], lexicon: Lexicon, rate: float) -> list[int]:
    return edit_text(tokens, {"spelling": rate}, np.random.default_rng(0), lexicon)


def test_unknown_edits_and_rates_are_refused(words: Lexicon) -> None:
    with pytest.raises(ArgumentError, match="no edit 'delword'; there are del-word"):
        edited(words, "delword", 0.5)
    with pytest.raises(ArgumentError, match="rate of crop must be between 0 and 1"):
        edited(words, "crop", 1.5)


# -- prepared texts --------------------------------------------------------------------------------


def test_special_tokens_and_padding_stay_at_the_ends(encoder: TransformerText) -> None:
    lexicon = lexicon_of(encoder)
    inputs = encoder.prepare(["the cat sat on the mat", "snow", "🙂 rain 🙂 qqq"])
    for name in EDITS:
        found = edit_inputs(encoder, inputs, {name: 0.5}, torch.Generator().manual_seed(0), lexicon)
        cls, sep = encoder.tokenizer.cls_token_id, encoder.tokenizer.sep_token_id
        for ids, mask in zip(found["ids"], found["mask"], strict=True):
            row = ids[mask].tolist()
            assert (row[0], row[-1]) == (cls, sep)
            assert not {cls, sep} & set(row[1:-1])
            assert (ids[~mask] == encoder.tokenizer.pad_token_id).all()
        assert encoder(found).pooled.isfinite().all()


def test_an_unknown_word_is_part_of_the_text(encoder: TransformerText) -> None:
    lexicon = lexicon_of(encoder)
    unknown = encoder.tokenizer.unk_token_id
    inputs = {"ids": torch.tensor([[2, unknown, unknown, 3]]), "mask": torch.ones(1, 4, dtype=torch.bool)}
    found = edit_inputs(encoder, inputs, {"delete": 0.5}, torch.Generator().manual_seed(0), lexicon)
    assert found["ids"].tolist() == [[2, unknown, 3]]


def test_what_grows_over_the_limit_is_cut_before_the_end(encoder: TransformerText) -> None:
    lexicon = lexicon_of(encoder)
    inputs = encoder.prepare(["cat " * 500])
    found = edit_inputs(encoder, inputs, {"insert": 1.0}, torch.Generator().manual_seed(0), lexicon)
    assert found["ids"].shape[1] == encoder.max_length
    assert int(found["ids"][0, -1]) == encoder.tokenizer.sep_token_id


# -- the lexicon -----------------------------------------------------------------------------------


def test_del_has_an_embedding_that_is_learned_and_saved(tmp_path: Path) -> None:
    encoder = tiny_text(["the cat sat", "a dog ran"])
    with torch.no_grad():
        before = encoder.eval()(encoder.prepare(["the cat"])).pooled
    lexicon = lexicon_of(encoder)
    assert lexicon_of(encoder).deleted == lexicon.deleted, "it is added once"
    assert torch.equal(encoder(encoder.prepare(["the cat"])).pooled, before)
    words = encoder.model.get_input_embeddings()
    assert words.num_embeddings == lexicon.deleted + 1
    encoder({"ids": torch.tensor([[2, lexicon.deleted, 3]])}).pooled[0, 0].backward()
    assert bool(words.weight.grad[lexicon.deleted].any())
    encoder.save(tmp_path / "encoder")
    again = TransformerText.load(tmp_path / "encoder")
    assert lexicon_of(again).deleted == lexicon.deleted
    text = f"the {DELETED} cat"
    assert torch.equal(again.prepare([text])["ids"], encoder.prepare([text])["ids"])


def test_similar_words_keep_similar_company() -> None:
    """Cats and dogs eat, sleep and run; cars and vans drive, park and stop."""
    rng = np.random.default_rng(0)
    groups = (
        (("cat", "dog", "fox"), ("eats", "sleeps", "runs")),
        (("car", "van", "bus"), ("drives", "parks", "stops")),
    )
    texts = []
    for _ in range(400):
        who, what = groups[rng.integers(2)]
        texts.append(f"{rng.choice(who)} {rng.choice(what)} {rng.choice(what)}")
    lexicon = lexicon_of(tiny_text(texts), Table.from_columns({"text": texts}))
    near = {
        lexicon.read([token]): {lexicon.read([w]) for w in similar}
        for token, similar in lexicon.similar.items()
    }
    animals, cars = set(sum(groups[0], ())), set(sum(groups[1], ()))
    assert near
    for word, similar in near.items():
        assert word not in similar
        assert similar <= (animals if word in animals else cars)
    assert f"{len(near)} words" in lexicon.note


def test_too_few_texts_have_no_similar_words() -> None:
    texts = ["rain and snow", "snow and fog"]
    lexicon = lexicon_of(tiny_text(texts), Table.from_columns({"text": texts}))
    assert lexicon.similar == {}
    assert lexicon.note.startswith("0 words")


@pytest.mark.parametrize("template", ['"[X]" means [MASK].', "[X] [MASK]", "cat: [X] is [MASK]"])
@pytest.mark.parametrize("name", ["insert", "delete", "del-word", "crop", "shuffle", "spelling"])
def test_a_prompt_is_not_edited(encoder: TransformerText, template: str, name: str) -> None:
    """What it pools is found by its place from the end."""
    prompted = PromptedText.around(copy.deepcopy(encoder), template)
    lexicon, prompt = lexicon_of(prompted), prompted.prompt
    prompted.set_max_length(12)
    inputs = prompted.prepare(["the cat sat on the mat and rain", "a dog", "snow " * 30])
    found = edit_inputs(prompted, inputs, {name: 1.0}, torch.Generator().manual_seed(0), lexicon)
    assert not torch.equal(found["ids"], inputs["ids"][:, : found["ids"].shape[1]])
    for ids, mask in zip(found["ids"], found["mask"], strict=True):
        row = ids[mask].tolist()
        assert row[1 : 1 + len(prompt.before)] == prompt.before
        assert row[-1 - len(prompt.after) : -1] == prompt.after
        assert row[len(row) - 1 - prompt.behind] == prompted.tokenizer.mask_token_id
        assert len(row) <= 12 + prompt.length
    if name == "insert":
        assert int(found["mask"].sum(1).max()) == 12 + prompt.length, "the prompt takes no room of the text"
