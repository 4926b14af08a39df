"""SCT: the released loss, crossed views, references without head or gradient, two queues, a frozen teacher."""

from __future__ import annotations

import copy
import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_methods_catalogue import calm, gradients, total
from torch import Tensor, nn
from torch.nn.functional import normalize

from nearfar.data.table import Table
from nearfar.encoders.recurrent import RecurrentText
from nearfar.encoders.text import TransformerText
from nearfar.errors import ArgumentError
from nearfar.heads.projection import Projection
from nearfar.method import Batch
from nearfar.methods.sentence.sct import SCT
from nearfar.space import Space
from nearfar.training.settings import Settings
from nearfar.training.trainer import train

TEXTS = [
    "rain",
    "snow fell on the old town",
    "fog in the valley",
    "a storm",
    "hail and wind and a cold night",
]
POSITIVES = ["it rains", "snow", "the valley lies in fog", "thunder and lightning", "hail"]
ODD = ["the of and", "a", "wind " * 10_000, "雪 снег ثلج snow", "\t snow \n", "a", "🌧️", "Ω" * 200]


@pytest.fixture(scope="module")
def shared() -> TransformerText:
    torch.manual_seed(0)
    texts = TEXTS + POSITIVES
    return TransformerText.tiny(texts, layers=2, dim=32, heads=2, ffn=48, max_length=16, dropout=0.2)


@pytest.fixture
def encoder(shared: TransformerText) -> TransformerText:
    return copy.deepcopy(shared)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    """Saved teachers of two widths, with a vocabulary of their own."""
    found = {}
    for dim in (16, 32):
        torch.manual_seed(dim)
        teacher = TransformerText.tiny(["snow and rain", *POSITIVES], layers=1, dim=dim, heads=2, ffn=24)
        space = Space({"text": teacher})
        found[dim] = str(space.save(tmp_path_factory.mktemp("teacher") / "space"))
    return found


def prepared(method: SCT, *columns: list[str]) -> Batch:
    rows = dict(zip(("text", "positive"), columns, strict=False))
    return method.prepare(rows, torch.Generator().manual_seed(0))


def waves(frequency: float, rows: int) -> Tensor:
    """A fixed float64 matrix [rows, 4]."""
    return torch.sin(torch.arange(4 * rows, dtype=torch.float64) * frequency + frequency).view(rows, 4)


def small(**settings: Any) -> SCT:
    """Of width 4, with fixed rows in its queues of six."""
    encoder = TransformerText.tiny(TEXTS, layers=1, dim=4, heads=2, ffn=8, max_length=16)
    method = SCT(encoder, queue=6, **settings).double()
    for view, frequency in ((1, 0.9), (2, 2.1)):
        method.queues[f"own {view}"].rows.copy_(normalize(waves(frequency, 6)))
    return method


X = (waves(1.3, 5), waves(0.7, 5))


def views(students: tuple[Tensor, Tensor] | None = None) -> dict[str, Tensor]:
    """Embeddings of five texts; the student's are the references' after a map that stands for the head."""
    one, two = students or (normalize(torch.cos(2 * X[0])), normalize(torch.cos(2 * X[1])))
    references = {f"own reference {view}": normalize(x) for view, x in enumerate(X, 1)}
    return {"own student 1": one, "own student 2": two, **references}


# -- the loss --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reference", "student", "released"), [(0.03, 0.04, 53.37458300873979), (0.2, 0.5, 4.759329666011883)]
)
def test_loss_and_queues_are_those_of_the_released_code(
    reference: float, student: float, released: float
) -> None:
    """The numbers were had from `SCTLoss.forward` of mrpeerat/SCT on these matrices."""
    method = small(reference_temperature=reference, temperature=student)
    before = [method.queues[f"own {view}"].rows.clone() for view in (1, 2)]
    z = views()
    assert float(total(method.contrast(z, {}))) == pytest.approx(released, rel=1e-9)
    assert all(
        torch.equal(method.queues[f"own {v}"].rows, rows) for v, rows in zip((1, 2), before, strict=True)
    )
    method.after_step(z, 0, 1)
    for view, rows in zip((1, 2), before, strict=True):
        kept = torch.cat([rows, z[f"own reference {view}"]])[5:]
        found = method.queues[f"own {view}"].rows
        assert torch.equal(found.sort(dim=0).values, kept.sort(dim=0).values), "the last six, in any order"


