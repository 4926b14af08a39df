"""`generate`: texts continued by a language model, by one decoder or by several side by side."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nearfar.data.kinds import Text
from nearfar.data.table import OnBadRow, Table, read_table
from nearfar.encoders.causal import CausalText
from nearfar.errors import ArgumentError, check_between
from nearfar.files import atomic_file
from nearfar.heads.decoding import ContrastiveDecoding
from nearfar.measures.generation import coherence, diversity, rep_n
from nearfar.report.page import Cell, PageTable, Section, page
from nearfar.report.tables import number
from nearfar.report.tables import table as aligned
from nearfar.space import Space
from nearfar.steer.decoding import Decoding, added_text, continue_prompts


@dataclass(frozen=True)
class Generated:
    """What one decoder made of all prompts.

    Attributes:
        decoding: the decoder and its settings.
        texts: what it added to each prompt.
        tokens: how many tokens that are.
        figures: of all its texts: "diversity" and "rep-2" to "rep-4" in percent, "coherence" (mean log-probability
            of a token under the model itself), "seconds".
    """

    decoding: Decoding
    texts: list[str]
    tokens: list[int]
    figures: dict[str, float]


@dataclass(frozen=True)
class Generation:
    """Prompts, and what each decoder added to them, in the order they were asked for."""

    prompts: list[str]
    generated: list[Generated]


def generate(
    model: Space | Path | str,
    prompts: Sequence[str] = (),
    *,
    table: Table | Path | str | None = None,
    columns: Mapping[str, str] | None = None,
    on_bad_row: OnBadRow = "error",
    prompt_tokens: int | None = None,
    decoders: Sequence[str] = (),
    new_tokens: int = 64,
    k: int | None = None,
    alpha: float | None = None,
    beams: int = 4,
    top_k: int = 50,
    top_p: float = 0.95,
    seed: int = 0,
    report: Path | str | None = None,
    batch_size: int = 16,
) -> Generation:
    """Continue prompts with a causal language model, by contrastive search or by other decoders side by side.

    Decoders: contrastive-search (what is probable and unlike all that was said), greedy, beam, top-k, nucleus,
    typical. Diversity tells who repeats itself, coherence how likely the model finds what it wrote.

    Args:
        model: a space with a language model, its folder, a folder of transformers, a GGUF file, "smollm2", or the
            name of a model on the hub.
        prompts: texts to continue.
        table: where more prompts come from: its column of texts.
        columns: role -> column, where names do not tell; the role is text.
        on_bad_row: "error" or "skip".
        prompt_tokens: read only so many tokens of each text as the prompt; None reads it whole.
        decoders: one or more; none means contrastive-search.
        new_tokens: most tokens to add to a prompt.
        k: candidates of a step of contrastive search; None takes the space's own, else 5.
        alpha: weight of its penalty for repeating, 0 to 1; None takes the space's own, else 0.6.
        beams: hypotheses of beam search.
        top_k: most probable tokens that top-k sampling draws from.
        top_p: probability that nucleus and typical sampling draw from.
        seed: of the samplers.
        report: an HTML page for the texts side by side; None writes none.
        batch_size: prompts continued at once.

    Raises:
        ArgumentError: the model is no causal language model, there is no prompt, or a setting is wrong.
        TableError: the table is wrong.
    """
    if isinstance(prompts, str):
        raise ArgumentError("prompts must be a list of texts, not one text: give [text]")
    said: dict[str, Any] = {
        "new_tokens": new_tokens,
        "beams": beams,
        "top_k": top_k,
        "top_p": top_p,
        "seed": seed,
    }
    given: dict[str, Any] = {n: v for n, v in {"k": k, "alpha": alpha}.items() if v is not None}
    asked = [Decoding(decoder=decoder, **said, **given) for decoder in decoders or ("contrastive-search",)]
    if prompt_tokens is not None:
        check_between(1, math.inf, prompt_tokens=prompt_tokens)
    texts = [*prompts, *_of_table(table, columns, on_bad_row)]
    if not texts:
        raise ArgumentError("nothing to continue: give prompts, or a table of texts with --table")
    space = model if isinstance(model, Space) else Space.load(model)
    lm = language_model(space, str(model))
    decodings = [replace(one, **{**_own(space), **given}) for one in asked]
    ids = [prompt[:prompt_tokens] for prompt in lm.split_prompts(texts)]
    read = texts if prompt_tokens is None else [added_text(lm, [], prompt) for prompt in ids]
    made = Generation(read, [_generated(lm, ids, decoding, batch_size) for decoding in decodings])
    if report is not None:
        with atomic_file(report) as temporary:
            temporary.write_text(_page(made), encoding="utf-8")
    return made


def language_model(space: Space, name: str) -> CausalText:
    """The language model of a space.

    Raises:
        ArgumentError: it has none.
    """
    for encoder in space.encoders.values():
        if isinstance(encoder, CausalText):
            return encoder
    kinds = ", ".join(type(encoder).__name__ for encoder in space.encoders.values())
    raise ArgumentError(
        f"{name} holds no causal language model, only {kinds}: give one, such as 'smollm2', a folder of transformers, "
        "or a space that was fitted with simctg or contrastive-search"
    )


def _of_table(
    table: Table | Path | str | None, columns: Mapping[str, str] | None, on_bad_row: OnBadRow
) -> list[str]:
    if table is None:
        return []
    if not isinstance(table, Table):
        table = read_table(str(table), reads={"text": Text}, columns=columns, on_bad_row=on_bad_row)
    texts: list[str] = table.column("text")
    return texts


def _own(space: Space) -> dict[str, Any]:
    """The k and a that a space keeps, or the paper's."""
    kept = space.parts.get("decoder")
    own = kept if isinstance(kept, ContrastiveDecoding) else ContrastiveDecoding()
    return {"k": own.k, "alpha": own.alpha}


