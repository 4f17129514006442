"""Random subspaces: orthonormal or an isometry in expectation, and new at every refresh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from subspaces import chosen

import lowrank_optax as lro

projections = lro.projections


def sample(kind, n, rank, draws, seed=0):
    projection = projections.random(rank, kind=kind)
    return np.asarray(chosen(projection, jnp.zeros((draws, n, 3)), rank, jax.random.key(seed)))


@pytest.mark.product(every=2)
@pytest.mark.parametrize("rank", [1, 3, 7])
def test_an_orthonormal_draw_is_orthonormal(rank):
    P = sample("orthonormal", 7, rank, 5)
    np.testing.assert_allclose(P.mT @ P, np.broadcast_to(np.eye(rank), (5, rank, rank)), atol=2e-6)


@pytest.mark.parametrize(("kind", "share"), [("gaussian", 1.0), ("orthonormal", 0.5)])
def test_the_mean_projector_is_a_multiple_of_the_identity(kind, share):
    P = sample(kind, 6, 3, 4000)
    mean = np.mean(P @ P.mT, axis=0)
    # Five standard errors of the entries with the largest variance, 2/3 on a Gaussian's diagonal.
    np.testing.assert_allclose(mean, share * np.eye(6), atol=5 * (2 / 3 / 4000) ** 0.5)


def test_every_key_gives_another_subspace_and_every_matrix_its_own():
    P, Q = sample("orthonormal", 8, 2, 2, seed=0), sample("orthonormal", 8, 2, 2, seed=1)
    overlap = jax.jit(lro.diagnostics.subspace_overlap)
    assert np.max(overlap(P, Q)) < 0.99
    assert float(overlap(P[0], P[1])) < 0.99
    np.testing.assert_array_equal(P, sample("orthonormal", 8, 2, 2, seed=0))


def test_bad_arguments_are_explained():
    with pytest.raises(ValueError, match="kind='sparse' is unknown; use one of"):
        projections.random(2, kind="sparse")