def test_each_reference_teaches_the_other_view_and_learns_nothing() -> None:
    method = small()
    given = {name: value.clone().requires_grad_() for name, value in views().items()}
    terms = method.contrast(given, {})
    assert list(terms) == ["own 1 to 2", "own 2 to 1"]
    for name, student, other in (("own 1 to 2", 2, 1), ("own 2 to 1", 1, 2)):
        found = torch.autograd.grad(terms[name], list(given.values()), allow_unused=True)
        gradient = dict(zip(given, found, strict=True))
        assert gradient[f"own student {student}"].abs().sum() > 1e-3
        assert all(gradient[key] is None for key in given if key != f"own student {student}")
        changed = {**views(), f"own reference {student}": normalize(waves(3.1, 5))}
        assert torch.equal(method.contrast(changed, {})[name], terms[name])
        changed = {**views(), f"own reference {other}": normalize(waves(3.1, 5))}
        assert not torch.allclose(method.contrast(changed, {})[name], terms[name])


def test_the_batch_itself_is_among_the_keys_and_each_view_has_its_own_queue() -> None:
    method, z = small(reference_temperature=0.2, temperature=0.5), views()
    terms = method.contrast(z, {})

    def by_hand(view: int, keys: Tensor) -> Tensor:
        p = (z[f"own reference {view}"] @ keys.T / 0.2).softmax(1)
        q = (z[f"own student {3 - view}"] @ keys.T / 0.5).softmax(1)
        return (p * (p / q).log()).sum(1).mean()

    for view in (1, 2):
        queue, reference = method.queues[f"own {view}"].rows, z[f"own reference {view}"]
        name = f"own {view} to {3 - view}"
        torch.testing.assert_close(terms[name], by_hand(view, torch.cat([queue, reference])))
        assert not torch.allclose(terms[name], by_hand(view, queue), rtol=1e-2)
        other = method.queues[f"own {3 - view}"].rows
        assert not torch.allclose(terms[name], by_hand(view, torch.cat([other, reference])), rtol=1e-2)


def test_equal_views_without_dropout_and_head_have_nothing_to_learn(encoder: TransformerText) -> None:
    method = SCT(encoder, queue=12, temperature=0.03)
    calm(method)
    method.heads["own"] = nn.Identity()
    method.queues["own 2"].load_state_dict(method.queues["own 1"].state_dict())
    terms = method.train().loss(prepared(method, TEXTS))
    assert all(float(term.detach()) == pytest.approx(0, abs=1e-4) for term in terms.values())
    assert max(float(g.abs().max()) for g in _after_backward(method, terms).values()) < 1e-2
    surer = SCT(encoder, queue=12)  # the paper's: the reference is surer than the student may be
    calm(surer)
    surer.heads["own"] = nn.Identity()
    assert float(total(surer.train().loss(prepared(surer, TEXTS))).detach()) > 0.01


def _after_backward(method: SCT, terms: dict[str, Tensor]) -> dict[str, Tensor]:
    total(terms).backward()
    return gradients(method)


def test_defaults_are_the_papers_for_its_smallest_encoder(encoder: TransformerText) -> None:
    defaults = {k: p.default for k, p in inspect.signature(SCT.__init__).parameters.items()}
    assert (defaults["reference_temperature"], defaults["temperature"]) == (0.03, 0.04)
    assert (defaults["queue"], defaults["teacher"]) == (131_072, "none")
    method = SCT(encoder, queue=8)
    assert encoder.pooling == "mean"
    assert [tuple(layer.weight.shape) for layer in method.heads["own"].map[::3]] == [(320, 32)] * 3
    assert method.negatives(128) == 0


# -- the views -------------------------------------------------------------------------------------


