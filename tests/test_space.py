"""A space is what was saved, bit for bit; a folder that is incomplete, altered or unsafe is no space."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from samples import text_space, tiny_text

from nearfar.encoders.vector import MLPVector
from nearfar.errors import ArgumentError, ArtefactError
from nearfar.heads.projection import Projection
from nearfar.space import Space, refuse_executables

TEXTS = ["the cat sat on the mat", "a dog", "the dog and the cat", "rain in the valley", "a mat"]
VECTORS = np.random.default_rng(0).standard_normal((7, 4)).astype(np.float32)


def vector_space(geometry: str = "cosine", seed: int = 0) -> Space:
    torch.manual_seed(seed)
    head = Projection(6, 8, 5, kind="mlp_bn")  # its batch norm has a counter without any dimension
    return Space({"vector": MLPVector(4, 8, 6)}, {"vector": head}, geometry, card={"source": "test"})


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vector_space().save(tmp_path_factory.mktemp("spaces") / "vectors")


@pytest.fixture(scope="module")
def saved_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Space({"text": tiny_text(TEXTS)}).save(tmp_path_factory.mktemp("spaces") / "texts")


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    """A saved space that a test may damage."""
    return Path(shutil.copytree(saved, tmp_path / "copy"))


# -- saving and loading ----------------------------------------------------------------------------


@pytest.mark.parametrize("geometry", ["cosine", "dot", "euclidean"])
def test_what_is_loaded_is_what_was_saved(geometry: str, tmp_path: Path) -> None:
    space = vector_space(geometry)
    loaded = Space.load(space.save(tmp_path / "space"))
    assert np.array_equal(loaded.encode(VECTORS), space.encode(VECTORS))
    assert loaded.fingerprint == space.fingerprint
    assert (loaded.geometry, loaded.modalities, loaded.card) == (geometry, ["vector"], {"source": "test"})
    again = loaded.save(tmp_path / "again")
    for file in (tmp_path / "space").rglob("*.*"):
        assert (again / file.relative_to(tmp_path / "space")).read_bytes() == file.read_bytes(), file


def test_two_modalities_keep_their_own_encoders_and_heads(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoders = {"text": tiny_text(TEXTS), "vector": MLPVector(4, 8, 6)}
    space = Space(encoders, {"text": Projection(16, 3), "vector": Projection(6, 3, kind="tanh")}, "dot")
    loaded = Space.load(space.save(tmp_path / "space"))
    assert loaded.modalities == ["text", "vector"]
    assert np.array_equal(loaded.encode(TEXTS, "text"), space.encode(TEXTS, "text"))
    assert np.array_equal(loaded.encode(VECTORS, "vector"), space.encode(VECTORS, "vector"))
    assert loaded.modality_for("positive", VECTORS[0]) == "vector"
    with pytest.raises(ArgumentError, match="modality must be one of text, vector, not None"):
        loaded.encode(TEXTS)
    with pytest.raises(ArgumentError, match=r"cannot read column role 'photo' \(float\)"):
        loaded.modality_for("photo", 1.5)


def test_parts_are_saved_with_the_space_and_belong_to_its_fingerprint(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = MLPVector(4, 8, 6)
    space = Space({"vector": encoder}, parts={"detector": Projection(6, 2), "codes": Projection(6, 9)})
    loaded = Space.load(space.save(tmp_path / "space"))
    assert list(loaded.parts) == ["detector", "codes"]
    for name, part in space.parts.items():
        for key, tensor in part.state_dict().items():
            assert torch.equal(loaded.parts[name].state_dict()[key], tensor)
    assert Space({"vector": encoder}).fingerprint != space.fingerprint == loaded.fingerprint
    with torch.no_grad():
        next(space.parts["codes"].parameters())[0, 0] += 1
    assert space.fingerprint != loaded.fingerprint


def test_the_fingerprint_follows_weights_and_geometry_and_nothing_else(saved: Path) -> None:
    space = vector_space()
    first = space.fingerprint
    space.card["note"] = "another card"
    assert space.to("cpu") is space
    assert space.fingerprint == first == Space.load(saved).fingerprint
    assert vector_space("dot").fingerprint != first
    assert vector_space(seed=1).fingerprint != first
    assert Space(space.encoders).fingerprint != first, "a head that is gone"
    assert Space({"other": space.encoders["vector"]}, {"other": space.heads["vector"]}).fingerprint != first
    for module in (space.encoders["vector"], space.heads["vector"]):
        with torch.no_grad():
            weight = next(module.parameters()).view(-1)
            weight[0] = torch.nextafter(weight[0], torch.tensor(1e9))
        assert space.fingerprint != first
        first = space.fingerprint


def test_a_space_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    class Unsavable(MLPVector):
        def save(self, folder: Path) -> None:
            super().save(folder)
            raise OSError("no space left on device")

    folder = vector_space().save(tmp_path / "space")
    before = Space.load(folder).fingerprint
    with pytest.raises(ArtefactError, match="exists already"):
        vector_space(seed=1).save(folder)
    with pytest.raises(OSError, match="no space left"):
        Space({"vector": Unsavable(4)}).save(folder, overwrite=True)
    assert Space.load(folder).fingerprint == before
    assert [place.name for place in tmp_path.iterdir()] == ["space"]
    vector_space(seed=1).save(folder, overwrite=True)
    assert Space.load(folder).fingerprint == vector_space(seed=1).fingerprint != before


# -- what is refused -------------------------------------------------------------------------------


def test_a_space_that_lacks_any_file_is_refused(saved: Path, saved_text: Path, tmp_path: Path) -> None:
    needed = {"space.json", "encoder.json", "model.safetensors", "vector-head.safetensors", "config.json",
              "tokenizer.json"}  # fmt: skip
    seen = set()
    for whole in (saved, saved_text):
        for file in (
            path for path in whole.rglob("*") if path.name in needed and "_" not in path.parent.name
        ):
            seen.add(file.name)
            half = Path(shutil.copytree(whole, tmp_path / f"{whole.name}-without-{file.name}"))
            (half / file.relative_to(whole)).unlink()
            with pytest.raises(ArtefactError, match=half.name):
                Space.load(half)
    assert seen == needed


def test_an_unfinished_run_is_no_space(copy: Path) -> None:
    (copy / "space.json").rename(copy / "run.json")
    with pytest.raises(ArtefactError, match=r"not finished.*--resume"):
        Space.load(copy)


@pytest.mark.parametrize("file", ["vector/model.safetensors", "vector-head.safetensors"])
def test_changed_weights_are_refused(copy: Path, file: str) -> None:
    weights = load_file(copy / file)
    name = next(name for name, tensor in weights.items() if tensor.ndim == 2)
    weights[name][0, 0] += 1e-6
    save_file(weights, copy / file)
    with pytest.raises(ArtefactError, match="was changed after it was saved"):
        Space.load(copy)


@pytest.mark.parametrize("file", ["vector/model.safetensors", "vector-head.safetensors", "space.json"])
def test_cut_off_files_are_refused(copy: Path, file: str) -> None:
    content = (copy / file).read_bytes()
    (copy / file).write_bytes(content[: len(content) // 2])
    with pytest.raises(ArtefactError, match=copy.name):
        Space.load(copy)


class Payload:
    """Unpickling it creates a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


