"""Selection takes the columns that the theory says are best."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowrank_optax import selection


@given(seed=st.integers(0, 10**6), m=st.integers(1, 6), n=st.integers(1, 7), data=st.data())
def test_top_by_l2_is_the_best_subset_of_columns(seed, m, n, data):
    rank = data.draw(st.integers(1, n))
    S = np.random.default_rng(seed).normal(size=(m, n)).astype(np.float32)
    scores = selection.column_scores(jnp.asarray(S), "l2")
    chosen = np.asarray(selection.Top("l2")(scores, rank, None))
    energy = np.sum(S.astype(np.float64) ** 2, axis=0)
    best = max(sum(energy[list(c)]) for c in itertools.combinations(range(n), rank))
    np.testing.assert_allclose(energy[chosen].sum(), best, rtol=1e-5)


@given(seed=st.integers(0, 10**6), n=st.integers(2, 50), data=st.data())
def test_indices_are_ascending_distinct_int32_and_batched(seed, n, data):
    rank = data.draw(st.integers(1, n))
    scores = np.random.default_rng(seed).integers(0, 3, size=(2, 3, n)).astype(np.float32)
    indices = selection.Top()(jnp.asarray(scores), rank, None)
    assert indices.shape == (2, 3, rank)
    assert indices.dtype == jnp.int32
    assert rank == 1 or np.diff(np.asarray(indices)).min() > 0
    kept = np.take_along_axis(scores, np.asarray(indices), -1)
    np.testing.assert_array_equal(np.sort(kept), np.sort(scores)[..., n - rank :])


def test_l1_and_l2_rank_differently_where_they_should():
    S = jnp.array([[1.0, 1.5], [1.0, 0.0]])
    assert selection.Top("l1")(selection.column_scores(S, "l1"), 1, None).tolist() == [0]
    assert selection.Top("l2")(selection.column_scores(S, "l2"), 1, None).tolist() == [1]


def test_an_unknown_selection_or_norm_is_explained():
    with pytest.raises(ValueError, match="select='best' is unknown; use one of"):
        selection.resolve("best")
    with pytest.raises(ValueError, match="norm='l3' is unknown; use one of"):
        selection.Top("l3")
