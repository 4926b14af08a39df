"""Negatives that the encoder finds itself against those of BM25 and of chance, from one warm-up."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nearfar.batching.mining import Corpus, choose
from nearfar.data.source import cache_folder
from nearfar.data.table import Table
from nearfar.encoders.text import TransformerText
from nearfar.experiment import Claim, DataFolder, Experiment
from nearfar.measures.retrieval import ranking_metrics
from nearfar.method import Embed
from nearfar.methods.retrieval.ance import ANCE
from nearfar.recipes.b3 import questions, student, tables
from nearfar.search import Index
from nearfar.space import Space
from nearfar.training.closed_form import embedding_of
from nearfar.training.settings import Settings
from nearfar.training.trainer import train
from nearfar.versions import own_code

ROWS, LENGTH = 4000, 24
"""Training pairs, and tokens read of a text."""
WARM_UP, STEPS, REFRESH = 250, 150, 50
BATCH, SEEDS = 32, 3
SETTINGS: dict[str, Any] = {"batch_size": BATCH, "learning_rate": 1e-3, "on_collapse": "warn"}
FALSE_HITS, ASKED = 100, 500
"""Hits, and training rows, by which negatives are held against what the encoder finds itself."""
NEVER = 10**9


def experiment(data: DataFolder) -> Experiment:
    """Docstrings find functions: 4,000 pairs, tested on modules held out, among the functions of both sides."""
    everything, test = tables()
    training = everything.select(np.sort(np.random.default_rng(0).permutation(len(everything))[:ROWS]))
    for seed in range(SEEDS):
        warmed(training, seed)  # before the arms, so that none of them pays for it

    def arm(make: type[ANCE] = ANCE, **changed: Any) -> Callable[[int], dict[str, float]]:
        def run(seed: int) -> dict[str, float]:
            made = after_warm_up(
                make, training, seed, **{"refresh_every": REFRESH, "warm_up": 0.0, **changed}
            )
            norm = gradient_norm(made, training, seed)
            train(made, training, Settings(steps=STEPS, seed=seed, **SETTINGS))
            return {
                **retrieved(made.space(), training, test),
                "negatives among own hits": share_of_own_hits(made, training),
                "gradient norm at the start": norm,
            }

        return run

    arms = {
        "random": arm(RandomNegatives),
        "bm25": arm(warm_up=1.0),
        "mined once": arm(refresh_every=NEVER),
        "ance": arm(),
    }
    own, norm = "negatives among own hits", "gradient norm at the start"
    return Experiment(
        data={"training": training.fingerprint, "test": test.fingerprint},
        arms=arms,
        claims=(
            Claim("ANCE beats negatives by BM25", "ance", "bm25", "mrr@10"),
            Claim("negatives by BM25 beat random ones", "bm25", "random", "mrr@10"),
            Claim("ANCE beats random negatives", "ance", "random", "mrr@10"),
            Claim("searching anew beats searching once", "ance", "mined once", "mrr@10"),
            Claim("ANCE beats negatives by BM25, by recall", "ance", "bm25", "recall@100"),
            Claim("ANCE's negatives are more of what the encoder finds than BM25's", "ance", "bm25", own),
            Claim(
                "ANCE's negatives are more of what the encoder finds than random ones", "ance", "random", own
            ),
            Claim("gradients of ANCE's negatives are larger than BM25's", "ance", "bm25", norm),
            Claim("gradients of ANCE's negatives are larger than random ones'", "ance", "random", norm),
        ),
        examples=dict.fromkeys(arms, BATCH * STEPS),
        seeds=SEEDS,
        deviations=(
            f"docstrings and Python functions, {ROWS:,} training pairs, {LENGTH} tokens, a two-layer encoder of "
            "width 128 from scratch with mean pooling in place of RoBERTa-base and its first token on MS MARCO",
            f"{WARM_UP} steps of warm-up with BM25 negatives, the same for all arms and not in their cost, then "
            f"{STEPS} steps with a search every {REFRESH}; batches of {BATCH}, AdamW at 1e-3 in place of LAMB",
            "negatives are mined among the functions of the training pairs, not among those of held-out modules",
            f"overlap is the share of a row's last negatives among the encoder's own best {FALSE_HITS} false hits "
            f"for it at the end, over {ASKED} training rows",
        ),
        packages=("faiss-cpu", "bm25s"),
    )


class RandomNegatives(ANCE):
    """The baseline: n other functions by chance."""

    def refresh(self, table: Table, embed: Embed, step: int, steps: int) -> None:
        corpus, rows = Corpus.of(table, "text", "positive"), np.arange(len(table))
        random = np.random.default_rng(torch.initial_seed())
        found = random.integers(len(corpus), size=(len(table), 2 * self.n_neg))
        self.mined = choose(found, corpus, rows, self.n_neg, random)


def warmed(training: Table, seed: int) -> Path:
    """The folder of a space after the warm-up; trained at the first call and cached by code, data and settings."""
    code = own_code()
    identity = json.dumps([code, training.fingerprint, LENGTH, WARM_UP, SETTINGS, seed])
    place = cache_folder() / "warm-ups" / f"ance-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
    if not place.exists():
        torch.manual_seed(seed)
        encoder = student(training)
        encoder.set_max_length(LENGTH)
        made = ANCE(encoder, warm_up=1.0)
        train(made, training, Settings(steps=WARM_UP, seed=seed, **SETTINGS))
        made.space().save(place)
    return place


def after_warm_up(make: type[ANCE], training: Table, seed: int, **hyperparameters: Any) -> ANCE:
    """A method that goes on from the warm-up."""
    space = Space.load(warmed(training, seed))
    encoder = space.encoders["text"]
    assert isinstance(encoder, TransformerText)
    made = make(encoder, **hyperparameters)
    made.head.load_state_dict(space.heads["text"].state_dict())
    return made


def gradient_norm(made: ANCE, training: Table, seed: int, batches: int = 4) -> float:
    """Mean norm of the gradient of all parameters over batches with the method's negatives of the moment."""
    torch.manual_seed(seed)
    made.refresh(training, embedding_of(made), 0, STEPS)
    made.eval()
    rows = np.random.default_rng(0).permutation(len(training))[: batches * BATCH].reshape(batches, BATCH)
    norms = []
    for batch in rows:
        generator = torch.Generator().manual_seed(seed)
        prepared = made.prepare(made.examples(training, batch), generator)
        made.total(made.loss(prepared)).backward()
        norms.append(
            float(torch.nn.utils.get_total_norm([p.grad for p in made.parameters() if p.grad is not None]))
        )
        made.zero_grad(set_to_none=True)
    made.train()
    return float(np.mean(norms))