def pickled(protocol: int) -> Callable[[Any, Path], None]:
    return lambda value, file: file.write_bytes(pickle.dumps(value, protocol)) and None


def zipped(value: Any, file: Path) -> None:
    torch.save(value, file)


def legacy(value: Any, file: Path) -> None:
    torch.save(value, file, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("length", [640, 896, 1152, 1408])
def test_safetensors_that_start_like_a_pickle_are_none(length: int, tmp_path: Path) -> None:
    """The length of the header comes first: 896 is 80 03, the mark of protocol 3."""
    file = tmp_path / "weights.safetensors"
    for filler in range(length):
        save_file({"x": torch.ones(2)}, file, {"filler": "." * filler})
        if int.from_bytes(file.read_bytes()[:8], "little") == length:
            break
    assert file.read_bytes()[:1] == b"\x80"
    refuse_executables(tmp_path)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("README.md", pickled(0)),
        ("vector/notes.txt", pickled(1)),
        ("vector/weights", pickled(2)),
        ("indexes/more.safetensors", pickled(3)),
        ("1_Pooling/config.json", pickled(4)),
        (".hidden", pickled(5)),
        ("vector/adapter.safetensors", zipped),
        ("data", legacy),
    ],
)
def test_a_pickle_is_refused_whatever_its_name(
    copy: Path, tmp_path: Path, name: str, write: Callable[[Any, Path], None]
) -> None:
    (copy / name).parent.mkdir(exist_ok=True)
    write(Payload(tmp_path / "executed"), copy / name)
    with pytest.raises(ArtefactError, match=f"{Path(name).name} could execute code"):
        Space.load(copy)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "suffix", [".bin", ".pt", ".pth", ".ckpt", ".PKL", ".pickle", ".joblib", ".py", ".so"]
)
def test_names_of_things_that_execute_are_refused_whatever_is_in_them(copy: Path, suffix: str) -> None:
    (copy / "vector" / f"harmless{suffix}").write_text("nothing")
    with pytest.raises(ArtefactError, match=f"harmless{suffix} could execute code"):
        Space.load(copy)


