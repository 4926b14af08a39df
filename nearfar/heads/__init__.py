"""Heads: what stands on an encoder, and how a head is built again from a file.

A head that a space may keep is an `nn.Module` with `settings() -> dict` whose entry "class" names it; its
weights are its state dict. Its constructor takes the entry "dims" by position and all others by name. It is
found by its name in the files of this room, decoders included.
"""

from __future__ import annotations

import ast
import functools
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nearfar.classes import classes_of
from nearfar.errors import ArgumentError, ArtefactError

if TYPE_CHECKING:
    from torch import nn


def make_head(settings: Mapping[str, Any]) -> nn.Module:
    """Build the untrained head that `settings` describes.

    Raises:
        ArtefactError: the settings name no head of nearfar, or do not fit it.
    """
    rest = dict(settings)
    name = rest.pop("class", None)
    known = _heads()
    if name not in known:
        raise ArtefactError(f"a head of class {name!r} is unknown: nearfar has {', '.join(sorted(known))}")
    head = getattr(importlib.import_module(f"nearfar.heads.{known[name]}"), name)
    try:
        made: nn.Module = head(*rest.pop("dims", ()), **rest)
        return made
    except (TypeError, ArgumentError) as wrong:
        raise ArtefactError(f"the settings of the head {name} are broken: {wrong}") from None


@functools.cache
def _heads() -> dict[str, str]:
    """Classes of this room that have `settings`, and the module that each is in."""
    return {
        node.name: module
        for module, node in classes_of(Path(__file__).parent)
        if any(isinstance(part, ast.FunctionDef) and part.name == "settings" for part in node.body)
    }
