"""A cached index is built once, and anew when the table or the space has changed."""

import numpy as np
import pytest

from nearfar.errors import ArgumentError
from nearfar.search import cached
from nearfar.search.cached import cached_index


class Letters:
    """The part of a Space that an index needs: texts to counts of letters. Counts its calls."""

    geometry = "cosine"

    def __init__(self, fingerprint="a" * 16):
        self.fingerprint, self.calls = fingerprint, 0

    def modality_for(self, role, cell, preferred=None):
        return "text"

    def encode(self, rows, modality=None):
        self.calls += 1
        return np.array([[row.count(letter) for letter in "abc"] for row in rows], dtype=np.float32)


class Words:
    """The part of a Table that an index needs."""

    kinds = {"text": object, "positive": object}

    def __init__(self, texts, fingerprint="1" * 16, name="some/notes.csv"):
        self.texts, self.fingerprint, self.name = texts, fingerprint, name

    def __len__(self):
        return len(self.texts)

    def rows(self, indices):
        return {role: [self.texts[i] for i in indices] for role in self.kinds}


TEXTS = ["aab", "bbc", "ccc", "abc"]


def folders(path):
    return sorted(place.name for place in path.iterdir())


def test_the_second_time_nothing_is_encoded(tmp_path):
    space, table = Letters(), Words(TEXTS)
    first = cached_index(space, table, "text", tmp_path)
    again = cached_index(space, table, "text", tmp_path)
    assert space.calls == 1
    assert folders(tmp_path) == [f"notes-csv-text-text-{'1' * 16}-{'a' * 16}"]
    query = np.array([[0, 0, 1.0]])
    assert first.search(query, 1)[1].tolist() == again.search(query, 1)[1].tolist() == [[2]]


@pytest.mark.parametrize(
    ("space", "table"), [(Letters("b" * 16), Words(TEXTS)), (Letters(), Words(["ccc", *TEXTS], "2" * 16))]
)
def test_a_changed_space_or_table_means_a_new_index_and_the_old_one_goes(tmp_path, space, table):
    cached_index(Letters(), Words(TEXTS), "text", tmp_path)
    index = cached_index(space, table, "text", tmp_path)
    assert space.calls == 1
    assert len(index) == len(table)
    assert folders(tmp_path) == [f"notes-csv-text-text-{table.fingerprint}-{space.fingerprint}"]


def test_other_tables_other_roles_and_foreign_folders_stay(tmp_path):
    space = Letters()
    cached_index(space, Words(TEXTS), "text", tmp_path)
    cached_index(space, Words(TEXTS), "positive", tmp_path)
    cached_index(space, Words(TEXTS, "3" * 16, name="other/notes.csv"), "text", tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "index.json").write_text("[]")
    (tmp_path / "notes.txt").write_text("mine")
    cached_index(space, Words(TEXTS[::-1], "4" * 16), "text", tmp_path)
    assert folders(tmp_path) == [
        "mine",
        f"notes-csv-positive-text-{'1' * 16}-{'a' * 16}",
        f"notes-csv-text-text-{'3' * 16}-{'a' * 16}",
        f"notes-csv-text-text-{'4' * 16}-{'a' * 16}",
        "notes.txt",
    ]


def test_a_damaged_index_is_built_anew(tmp_path):
    space, table = Letters(), Words(TEXTS)
    cached_index(space, table, "text", tmp_path)
    (place,) = tmp_path.iterdir()
    (place / "vectors.npy").write_bytes(b"nothing")
    assert len(cached_index(space, table, "text", tmp_path)) == 4
    assert space.calls == 2


def test_failing_half_way_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(cached, "_BLOCK", 2)
    with pytest.raises(ArgumentError, match=r"rows 3 to 4 of some/notes.csv: row 2 is all zeros"):
        cached_index(Letters(), Words(["aab", "bbc", "ccc", "xyz"]), "text", tmp_path)
    assert folders(tmp_path) == []


def test_blocks_join_into_the_index_of_all_rows(tmp_path, monkeypatch):
    whole = cached_index(Letters(), Words(TEXTS), "text", None)
    monkeypatch.setattr(cached, "_BLOCK", 3)
    np.testing.assert_array_equal(
        cached_index(Letters(), Words(TEXTS), "text", tmp_path).vectors, whole.vectors
    )


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cached_index(Letters(), Words(TEXTS), "text", None).made_from == {}
    assert folders(tmp_path) == []


def test_an_unknown_role_is_named():
    with pytest.raises(ArgumentError, match="no role 'caption'; it has text, positive"):
        cached_index(Letters(), Words(TEXTS), "caption", None)