def test_what_stands_beside_a_space_by_right_is_no_pickle(copy: Path) -> None:
    (copy / "indexes").mkdir()
    np.save(copy / "indexes" / "vectors.npy", VECTORS)
    (copy / "log.csv").write_text("step,loss\n1,2.5\n")
    (copy / "README.md").write_text("# A space\n\nMade with care.\n")
    (copy / "empty").write_bytes(b"")
    (copy / "one-byte").write_bytes(b"\x80")
    assert Space.load(copy).fingerprint == vector_space().fingerprint


@pytest.mark.parametrize("place", ["..", "", ".", "../other/vector", "vector/../../other/vector", "ABSOLUTE"])
@pytest.mark.parametrize("where", ["encoder", "modality"])
def test_a_space_points_to_nothing_outside_of_its_folder(
    saved: Path, copy: Path, place: str, where: str
) -> None:
    other = Path(shutil.copytree(saved, copy.parent / "other"))  # all that is pointed to is there
    place = str(other / "vector") if place == "ABSOLUTE" else place
    description = json.loads((copy / "space.json").read_text())
    if where == "encoder":
        description["modalities"]["vector"]["encoder"] = place
    else:
        description["modalities"] = {place: description["modalities"]["vector"]}
    (copy / "space.json").write_text(json.dumps(description))
    with pytest.raises(ArtefactError, match="points outside of its folder"):
        Space.load(copy)


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("nested", [False, True])
def test_code_that_a_folder_brings_is_refused(
    saved_text: Path, tmp_path: Path, file: str, nested: bool
) -> None:
    folder = Path(shutil.copytree(saved_text, tmp_path / "space"))
    settings = json.loads((folder / "text" / file).read_text())
    asked = {"auto_map": {"AutoModel": "evil.Model"}}
    (folder / "text" / file).write_text(json.dumps(settings | ({"text_config": asked} if nested else asked)))
    with pytest.raises(ArtefactError, match="auto_map"):
        Space.load(folder)
    with pytest.raises(ArtefactError, match="auto_map"):
        Space.load(folder / "text")


