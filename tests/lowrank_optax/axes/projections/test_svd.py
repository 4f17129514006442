"""Singular subspaces are the best ones, with signs that do not depend on the backend."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lowrank_optax as lro
from lowrank_optax.linalg.singular import METHODS

projections = lro.projections
every_method = pytest.mark.parametrize("method", METHODS)


def decaying(seed, m, n):
    """Singular values 1, 0.7, 0.49, …"""
    rng = np.random.default_rng(seed)
    U, V = (np.linalg.qr(rng.normal(size=(size, min(m, n))))[0] for size in (m, n))
    return jnp.asarray(U * 0.7 ** np.arange(min(m, n)) @ V.T, jnp.float32)


def refreshed(A, projection, rank, seed=0):
    old = jnp.zeros((*A.shape[:-2], A.shape[-1], rank))
    return projection.refresh(A, old, rank, jax.random.key(seed))


@every_method
@pytest.mark.parametrize("shape", [(40, 16), (16, 16), (12, 20)])
@pytest.mark.parametrize("rank", [1, 4])
def test_captured_energy_is_the_optimum(method, shape, rank):
    A = decaying(0, *shape)
    best = sum(0.7 ** (2 * k) for k in range(rank))
    total = sum(0.7 ** (2 * k) for k in range(min(shape)))
    captured = lro.diagnostics.captured_energy(A, projections.svd(rank, method=method))
    np.testing.assert_allclose(
        captured, best / total, rtol=2e-3 if method == "randomized" else 1e-5
    )


@every_method
def test_signs_are_canonical(method):
    A = decaying(1, 20, 9)
    P = refreshed(A, projections.svd(4, method=method), 4)
    np.testing.assert_array_equal(jnp.max(P, axis=0), jnp.max(jnp.abs(P), axis=0))
    np.testing.assert_allclose(
        refreshed(-A, projections.svd(4, method=method), 4), P, atol=1e-4, rtol=0
    )


def test_sampled_singular_vectors_are_singular_vectors_in_descending_order():
    A = decaying(2, 20, 9)
    all_of_them = refreshed(A, projections.svd(9), 9)
    drawn = set()
    for seed in range(4):
        P = refreshed(A, projections.svd(3, "importance"), 3, seed)
        match = jnp.abs(all_of_them.T @ P)
        np.testing.assert_allclose(jnp.max(match, axis=0), 1.0, atol=1e-4)
        columns = np.argmax(match, axis=0)
        assert (np.diff(columns) > 0).all()
        drawn.add(tuple(columns.tolist()))
    assert len(drawn) > 1


def test_hybrid_keeps_the_leading_vectors_and_candidates_bound_the_rest():
    A = decaying(3, 20, 9)
    leading = refreshed(A, projections.svd(9), 9)
    for seed in range(4):
        select = lro.selection.hybrid(2, candidates=5)
        P = refreshed(A, projections.svd(3, select), 3, seed)
        np.testing.assert_allclose(P[:, :2], leading[:, :2], atol=1e-4)
        assert np.argmax(jnp.abs(leading.T @ P[:, 2])) in (2, 3, 4)


def test_every_matrix_of_a_batch_draws_for_itself():
    A = jnp.broadcast_to(decaying(4, 10, 8), (6, 10, 8))
    P = refreshed(A, projections.svd(2, "uniform"), 2)
    assert len(np.unique(np.round(np.asarray(P), 3), axis=0)) > 2


@pytest.mark.parametrize("select", ["importance", "hybrid", "uniform"])
def test_sampling_more_vectors_than_there_are_rows_takes_all_rows(select):
    A = decaying(5, 3, 8)
    projection = projections.svd(6, select)
    P = refreshed(A, projection, 6)
    np.testing.assert_allclose(P.T @ P, jnp.eye(6), atol=1e-5)
    np.testing.assert_allclose(lro.diagnostics.captured_energy(A, projection, P), 1.0, rtol=1e-5)


def test_only_what_draws_at_random_asks_for_a_key():
    assert not projections.svd(2).stochastic
    assert projections.svd(2, method="randomized").stochastic
    assert projections.svd(2, "uniform").stochastic


def test_bad_arguments_are_explained():
    with pytest.raises(ValueError, match="method='lanczos' is unknown; use one of"):
        projections.svd(2, method="lanczos")
    with pytest.raises(ValueError, match="select='best' is unknown; use one of"):
        projections.svd(2, "best")