def test_references_are_the_same_network_without_its_head(encoder: TransformerText) -> None:
    method = SCT(encoder, queue=8).train()
    calm(method)
    z = method.embed(prepared(method, TEXTS, POSITIVES))
    for view, column in ((1, TEXTS), (2, POSITIVES)):
        pooled = encoder(encoder.prepare(column)).pooled
        torch.testing.assert_close(z[f"own reference {view}"], normalize(pooled), rtol=1e-4, atol=1e-5)
        headed = normalize(method.heads["own"](pooled))
        torch.testing.assert_close(z[f"own student {view}"], headed, rtol=1e-3, atol=1e-4)
        assert not z[f"own reference {view}"].requires_grad
        assert z[f"own student {view}"].requires_grad


@pytest.mark.parametrize("columns", [1, 2])
def test_every_encoding_has_a_dropout_mask_of_its_own(encoder: TransformerText, columns: int) -> None:
    method = SCT(encoder, queue=8).train()
    method.heads["own"] = nn.Identity()
    same = ["snow fell on the old town"] * 3
    z = method.embed(prepared(method, *[same] * columns))
    rows = torch.cat(list(z.values())).detach()
    assert rows.shape == (12, 32)
    assert float((torch.cdist(rows, rows) + torch.eye(12)).min()) > 1e-3


def test_a_plain_text_needs_dropout_for_its_two_views(encoder: TransformerText) -> None:
    method = SCT(encoder, queue=8).eval()
    with pytest.raises(ArgumentError, match="evaluation mode"):
        method.embed(prepared(method, TEXTS))
    assert set(method.embed(prepared(method, TEXTS, POSITIVES))) == set(views())


def test_queues_fill_with_the_references_of_their_own_view(encoder: TransformerText) -> None:
    method = SCT(encoder, queue=8).train()
    calm(method)
    start = {name: queue.rows.clone() for name, queue in method.queues.items()}
    z = method.embed(prepared(method, TEXTS, POSITIVES))
    table = Table.from_columns({"text": TEXTS, "positive": POSITIVES})
    train(method, table, Settings(steps=1, batch_size=5, on_collapse="warn"))
    for name, queue in method.queues.items():
        assert torch.equal(queue.rows[5:], start[name][5:])
        apart = torch.cdist(queue.rows[:5], z[name.replace(" ", " reference ")])
        assert float(apart.min(dim=1).values.max()) < 1e-3, "the rows of this view, as the table was shuffled"
    assert not torch.allclose(*(queue.rows[:5] for queue in method.queues.values()), atol=1e-2)


def test_the_head_is_for_training_only(encoder: TransformerText) -> None:
    method = SCT(encoder, queue=8).train()
    assert method.space().heads == {}
    pooled = encoder.eval()(encoder.prepare(TEXTS)).pooled
    np.testing.assert_allclose(method.space().encode(TEXTS), normalize(pooled).detach().numpy(), atol=1e-5)


@pytest.mark.parametrize(
    "columns", [{"text": ODD}, {"text": ODD, "positive": ODD[::-1]}, {"text": ["a"] * 8}]
)
def test_odd_texts_and_copies_train(encoder: TransformerText, columns: dict[str, list[str]]) -> None:
    method = SCT(encoder, queue=8)
    settings = Settings(steps=3, batch_size=4, learning_rate=1e-3, on_collapse="warn")
    run = train(method, Table.from_columns(columns), settings)
    assert np.isfinite(run.losses).all()


# -- a teacher -------------------------------------------------------------------------------------


def test_a_teacher_is_read_in_its_own_words_without_dropout_or_gradient(
    encoder: TransformerText, folders: dict[int, str]
) -> None:
    method = SCT(encoder, teacher=folders[16], queue=8).train()
    teacher = method.teacher
    assert teacher is not None
    assert method.encoder.training
    assert not any(part.training for part in teacher.modules())
    batch = prepared(method, TEXTS, POSITIVES)
    assert not torch.equal(batch["teacher text"]["ids"], batch["text"]["ids"])
    z = method.embed(batch)
    for view, column in ((1, TEXTS), (2, POSITIVES)):
        expected = normalize(teacher.model(teacher.model.prepare(column)).pooled)
        torch.testing.assert_close(z[f"teacher reference {view}"], expected, rtol=1e-4, atol=1e-5)
    total(method.contrast(z, {})).backward()
    learned = gradients(method)
    assert not [name for name in learned if name.startswith("teacher")]
    assert not any(p.requires_grad for p in teacher.parameters())
    assert {name for name, p in method.named_parameters() if p.requires_grad} == set(learned)