def changed(**entries: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda description: description | entries


def without(name: str) -> Callable[[dict[str, Any]], Any]:
    return lambda description: {key: value for key, value in description.items() if key != name}


def with_head(**entries: Any) -> Callable[[dict[str, Any]], Any]:
    def change(description: dict[str, Any]) -> Any:
        description["modalities"]["vector"]["head"] |= entries
        return description

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed(format=2), "space format 2.*reads format 1: install the version that wrote it"),
        (without("format"), "space format None"),
        (changed(geometry="odd"), "geometry 'odd' is unknown"),
        (without("fingerprint"), "was changed after it was saved"),
        (without("card"), "cannot be read as a space"),
        (changed(modalities={}), "was changed after it was saved"),
        (changed(modalities=[1]), "cannot be read as a space"),
        (with_head(**{"class": "Popen"}), "head of class 'Popen' is unknown"),
        (with_head(dims=[6, 9, 5]), "cannot be read as a space"),
        (with_head(shell=True), "settings of the head Projection are broken"),
        (lambda description: [description], "no description of a space"),
    ],
)
def test_descriptions_that_do_not_fit_are_refused(
    copy: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    description = change(json.loads((copy / "space.json").read_text()))
    (copy / "space.json").write_text(json.dumps(description))
    with pytest.raises((ArtefactError, ArgumentError), match=message):
        Space.load(copy)


def test_the_encoder_is_one_of_those_known(copy: Path) -> None:
    (copy / "vector" / "encoder.json").write_text(json.dumps({"class": "os.system", "settings": {}}))
    with pytest.raises(ArtefactError, match=r"class 'os\.system': nearfar has"):
        Space.load(copy)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda e: Space({"vector": e}, geometry="odd"), "'odd' is unknown: one of cosine, dot, euclidean"),
        (lambda e: Space({"vector": e}, {"text": Projection(6, 3)}), r"heads for \['text'\]"),
    ],
)
def test_spaces_that_make_no_sense_are_refused(make: Callable[[MLPVector], Space], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        make(MLPVector(4, 8, 6))


# -- sentence-transformers -------------------------------------------------------------------------


@pytest.mark.parametrize(("pooling", "unit"), [("mean", True), ("cls", False)])
def test_a_folder_of_sentence_transformers_is_a_space(tmp_path: Path, pooling: str, unit: bool) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    encoder = tiny_text(TEXTS)
    encoder.model.save_pretrained(tmp_path / "plain")
    encoder.tokenizer.save_pretrained(tmp_path / "plain")
    parts: list[Any] = [Transformer(str(tmp_path / "plain")), Pooling(16, pooling_mode=pooling)]
    theirs = SentenceTransformer(modules=parts + [Normalize()] * unit, device="cpu")
    theirs.save(str(tmp_path / "theirs"))
    space = Space.load(tmp_path / "theirs")
    assert space.modalities == ["text"]
    np.testing.assert_allclose(space.encode(TEXTS, normalize=False), theirs.encode(TEXTS), atol=1e-6)
    assert np.array_equal(Space.load(space.save(tmp_path / "ours")).encode(TEXTS), space.encode(TEXTS))


def test_the_text_folder_of_a_space_is_one_of_sentence_transformers(saved_text: Path) -> None:
    from sentence_transformers import SentenceTransformer

    theirs = SentenceTransformer(str(saved_text / "text"), device="cpu")
    expected = theirs.encode(TEXTS, normalize_embeddings=True)
    np.testing.assert_allclose(Space.load(saved_text).encode(TEXTS), expected, atol=1e-6)


# -- encoding and scoring --------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_embeddings_come_in_the_order_of_the_rows(batch_size: int) -> None:
    space = Space({"text": tiny_text(TEXTS)})
    rows = [*TEXTS, TEXTS[0]]
    z = space.encode(rows, batch_size=batch_size)
    assert (z.dtype, z.shape) == (np.dtype(np.float32), (6, 16))
    one_by_one = np.concatenate([space.encode([row]) for row in rows])
    np.testing.assert_allclose(z, one_by_one, atol=1e-6)
    assert np.abs(one_by_one[:5, None] - one_by_one[None, :5]).sum(-1)[np.triu_indices(5, 1)].min() > 1e-3


@pytest.mark.parametrize(("geometry", "unit"), [("cosine", True), ("dot", False), ("euclidean", False)])
def test_length_one_where_the_geometry_is_cosine_unless_said(geometry: str, unit: bool) -> None:
    space = vector_space(geometry)
    scaled, raw = space.encode(VECTORS, normalize=True), space.encode(VECTORS, normalize=False)
    np.testing.assert_allclose(np.linalg.norm(scaled, axis=1), 1, atol=1e-6)
    assert np.abs(np.linalg.norm(raw, axis=1) - 1).max() > 0.01
    np.testing.assert_allclose(scaled, raw / np.linalg.norm(raw, axis=1, keepdims=True), atol=1e-6)
    assert np.array_equal(space.encode(VECTORS), scaled if unit else raw)


def test_encoding_is_without_dropout_and_leaves_the_modules_as_they_were() -> None:
    space = vector_space()
    expected = space.encode(VECTORS)
    encoder, head = space.encoders["vector"].train(), space.heads["vector"].eval()
    before = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    assert np.array_equal(space.encode(VECTORS), expected)
    assert encoder.training
    assert not head.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in head.state_dict().items())
    assert all(parameter.grad is None for parameter in encoder.parameters())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda space: space.encode([]), "nothing to encode"),
        (lambda space: space.encode("a single text"), "not one string"),
        (lambda space: space.encode(TEXTS, "image"), "modality must be one of text, not 'image'"),
        (lambda space: space.encode(["a", None]), "text 2 of 2 is NoneType"),
        (lambda space: space.encode(VECTORS), "text 1 of 7 is ndarray"),
        (lambda space: space.encode(TEXTS, batch_size=0), "batch_size must be at least 1, not 0"),
    ],
)
def test_rows_that_cannot_be_encoded_are_named(call: Callable[[Space], Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        call(Space({"text": tiny_text(TEXTS)}))


def test_rows_of_another_width_are_named() -> None:
    with pytest.raises(ArgumentError, match="row 1 of 7 has 3 numbers; this encoder takes 4"):
        vector_space().encode(VECTORS[:, :3])


def test_scores_are_higher_for_what_is_nearer() -> None:
    one, two = VECTORS, VECTORS[2:6]
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (one, two)]
    expected = {
        "cosine": unit[0] @ unit[1].T,
        "dot": one @ two.T,
        "euclidean": -((one[:, None] - two[None]) ** 2).sum(-1),
    }
    for geometry, wanted in expected.items():
        space = vector_space(geometry)
        scores = space.score(one, two)
        assert (scores.dtype, scores.shape) == (np.dtype(np.float32), (7, 4))
        np.testing.assert_allclose(scores, wanted, atol=1e-5)
        np.testing.assert_array_equal(space.score(torch.from_numpy(one), torch.from_numpy(two)), scores)
    for geometry in ("cosine", "euclidean"):
        assert (vector_space(geometry).score(one, one).argmax(1) == np.arange(7)).all()


def test_changed_settings_of_an_encoder_are_noticed(tmp_path: Path) -> None:
    """Another pooling or limit gives other embeddings, so neither the space nor its indexes may pass for the old."""
    space = text_space(["a cat by the barn", "rain over the valley"])
    before = space.fingerprint
    folder = space.save(tmp_path / "space")
    settings = folder / "text" / "encoder.json"
    changed = json.loads(settings.read_text(encoding="utf-8"))
    changed["settings"]["pooling"] = "cls" if changed["settings"]["pooling"] != "cls" else "mean"
    settings.write_text(json.dumps(changed), encoding="utf-8")
    with pytest.raises(ArtefactError, match="changed after it was saved"):
        Space.load(folder)
    space.encoders["text"].pooling = changed["settings"]["pooling"]
    assert space.fingerprint != before
