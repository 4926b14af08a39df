"""The k best with ties in order, and the streaming top-k that mining uses."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfar.errors import ArgumentError
from nearfar.search.ranking import best_first, top_k


def brute_force(queries, keys, k, exclude=None):
    scores = (queries.double() @ keys.double().T).numpy()
    if exclude is not None:
        for row, hidden in enumerate(exclude.tolist()):
            scores[row, [i for i in hidden if i >= 0]] = -np.inf
    ids = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    values = np.take_along_axis(scores, ids, axis=1)
    return values, np.where(np.isinf(values), -1, ids)


@settings(max_examples=40, deadline=None)
@given(
    values=st.lists(
        st.one_of(
            st.floats(width=32, allow_nan=False, allow_infinity=False), st.sampled_from([0.0, -0.0, 1.0])
        ),
        min_size=1,
        max_size=30,
    ),
    data=st.data(),
)
def test_best_first_is_a_stable_descending_sort(values, data):
    k = data.draw(st.integers(1, len(values)))
    row = np.asarray(values, dtype=np.float32)
    scores, ids = best_first(torch.from_numpy(row)[None], torch.arange(len(row)), k)
    expected = np.argsort(-row, kind="stable")[:k]
    assert ids[0].tolist() == expected.tolist()
    assert scores[0].tolist() == row[expected].tolist()


def test_best_first_keeps_subnormal_and_extreme_floats_apart():
    tiny, huge = np.float32(1e-45), np.finfo(np.float32).max
    row = torch.tensor([[0.0, tiny, -tiny, huge, -huge, -torch.inf]])
    scores, ids = best_first(row, torch.arange(6), 6)
    assert ids[0].tolist() == [3, 1, 0, 2, 4, -1]
    assert scores[0, -1] == -torch.inf


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 9),
    st.integers(1, 40),
    st.integers(1, 12),
    st.integers(1, 7),
    st.integers(0, 3),
    st.integers(0, 99),
)
def test_top_k_equals_brute_force_whatever_the_chunk(q, m, k, chunk, hidden, seed):
    random = torch.Generator().manual_seed(seed)
    # Small integers: float32 sums are exact, so that ties are true ties.
    queries = torch.randint(-2, 3, (q, 4), generator=random).float()
    keys = torch.randint(-2, 3, (m, 4), generator=random).float()
    exclude = torch.randint(-1, m, (q, hidden), generator=random)
    scores, ids = top_k(queries, keys, k, exclude, chunk)
    expected_scores, expected_ids = brute_force(queries, keys, min(k, m), exclude)
    assert ids.tolist() == expected_ids.tolist()
    assert scores.tolist() == expected_scores.tolist()


def test_a_query_whose_keys_are_all_excluded_gets_none():
    scores, ids = top_k(torch.ones(1, 2), torch.ones(2, 2), 2, torch.tensor([[0, 1]]))
    assert ids.tolist() == [[-1, -1]]
    assert scores.tolist() == [[-np.inf, -np.inf]]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"k": 0}, "k and chunk"),
        ({"exclude": torch.tensor([[7]])}, "0 to 2"),
        ({"exclude": torch.tensor([7])}, r"\[1, E\]"),
        ({"keys": torch.ones(3, 5)}, "one width"),
        ({"keys": torch.tensor([[1.0, 2.0], [torch.nan, 0.0]])}, "row 2"),
    ],
)
def test_top_k_says_what_is_wrong(arguments, says):
    given_arguments = {"queries": torch.ones(1, 2), "keys": torch.ones(3, 2), "k": 1} | arguments
    with pytest.raises(ArgumentError, match=says):
        top_k(**given_arguments)
