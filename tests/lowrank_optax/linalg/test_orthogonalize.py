"""Orthonormal bases, canonical signs, and keeping the old basis after a failure."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawing import draw

from lowrank_optax.linalg.orthogonalize import (
    METHODS,
    canonical_signs,
    checked_cholesky_qr,
    keep_finite,
    orthonormal_columns,
)


def projector(Q):
    return Q @ Q.mT


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("decades", [0, 3])
def test_columns_are_orthonormal_and_span_the_same_space(method, decades):
    x = draw((2, 20, 4)) * jnp.logspace(0, -decades, 4) @ draw((4, 4), seed=1)
    Q = orthonormal_columns(x, method)
    np.testing.assert_allclose(Q.mT @ Q, jnp.broadcast_to(jnp.eye(4), (2, 4, 4)), atol=2e-6)
    exact = np.linalg.qr(np.asarray(x, np.float64))[0]
    np.testing.assert_allclose(projector(Q), projector(exact), atol=2e-6 * 10**decades)


def test_qr_stays_orthonormal_without_full_rank_and_cholesky_qr_says_that_it_failed():
    x = jnp.outer(jnp.arange(6.0), jnp.array([1.0, 2.0, 3.0]))
    Q = orthonormal_columns(x, "qr")
    np.testing.assert_allclose(Q.T @ Q, jnp.eye(3), atol=1e-6)
    assert not jnp.isfinite(orthonormal_columns(x, "cholesky_qr")).all()


def test_checked_cholesky_qr_mends_the_matrices_where_it_failed_and_no_others():
    good = draw((20, 4))
    dependent = good.at[:, 3].set(good[:, 0])
    # The Gram matrix of this one has a factor that is nothing like right in float32.
    nearly = draw((20, 4)) @ jnp.diag(jnp.logspace(0, -5, 4)) @ draw((4, 4), seed=1)
    x = jnp.stack([good, dependent, nearly, jnp.zeros((20, 4))])
    Q = jax.jit(checked_cholesky_qr)(x)
    np.testing.assert_allclose(Q.mT @ Q, jnp.broadcast_to(jnp.eye(4), (4, 4, 4)), atol=2e-6)
    np.testing.assert_allclose(Q[0], orthonormal_columns(good, "cholesky_qr"), atol=1e-6)
    np.testing.assert_allclose(
        jnp.abs(Q[1]), jnp.abs(orthonormal_columns(dependent, "qr")), atol=1e-6
    )
    assert jnp.isnan(checked_cholesky_qr(good.at[0, 0].set(jnp.nan))).any()


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
    P = draw((3, 7, 4))
    signed = canonical_signs(P)
    np.testing.assert_array_equal(jnp.abs(signed), jnp.abs(P))
    np.testing.assert_array_equal(jnp.max(signed, axis=-2), jnp.max(jnp.abs(P), axis=-2))
    np.testing.assert_array_equal(canonical_signs(-P), signed)


def test_only_the_matrices_that_failed_keep_the_old_basis():
    new = draw((3, 5, 2)).at[1, 4, 0].set(jnp.nan).at[2, 0, 1].set(jnp.inf)
    old = draw((3, 5, 2), seed=1)
    kept = keep_finite(new, old)
    np.testing.assert_array_equal(kept[0], new[0])
    np.testing.assert_array_equal(kept[1:], old[1:])


def test_an_unknown_method_is_explained():
    with pytest.raises(ValueError, match="method='svd' is unknown; use one of"):
        orthonormal_columns(draw((3, 2)), "svd")
