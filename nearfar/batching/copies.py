"""Which examples of a batch are copies of each other."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def text_ids(texts: Sequence[str]) -> Tensor:
    """A number for each text, equal for equal texts in every process and run: int64 [N]."""
    digests = [hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts]
    return torch.tensor([int.from_bytes(digest, "little", signed=True) for digest in digests])
