"""Right singular vectors by three methods, for every shape and for bad matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawing import decaying

from lowrank_optax.linalg import singular
from lowrank_optax.linalg.singular import METHODS

KEY = jax.random.key(0)
# An eager call would compile every operation.
right_singular_vectors = jax.jit(singular.right_singular_vectors, static_argnums=(1, 2))


def halving(seed, *shape):
    """A matrix whose singular values fall by a factor of two each."""
    return np.asarray(decaying(shape, seed, factor=0.5)[0])


@pytest.mark.product
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(2, 14, 6), (5, 9)])
def test_vectors_and_values_are_the_leading_ones(method, shape):
    A = halving(0, *shape)
    V, s = map(np.asarray, right_singular_vectors(A, 3, method, KEY))
    np.testing.assert_allclose(s, np.broadcast_to(2.0 ** -np.arange(3), s.shape), rtol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(A @ V, axis=-2), s, rtol=1e-4)
    expected = np.broadcast_to(np.eye(3), (*shape[:-2], 3, 3))
    np.testing.assert_allclose(V.mT @ V, expected, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_more_vectors_than_rows_are_completed_to_an_orthonormal_basis(method):
    V, s = map(np.asarray, right_singular_vectors(halving(1, 3, 7), 5, method, KEY))
    assert (V.shape, s.shape) == ((7, 5), (5,))
    np.testing.assert_allclose(V.T @ V, np.eye(5), atol=1e-5)
    np.testing.assert_allclose(s, [1, 0.5, 0.25, 0, 0], atol=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_tiny_matrices_do_not_underflow(method):
    A = halving(2, 14, 6)
    _, s = right_singular_vectors(np.float32(1e-30) * A, 3, method, KEY)
    np.testing.assert_allclose(s, [1e-30, 0.5e-30, 0.25e-30], rtol=1e-4)


@pytest.mark.product
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_matrix_that_is_not_finite_gives_nan_for_itself_alone(method, bad):
    # The SVD of zeros with one infinity in the corner does not return.
    A = np.stack([np.zeros((6, 4), np.float32), halving(3, 6, 4)])
    A[0, 0, 0] = bad
    V, s = map(np.asarray, right_singular_vectors(A, 2, method, KEY))
    assert np.isnan(V[0]).any()
    assert not (s[0] > 0).any()
    np.testing.assert_allclose(s[1], [1, 0.5], rtol=1e-4)


@pytest.mark.parametrize(
    ("count", "key", "kernels"),
    [(3, None, {"syevd"}), (3, KEY, set()), (30, KEY, {"syevd"})],
)
def test_accelerators_decompose_gram_matrices_or_sketches_and_a_cpu_the_matrix(count, key, kernels):
    A = jax.ShapeDtypeStruct((64, 48), jnp.float32)
    function = jax.jit(lambda A: right_singular_vectors(A, count, key=key))
    texts = {
        platform: jax.export.export(function, platforms=[platform])(A).mlir_module()
        for platform in ["cpu", "cuda"]
    }
    assert "gesdd" in texts["cpu"]
    assert "syevd" not in texts["cpu"]
    assert {name for name in ["syevd"] if name in texts["cuda"]} == kernels
    # Of the sketch, 48 x 11, at most.
    assert ("gesvd" in texts["cuda"]) == (kernels == set())
    jax.export.export(function, platforms=["tpu"])(A)


def test_bad_arguments_are_explained():
    with pytest.raises(ValueError, match="method='lanczos' is unknown; use one of"):
        right_singular_vectors(jnp.eye(3), 1, "lanczos")
    with pytest.raises(ValueError, match="method='randomized' draws at random: pass a key"):
        right_singular_vectors(jnp.eye(3), 1, "randomized")