def share_of_own_hits(made: ANCE, training: Table) -> float:
    """Share of the last negatives that are among the best hits, without answers, of the encoder as it is."""
    assert made.mined is not None
    corpus, embed = Corpus.of(training, "text", "positive"), embedding_of(made)
    rows = np.sort(np.random.default_rng(0).permutation(len(training))[:ASKED])
    index = Index(embed(training.select(corpus.rows), "positive").numpy(), "dot")
    most_answers = int(np.bincount(corpus.answers // len(corpus)).max())
    found = index.search(embed(training.select(rows), "text").numpy(), FALSE_HITS + most_answers)[1]
    near = corpus.near(found, rows)
    shares = []
    for hits, answers, negatives in zip(found, near, made.mined[rows], strict=True):
        false = corpus.rows[hits[~answers][:FALSE_HITS]]
        shares.append(np.isin(negatives[negatives >= 0], false).mean())
    return float(np.mean(shares))


def retrieved(space: Space, training: Table, test: Table) -> dict[str, float]:
    """How held-out docstrings find their functions among those of both sides, by inner product."""
    corpus, wanted = questions(training, test)
    found = Index(space.encode(corpus), "dot").search(space.encode(list(wanted)), 100)[1]
    figures = ranking_metrics(found.tolist(), list(wanted.values()), ks=(10, 100))
    return {name: figures[name] for name in ("mrr@10", "ndcg@10", "recall@100")}