def _generated(lm: CausalText, prompts: list[list[int]], decoding: Decoding, batch_size: int) -> Generated:
    started = time.monotonic()
    added = continue_prompts(lm, prompts, decoding, batch_size)
    seconds = time.monotonic() - started
    texts = [added_text(lm, prompt, tokens) for prompt, tokens in zip(prompts, added, strict=True)]
    figures = {
        "diversity": 100 * diversity(texts),
        **{f"rep-{n}": rep_n(texts, n) for n in (2, 3, 4)},
        "coherence": coherence(lm, prompts, added, batch_size),
        "seconds": seconds,
    }
    return Generated(decoding, texts, [len(tokens) for tokens in added], figures)


_SHOWN = {
    "contrastive-search": ("k", "alpha"),
    "greedy": (),
    "beam": ("beams",),
    "top-k": ("top_k", "seed"),
    "nucleus": ("top_p", "seed"),
    "typical": ("top_p", "seed"),
}
"""The settings that a decoder looks at."""


def _name(decoding: Decoding) -> str:
    settings = ", ".join(f"{name} {getattr(decoding, name):g}" for name in _SHOWN[decoding.decoder])
    return f"{decoding.decoder} ({settings})" if settings else decoding.decoder


def _figures(made: Generation) -> tuple[list[str], list[list[str]]]:
    """Names of columns, and one line a decoder."""
    names = list(made.generated[0].figures)
    lines = [
        [_name(one.decoding), f"{sum(one.tokens) / len(one.tokens):.1f}"]
        + [number(one.figures[name]) for name in names]
        for one in made.generated
    ]
    return ["decoder", "tokens", *names], lines


def as_text(made: Generation) -> str:
    """The texts for people, prompt by prompt, and a line of figures for each decoder."""
    blocks = []
    for i, prompt in enumerate(made.prompts):
        said = [f"  [{one.decoding.decoder}] {' '.join(one.texts[i].split())}" for one in made.generated]
        blocks.append("\n".join([f"> {' '.join(prompt.split())}", *said]))
    return "\n\n".join([*blocks, aligned(*_figures(made))])


def as_json(made: Generation) -> dict[str, object]:
    """The result for machines."""
    return {
        "prompts": made.prompts,
        "decoders": [
            {
                "decoder": one.decoding.decoder,
                "settings": {name: getattr(one.decoding, name) for name in _SHOWN[one.decoding.decoder]},
                "texts": one.texts,
                "tokens": one.tokens,
                "figures": one.figures,
            }
            for one in made.generated
        ],
    }


def _page(made: Generation) -> str:
    heads, lines = _figures(made)
    figures = PageTable(heads, [[Cell(line[0]), *(Cell(c, "number") for c in line[1:])] for line in lines])
    texts = PageTable(
        ["prompt", *(_name(one.decoding) for one in made.generated)],
        [
            [Cell(prompt, "muted"), *(Cell(one.texts[i]) for one in made.generated)]
            for i, prompt in enumerate(made.prompts)
        ],
    )
    return page(
        "Texts side by side", [Section("Decoders", _EXPLAINED, figures), Section("Texts", content=texts)]
    )


_EXPLAINED = (
    "Diversity is the product of 1 - rep-n over n = 2, 3, 4, in percent; rep-n is the share of n-grams that a text "
    "has had before. Coherence is the mean log-probability of an added token under the model itself: decoders that "
    "look for probable texts are favoured by it. Tokens are those added to a prompt, on average."
)
