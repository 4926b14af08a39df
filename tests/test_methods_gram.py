"""GRAM: the loss over volumes, the matching of parts, several columns with an encoder each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from nearfar.commandline.app import main
from nearfar.data.table import Table
from nearfar.encoders.vector import MLPVector
from nearfar.errors import ArgumentError, TableError
from nearfar.geometry import gram_volume
from nearfar.heads.matching import MatchingHead
from nearfar.methods.multimodal.gram import FLOOR, GRAM, _drawn, anchor_volumes
from nearfar.space import Space
from nearfar.verbs.building import build_method
from nearfar.verbs.fit import fit

NAMES = ("anchor", "second", "third")
WIDTHS = (5, 7, 6)


def method(k: int = 3, **given: Any) -> GRAM:
    torch.manual_seed(0)
    encoders = {name: MLPVector(width, 16, 8) for name, width in zip(NAMES[:k], WIDTHS, strict=False)}
    return GRAM(encoders, **{"dim": 10, **given})


def embeddings(n: int = 6, k: int = 3) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(n, 10, generator=generator) for name in NAMES[:k]}


def table(n: int = 40) -> Table:
    """Three views of one hidden code."""
    random = np.random.default_rng(0)
    hidden = random.standard_normal((n, 4))
    columns = {
        name: (hidden @ random.standard_normal((4, width))).astype(np.float32)
        for name, width in zip(NAMES, WIDTHS, strict=True)
    }
    return Table.from_columns(columns)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("k", [2, 3])
def test_the_loss_is_smoothed_cross_entropy_of_volumes_both_ways(smoothing: float, k: int) -> None:
    made, z = method(k, smoothing=smoothing, matching=0.0), embeddings(k=k)
    unit = [functional.normalize(z[name].double(), dim=1) for name in NAMES[:k]]
    volumes = torch.empty(6, 6, dtype=torch.float64)
    for i in range(6):
        for j in range(6):
            rows = torch.stack([unit[0][i], *(other[j] for other in unit[1:])])
            volumes[i, j] = torch.linalg.det(rows @ rows.T).sqrt()
    logits, own = -volumes / 0.07, torch.arange(6)
    ways = [functional.cross_entropy(m, own, label_smoothing=smoothing) for m in (logits, logits.T)]
    [(name, term)] = made.contrast(z, {}).items()
    assert name == "volume"
    assert float(term.detach()) == pytest.approx(float(sum(ways) / 2), rel=1e-4)


def test_opposite_directions_count_as_near() -> None:
    made, z = method(matching=0.0), embeddings()
    turned = {**z, "second": -z["second"]}
    torch.testing.assert_close(made.contrast(turned, {})["volume"], made.contrast(z, {})["volume"])


def test_a_wrong_row_is_drawn_by_how_near_it_is_and_never_the_own_one() -> None:
    scores = torch.tensor([[9.0, 1.0, 0.0], [0.0, 9.0, 0.0], [0.0, 0.0, 9.0]])
    torch.manual_seed(0)
    drawn = torch.stack([_drawn(scores) for _ in range(2000)])
    assert not bool((drawn == torch.arange(3)).any())
    share = torch.softmax(scores[0], 0)[1:] + FLOOR
    assert float((drawn[:, 0] == 1).float().mean()) == pytest.approx(float(share[0] / share.sum()), abs=0.04)


def test_the_parts_of_an_item_are_judged_with_a_wrong_anchor_and_wrong_others(monkeypatch: Any) -> None:
    made = method()
    seen: list[tuple[Tensor, Tensor]] = []

    def judge_of(tokens: Any, anchors: Tensor, others: Tensor) -> Tensor:
        seen.append((anchors, others))
        return torch.stack([anchors == others, anchors != others], 1).float() * -50

    monkeypatch.setattr(made, "judge_of", judge_of)
    z = embeddings() | {f"{name} {what}": torch.ones(6, 1, 8) for name in NAMES for what in ("tokens",)}
    z |= {f"{name} mask": torch.ones(6, 1, dtype=torch.bool) for name in NAMES}
    term = made.contrast(z, {})["matching"]
    [(anchors, others)] = seen
    own = torch.arange(6)
    assert torch.equal(anchors[:12], torch.cat([own, own]))
    assert torch.equal(others[:6], own)
    assert torch.equal(others[12:], own)
    assert not bool((anchors[6:] == others[6:]).any())
    assert float(term.detach()) == pytest.approx(0.0, abs=1e-6)  # a judge who is sure and right


def test_the_judge_does_not_see_what_is_masked_and_sees_the_rest() -> None:
    torch.manual_seed(0)
    head = MatchingHead(8, [6, 4], width=16).eval()
    tokens = [torch.randn(3, length, width) for length, width in ((5, 8), (4, 6), (2, 4))]
    masks = [torch.ones(3, x.shape[1], dtype=torch.bool) for x in tokens]
    masks[0][:, 3:] = masks[1][:, 2:] = False

    def judged() -> Tensor:
        first, *others = zip(tokens, masks, strict=True)
        return head(first, others)

    before = judged()
    tokens[0][:, 3:] += 1
    tokens[1][:, 2:] += 1
    torch.testing.assert_close(judged(), before)
    tokens[2] += 1
    assert not torch.allclose(judged(), before)


def test_gradients_reach_every_tower_the_temperature_and_the_judge() -> None:
    made = method()
    rows = {name: table().column(name)[:6] for name in NAMES}
    terms = made.loss(made.prepare(rows, torch.Generator()))
    assert set(terms) == {"volume", "matching"}
    made.total(terms).backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in made.towers.parameters())
    assert all(p.grad is not None for p in made.temperature.parameters())
    assert made.judge is not None
    assert any(p.grad is not None for p in made.judge.parameters())


def test_training_makes_the_parts_of_an_item_span_less(tmp_path: Path) -> None:
    space = fit(
        "gram",
        table(200),
        tmp_path / "space",
        steps=60,
        batch_size=40,
        learning_rate=3e-3,
        hyperparameters={"dim": 8},
        holdout_share=0.2,
    )
    measures = space.card["measures"]
    assert measures["volume"]["after"] < measures["volume"]["before"]
    assert measures["recall@1/anchor-to-second"]["after"] > 0.3
    loaded = Space.load(tmp_path / "space")
    assert loaded.geometry == "gram"
    assert loaded.modalities == list(NAMES)
    cells = table().column("third")
    np.testing.assert_array_equal(loaded.encode(cells, "third"), space.encode(cells, "third"))
    z = [torch.from_numpy(loaded.encode(table().column(name), name)) for name in NAMES]
    torch.testing.assert_close(
        -anchor_volumes(torch.stack(z, 1), torch.stack(z, 1)).diagonal(),
        gram_volume(torch.stack(z, 1)),
        atol=1e-3,
        rtol=0,
    )


def test_every_column_has_an_encoder_of_its_own_width() -> None:
    made = build_method("gram", table(), encoder="tiny", hyperparameters={"dim": 8})
    assert [encoder.width for encoder in made.encoders()] == list(WIDTHS)  # type: ignore[attr-defined]
    with pytest.raises(ArgumentError, match="gram has no encoder 'sixth'; it has: anchor, second, third"):
        build_method("gram", table(), encoder={"sixth": "tiny"})


def test_one_column_is_not_enough(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alone = Table.from_columns({"anchor": table().column("anchor")})
    with pytest.raises(TableError, match="second=NAME"):
        fit("gram", alone)
    source = tmp_path / "t.csv"
    source.write_text("a\nred\nblue\n")
    assert main(["fit", "gram", str(source), "--out", str(tmp_path / "x"), "--column", "anchor=a"]) == 1
    assert "--column second=a" in capsys.readouterr().err
