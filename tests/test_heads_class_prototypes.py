"""Prototypes of classes that come one after the other: what is added moves nothing, and a state brings its classes."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from nearfar.errors import ArgumentError, ArtefactError
from nearfar.heads import make_head
from nearfar.heads.class_prototypes import ClassPrototypes


def made() -> ClassPrototypes:
    torch.manual_seed(0)
    return ClassPrototypes(3, [["cat", "dog"], ["car"]])


def test_a_class_is_where_its_prototype_points_whatever_the_lengths() -> None:
    prototypes = made()
    prototypes.weight.data = torch.tensor([[9.0, 0.0, 0.0], [0.0, 0.1, 0.0], [0.0, 0.0, 1.0]])
    x = torch.tensor([[0.01, 0.0, 0.0], [2.0, 3.0, 0.0], [0.0, 1.0, 4.0]])
    assert prototypes.classify(x) == ["cat", "dog", "car"]
    assert prototypes.classify(x, ["cat", "dog"]) == ["cat", "dog", "dog"]
    assert prototypes.classify(x, ["car", "cat"])[1] == "cat"
    torch.testing.assert_close(prototypes(x)[1], torch.tensor([2.0, 3.0, 0.0]) / math.sqrt(13))


def test_adding_leaves_what_was_there_and_knows_a_class_again() -> None:
    prototypes = made()
    before, parameter = prototypes.weight.detach().clone(), prototypes.weight
    prototypes.add(["dog", "bus", "van"])
    assert prototypes.names == ["cat", "dog", "car", "bus", "van"]
    assert prototypes.groups == [["cat", "dog"], ["car"], ["bus", "van"]]
    assert prototypes.weight is parameter
    assert torch.equal(prototypes.weight[:3], before)
    assert (prototypes.weight[3:].norm(dim=1) > 0).all()
    prototypes.add(["cat"])
    assert len(prototypes.groups) == 3


def test_a_state_brings_its_classes_along(tmp_path: Path) -> None:
    """A checkpoint of later tasks loads into prototypes that know no class, through a file of tensors."""
    save_file(made().state_dict(), tmp_path / "state.safetensors")
    fresh = ClassPrototypes(3)
    parameter = fresh.weight
    fresh.load_state_dict(load_file(tmp_path / "state.safetensors"))
    assert fresh.groups == [["cat", "dog"], ["car"]]
    assert fresh.weight is parameter, "an optimiser that holds it must go on to move it"
    assert torch.equal(fresh.weight, made().weight)
    with pytest.raises(RuntimeError, match="size mismatch"):
        ClassPrototypes(4).load_state_dict(made().state_dict())


def test_it_is_made_again_from_its_settings() -> None:
    again = make_head(made().settings())
    again.load_state_dict(made().state_dict())
    assert again.classify(torch.eye(3)) == made().classify(torch.eye(3))
    with pytest.raises(ArtefactError, match="twice"):
        make_head({"class": "ClassPrototypes", "dims": [3], "groups": [["cat"], ["cat"]]})


def test_what_cannot_be_told_is_refused() -> None:
    with pytest.raises(ArgumentError, match="no prototype of bird"):
        made().classify(torch.eye(3), ["cat", "bird"])
    with pytest.raises(ArgumentError, match="any class"):
        ClassPrototypes(3).classify(torch.eye(3))
