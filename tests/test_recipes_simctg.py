"""The experiment of SimCTG: training the last blocks on states read before is training them in place."""

from __future__ import annotations

import pytest
import torch
from samples import tiny_causal
from test_encoders_text import TEXTS
from transformers import LlamaConfig, LlamaForCausalLM

from nearfar.encoders.causal import CausalText
from nearfar.methods.generation.simctg import SimCTG
from nearfar.recipes import simctg
from nearfar.recipes.simctg import LastBlocks


@pytest.fixture
def lm() -> CausalText:
    tokenizer = tiny_causal(TEXTS).tokenizer
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), tie_word_embeddings=True, **sizes))
    return CausalText(model, tokenizer, max_length=5)


def test_the_last_blocks_get_the_loss_and_the_gradient_of_the_whole(
    lm: CausalText, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simctg, "BLOCKS", 2)
    texts = [text for text in TEXTS if len(lm.split_prompts([text])[0]) >= 5]
    with torch.no_grad():
        states = lm.predict(lm.prepare(texts))[0][-3][:, :4]
    method = LastBlocks(lm, dict(zip(texts, states, strict=True)), margin=1.0)
    batch = method.prepare({"text": texts}, torch.Generator())

    def gradients(terms: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        method.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        return {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}

    ours, whole = method.loss(batch), SimCTG.loss(method, batch)
    for name, term in whole.items():
        torch.testing.assert_close(ours[name], term)
    found, expected = gradients(ours), gradients(whole)
    assert set(found) == set(expected)
    assert {name.split("layers.")[1][0] for name in found if "layers." in name} == {"1", "2"}
    assert not any("embed" in name or "lm_head" in name for name in found)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, msg=name)
    assert len(lm.trunk.layers) == 3
