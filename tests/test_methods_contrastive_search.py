"""Contrastive search as a method: nothing is trained, the token space is audited, the space keeps both."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from samples import tiny_causal
from test_encoders_text import TEXTS

from nearfar.data.table import Table
from nearfar.encoders.causal import CausalText
from nearfar.errors import ArgumentError
from nearfar.heads.decoding import ContrastiveDecoding
from nearfar.measures.language import layer_isotropy
from nearfar.methods.generation.contrastive_search import ContrastiveSearch
from nearfar.space import Space
from nearfar.training.settings import Settings
from nearfar.training.trainer import train


@pytest.fixture
def lm() -> CausalText:
    return tiny_causal(TEXTS)


def test_it_audits_every_layer_and_changes_no_weight(lm: CausalText, tmp_path: Path) -> None:
    before = {name: value.clone() for name, value in lm.state_dict().items()}
    method = ContrastiveSearch(lm, k=4, alpha=0.5)
    assert method.notes() == []
    run = train(method, Table.from_columns({"text": TEXTS}), Settings(steps=1, batch_size=4))
    assert run.steps == 0
    assert all(torch.equal(value, before[name]) for name, value in lm.state_dict().items())
    method.space().save(tmp_path / "space")
    decoder = Space.load(tmp_path / "space").parts["decoder"]
    assert isinstance(decoder, ContrastiveDecoding)
    assert (decoder.k, decoder.alpha) == (4, 0.5)
    np.testing.assert_allclose(decoder.isotropy.numpy(), layer_isotropy(lm, TEXTS), atol=1e-6)
    (note,) = method.notes()
    assert f"last layer {decoder.isotropy[-1]:.2f}" in note
    assert note.endswith("of 2")


def test_defaults_are_those_of_the_paper_and_wrong_ones_are_named_at_once(lm: CausalText) -> None:
    defaults = inspect.signature(ContrastiveSearch.__init__).parameters
    assert [defaults[name].default for name in ("k", "alpha")] == [5, 0.6]
    with pytest.raises(ArgumentError, match="k must be between"):
        ContrastiveSearch(lm, k=0)
    with pytest.raises(ArgumentError, match="alpha must be between 0 and 1"):
        ContrastiveSearch(lm, alpha=-0.1)