def test_the_losses_of_both_references_add_up_or_the_teacher_teaches_alone(
    encoder: TransformerText, folders: dict[int, str]
) -> None:
    both = SCT(copy.deepcopy(encoder), teacher=folders[16], queue=8, self_weight=0.5).train()
    batch = prepared(both, TEXTS, POSITIVES)
    z = both.embed(batch)
    terms = both.contrast(z, batch)
    assert list(terms) == ["own 1 to 2", "own 2 to 1", "teacher 1 to 2", "teacher 2 to 1"]
    both.weights["own"] = 1.0
    for name, term in both.contrast(z, batch).items():
        torch.testing.assert_close(term * (0.5 if name.startswith("own") else 1.0), terms[name])
    alone = SCT(copy.deepcopy(encoder), teacher=folders[16], queue=8, self_weight=0).train()
    assert set(alone.loss(prepared(alone, TEXTS))) == {"teacher 1 to 2", "teacher 2 to 1"}
    assert set(alone.heads) == {"teacher"}


def test_a_map_to_the_teachers_width_stays_and_is_left_out_where_it_is_not_needed(
    encoder: TransformerText, folders: dict[int, str], tmp_path: Path
) -> None:
    method = SCT(copy.deepcopy(encoder), teacher=folders[16], queue=8).train()
    train(method, Table.from_columns({"text": TEXTS}), Settings(steps=2, batch_size=4, on_collapse="warn"))
    space = method.space()
    found = space.encode(TEXTS)
    assert found.shape == (5, 16)
    pooled = method.encoder.eval()(method.encoder.prepare(TEXTS)).pooled
    expected = normalize(torch.tanh(method.heads["teacher"].map[0](pooled))).detach().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    again = Space.load(space.save(tmp_path / "space"))
    assert np.array_equal(again.encode(TEXTS), found)
    twin = SCT(copy.deepcopy(encoder), teacher=folders[16], queue=8)
    twin.load_state_dict(method.state_dict())
    assert np.array_equal(twin.space().encode(TEXTS), found)
    assert SCT(copy.deepcopy(encoder), teacher=folders[32], queue=8).space().heads == {}


@pytest.mark.parametrize("width", [16, 32])
def test_a_teacher_that_kept_its_head_teaches_with_its_embeddings(
    encoder: TransformerText, width: int, tmp_path: Path
) -> None:
    torch.manual_seed(2)
    teacher = TransformerText.tiny(POSITIVES, layers=1, dim=16, heads=2, ffn=24)
    head = Projection(16, width, kind="tanh")
    space = Space({"text": teacher}, {"text": head})
    method = SCT(encoder, teacher=str(space.save(tmp_path / "space")), queue=8).train()
    z = method.embed(prepared(method, TEXTS, POSITIVES))
    for view, column in ((1, TEXTS), (2, POSITIVES)):
        found = z[f"teacher reference {view}"].numpy()
        np.testing.assert_allclose(found, space.encode(column), atol=1e-5)
    assert method.queues["teacher 1"].rows.shape == (8, width)
    assert ("text" in method.space().heads) == (width != encoder.dim)
    total(method.contrast(z, {})).backward()
    assert not [name for name in gradients(method) if name.startswith("teacher")]


def test_a_teacher_must_be_an_encoder_of_texts(encoder: TransformerText, tmp_path: Path) -> None:
    space = Space({"text": RecurrentText.fitted(TEXTS)})
    with pytest.raises(ArgumentError, match="RecurrentText"):
        SCT(encoder, teacher=str(space.save(tmp_path / "space")), queue=8)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"teacher": "tiny"}, "knows nothing"),
        ({"teacher": "no such folder"}, "no such folder"),
        ({"self_weight": 0}, "name a teacher"),
        ({"self_weight": -1}, "self_weight"),
        ({"queue": 0}, "queue"),
        ({"temperature": 0}, "temperature"),
        ({"reference_temperature": 0}, "reference_temperature"),
    ],
)
def test_what_cannot_be_is_refused(encoder: TransformerText, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        SCT(encoder, **{"queue": 8, **settings})
