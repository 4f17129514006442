"""Orthonormal bases, canonical signs, and keeping the old basis after a failure."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawing import draw

from lowrank_optax.linalg import orthogonalize
from lowrank_optax.linalg.orthogonalize import METHODS

# Eager calls would compile every operation.
orthonormal_columns = jax.jit(orthogonalize.orthonormal_columns, static_argnums=1)
canonical_signs = jax.jit(orthogonalize.canonical_signs)
checked_cholesky_qr = jax.jit(orthogonalize.checked_cholesky_qr)
keep_finite = jax.jit(orthogonalize.keep_finite)


def matrices(shape, seed=0):
    return np.array(draw(shape, seed))


def projector(Q):
    return Q @ Q.mT


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("decades", [0, 3])
def test_columns_are_orthonormal_and_span_the_same_space(method, decades):
    scales = np.logspace(0, -decades, 4, dtype=np.float32)
    x = matrices((2, 20, 4)) * scales @ matrices((4, 4), seed=1)
    Q = np.asarray(orthonormal_columns(x, method))
    np.testing.assert_allclose(Q.mT @ Q, np.broadcast_to(np.eye(4), (2, 4, 4)), atol=2e-6)
    exact = np.linalg.qr(np.asarray(x, np.float64))[0]
    np.testing.assert_allclose(projector(Q), projector(exact), atol=2e-6 * 10**decades)


def test_qr_stays_orthonormal_without_full_rank_and_cholesky_qr_says_that_it_failed():
    x = np.outer(np.arange(6.0), [1.0, 2.0, 3.0]).astype(np.float32)
    Q = np.asarray(orthonormal_columns(x, "qr"))
    np.testing.assert_allclose(Q.T @ Q, np.eye(3), atol=1e-6)
    assert not np.isfinite(orthonormal_columns(x, "cholesky_qr")).all()


def test_checked_cholesky_qr_mends_the_matrices_where_it_failed_and_no_others():
    good = matrices((20, 4))
    dependent = good.copy()
    dependent[:, 3] = good[:, 0]
    # The Gram matrix of this one has a factor that is nothing like right in float32.
    scales = np.logspace(0, -5, 4, dtype=np.float32)
    nearly = good * scales @ matrices((4, 4), seed=1)
    Q = np.asarray(checked_cholesky_qr(np.stack([good, dependent, nearly, 0 * good])))
    np.testing.assert_allclose(Q.mT @ Q, np.broadcast_to(np.eye(4), (4, 4, 4)), atol=2e-6)
    np.testing.assert_allclose(Q[0], orthonormal_columns(good, "cholesky_qr"), atol=1e-6)
    by_qr = orthonormal_columns(dependent, "qr")
    np.testing.assert_allclose(np.abs(Q[1]), np.abs(by_qr), atol=1e-6)
    good[0, 0] = np.nan
    assert np.isnan(checked_cholesky_qr(good)).any()


def test_factorisations_are_chosen_for_the_platform_that_is_compiled_for():
    x = jax.ShapeDtypeStruct((20, 4), jnp.float32)
    lowered = {
        platform: jax.export.export(jax.jit(orthonormal_columns), platforms=[platform])(x)
        for platform in ["cpu", "cuda", "tpu"]
    }
    assert "cholesky" not in lowered["cpu"].mlir_module()
    for platform in ["cuda", "tpu"]:
        text = lowered[platform].mlir_module()
        assert "stablehlo.cholesky" in text or "potrf" in text
        assert "stablehlo.case" in text or "stablehlo.if" in text


def test_the_entry_of_largest_magnitude_becomes_positive():
    P = matrices((3, 7, 4))
    signed = np.asarray(canonical_signs(P))
    np.testing.assert_array_equal(np.abs(signed), np.abs(P))
    np.testing.assert_array_equal(np.max(signed, axis=-2), np.max(np.abs(P), axis=-2))
    np.testing.assert_array_equal(canonical_signs(-P), signed)


def test_only_the_matrices_that_failed_keep_the_old_basis():
    new, old = matrices((3, 5, 2)), matrices((3, 5, 2), seed=1)
    new[1, 4, 0], new[2, 0, 1] = np.nan, np.inf
    kept = np.asarray(keep_finite(new, old))
    np.testing.assert_array_equal(kept[0], new[0])
    np.testing.assert_array_equal(kept[1:], old[1:])


def test_an_unknown_method_is_explained():
    with pytest.raises(ValueError, match="method='svd' is unknown; use one of"):
        orthonormal_columns(draw((3, 2)), "svd")
