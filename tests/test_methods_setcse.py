"""SetCSE: what it pushes apart, and asking a space in operations on sets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from samples import text_space, write_csv

from nearfar.commandline.app import main
from nearfar.data.table import Table
from nearfar.encoders.text import TransformerText
from nearfar.errors import ArgumentError, TableError
from nearfar.methods.structure.setcse import SetCSE
from nearfar.objectives import set_repulsion, sup_con
from nearfar.search.sets import series
from nearfar.space import Space
from nearfar.training.settings import Settings
from nearfar.training.trainer import train
from nearfar.verbs.search import search_table

WORDS = {"fruit": ["apple", "pear", "plum", "cherry"], "tools": ["hammer", "saw", "drill", "wrench"]}
TEXTS = [
    f"the {word} is {much} good" for words in WORDS.values() for word in words for much in ("very", "not")
]
LABELS = [name for name, words in WORDS.items() for _ in range(2 * len(words))]


def table() -> Table:
    return Table.from_columns({"text": TEXTS, "label": LABELS})


def method(**given: object) -> SetCSE:
    torch.manual_seed(0)
    return SetCSE(TransformerText.tiny(TEXTS, max_length=16), **given)  # type: ignore[arg-type]


def test_the_loss_is_repulsion_alone_and_supervised_contrast_on_request() -> None:
    z, sets = torch.randn(6, 4), torch.tensor([0, 0, 1, 1, 2, 2])
    for made, wanted in (
        (method(), {"set_repulsion": set_repulsion(z, sets, temperature=0.05)}),
        (method(objective="sup_con", temperature=0.2), {"sup_con": sup_con(z, sets, temperature=0.2)}),
    ):
        found = made.contrast({"text": z}, {"label": sets})
        assert found.keys() == wanted.keys()
        for name in found:
            torch.testing.assert_close(found[name], wanted[name])
    assert (method().negatives(8), method(objective="sup_con").negatives(8)) == (0, 7)


def test_training_drives_the_sets_apart() -> None:
    made = method()
    before = made.space().encode(TEXTS)
    train(made, table(), Settings(steps=20, batch_size=len(TEXTS), learning_rate=1e-3, on_collapse="warn"))
    after = made.space().encode(TEXTS)
    n = len(TEXTS) // 2
    assert (after[:n] @ after[n:].T).mean() < (before[:n] @ before[n:].T).mean() - 0.2


def test_dropout_is_on_while_it_learns() -> None:
    made = method().train()
    batch = made.prepare({"text": TEXTS, "label": [0] * len(TEXTS)}, torch.Generator())
    assert not torch.equal(made.embed(batch)["text"], made.embed(batch)["text"])


def test_one_set_in_a_batch_is_refused() -> None:
    one = Table.from_columns({"text": TEXTS[:4], "label": ["a"] * 4})
    with pytest.raises(ArgumentError, match="all 4 rows are of one set"):
        train(method(), one, Settings(steps=1, batch_size=4))


# -- asking ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_space(TEXTS).save(tmp_path_factory.mktemp("spaces") / "space")


def test_a_table_is_asked_in_operations_on_sets(space: Path) -> None:
    loaded, sets = Space.load(space), {"fruit": TEXTS[:3], "tools": TEXTS[-3:]}
    [hits] = search_table(loaded, table(), ["near fruit without tools"], sets=sets, k=4)
    z = {name: loaded.encode(texts) for name, texts in sets.items()}
    scores, rows = series(loaded.encode(TEXTS), [z["fruit"]], [z["tools"]], 4)
    assert [hit.row for hit in hits] == (rows + 1).tolist()
    np.testing.assert_allclose([hit.score for hit in hits], scores, atol=1e-5)


def test_sets_come_from_files_on_the_command_line(
    space: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_csv(tmp_path / "pool.csv", ["text"], [(text,) for text in TEXTS])
    (tmp_path / "fruit.txt").write_text("\n".join(TEXTS[:3]) + "\n")
    (tmp_path / "tools.txt").write_text("\n".join(TEXTS[-3:]) + "\n")
    words = ["search", str(space), str(source), "fruit without tools", "-k", "3", "--json"]
    sets = ["--set", f"fruit={tmp_path}/fruit.txt", "--set", f"tools={tmp_path}/tools.txt"]
    assert main([*words, *sets]) == 0
    said = capsys.readouterr().out
    wanted = search_table(
        space, str(source), ["fruit without tools"], sets={"fruit": TEXTS[:3], "tools": TEXTS[-3:]}, k=3
    )
    assert all(f'"row": {hit.row},' in said for hit in wanted[0])


def test_what_is_wrong_with_sets_is_named(space: Path, tmp_path: Path) -> None:
    fruit = {"fruit": TEXTS[:2]}
    for query, sets, error, message in (
        ("fruit and tool", fruit, ArgumentError, "character 11: there is no set 'tool'"),
        ("fruit", {**fruit, "tools": TEXTS[-2:]}, ArgumentError, "no query names the set 'tools'"),
        ("fruit", {"fruit": []}, ArgumentError, "the set 'fruit' has no examples"),
        ("fruit", {"fruit": tmp_path / "none.txt"}, TableError, "set 'fruit': .*none.txt"),
    ):
        with pytest.raises(error, match=message):
            search_table(space, table(), [query], sets=sets)  # type: ignore[arg-type]
