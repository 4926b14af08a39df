"""Heads: what stands on an encoder, and how a head is built again from a file.

A head is an `nn.Module` with `settings() -> dict` whose entry "class" names it; its weights are its
state dict. Its constructor takes the entry "dims" by position and all others by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nearfar.errors import ArgumentError, ArtefactError

if TYPE_CHECKING:
    from torch import nn


def make_head(settings: Mapping[str, Any]) -> nn.Module:
    """Build the untrained head that `settings` describes.

    Raises:
        ArtefactError: the settings name no head of nearfar, or do not fit it.
    """
    from nearfar.heads.projection import Projection

    known = {head.__name__: head for head in (Projection,)}
    rest = dict(settings)
    name = rest.pop("class", None)
    if name not in known:
        raise ArtefactError(f"a head of class {name!r} is unknown: nearfar has {', '.join(known)}")
    try:
        return known[name](*rest.pop("dims", ()), **rest)
    except (TypeError, ArgumentError) as wrong:
        raise ArtefactError(f"the settings of the head {name} are broken: {wrong}") from None
