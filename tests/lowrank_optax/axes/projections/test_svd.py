"""Singular subspaces are the best ones, with signs that do not depend on the backend."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawing import decaying
from subspaces import chosen

import lowrank_optax as lro
from lowrank_optax.linalg.singular import METHODS

projections = lro.projections
every_method = pytest.mark.parametrize("method", METHODS)


@pytest.mark.product
@every_method
@pytest.mark.parametrize("shape", [(16, 40), (16, 16), (20, 12)])
@pytest.mark.parametrize("rank", [1, 4])
def test_captured_energy_is_the_optimum(method, shape, rank):
    A, _ = decaying(shape)
    best = sum(0.7 ** (2 * k) for k in range(rank))
    total = sum(0.7 ** (2 * k) for k in range(min(shape)))
    projection = projections.svd(rank, method=method)
    captured = jax.jit(lambda A: lro.diagnostics.captured_energy(A, projection))(A)
    np.testing.assert_allclose(
        captured, best / total, rtol=2e-3 if method == "randomized" else 1e-5
    )


@every_method
def test_signs_are_canonical(method):
    A, _ = decaying((9, 20), 1)
    projection = projections.svd(4, method=method)
    P, of_minus = (np.asarray(chosen(projection, X, 4)) for X in (A, -A))
    np.testing.assert_array_equal(np.max(P, axis=0), np.max(np.abs(P), axis=0))
    np.testing.assert_allclose(of_minus, P, atol=1e-4, rtol=0)


def test_sampled_singular_vectors_are_singular_vectors_in_descending_order():
    A, U = decaying((9, 20), 2)
    drawn = set()
    for seed in range(4):
        P = chosen(projections.svd(3, "importance"), A, 3, jax.random.key(seed))
        match = np.abs(np.asarray(U).T @ np.asarray(P))
        np.testing.assert_allclose(np.max(match, axis=0), 1.0, atol=1e-4)
        columns = np.argmax(match, axis=0)
        assert (np.diff(columns) > 0).all()
        drawn.add(tuple(columns.tolist()))
    assert len(drawn) > 1


def test_hybrid_keeps_the_leading_vectors_and_candidates_bound_the_rest():
    A, _ = decaying((9, 20), 3)
    select = lro.selection.hybrid(2, candidates=5)
    leading = np.asarray(chosen(projections.svd(9), A, 9))
    for seed in range(4):
        P = np.asarray(chosen(projections.svd(3, select), A, 3, jax.random.key(seed)))
        np.testing.assert_allclose(P[:, :2], leading[:, :2], atol=1e-4)
        assert np.argmax(np.abs(leading.T @ P[:, 2])) in (2, 3, 4)


def test_every_matrix_of_a_batch_draws_for_itself():
    A = jnp.broadcast_to(decaying((8, 10), 4)[0], (6, 8, 10))
    P = chosen(projections.svd(2, "uniform"), A, 2)
    assert len(np.unique(np.round(np.asarray(P), 3), axis=0)) > 2


@pytest.mark.product(every=2)
@pytest.mark.parametrize("select", ["importance", "hybrid", "uniform"])
def test_sampling_more_vectors_than_the_rank_of_the_matrix_takes_all_it_has(select):
    A, _ = decaying((8, 3), 5)
    projection = projections.svd(6, select)

    @jax.jit
    def program(A):
        P = chosen(projection, A, 6)
        return P, lro.diagnostics.captured_energy(A, projection, P)

    P, captured = jax.device_get(program(A))
    np.testing.assert_allclose(P.T @ P, np.eye(6), atol=1e-5)
    np.testing.assert_allclose(captured, 1.0, rtol=1e-5)


def test_bad_arguments_are_explained():
    with pytest.raises(ValueError, match="method='lanczos' is unknown; use one of"):
        projections.svd(2, method="lanczos")
    with pytest.raises(ValueError, match="select='best' is unknown; use one of"):
        projections.svd(2, "best")
