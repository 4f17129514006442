"""Measures of subspaces agree with recorded values and with their definitions."""

import golden
import jax.numpy as jnp
import numpy as np

import lowrank_optax as lro


def test_subspace_overlap_equals_the_recorded_values():
    _, arrays = golden.load("i3s_sampling")
    overlap = lro.diagnostics.subspace_overlap(
        jnp.asarray(arrays["overlap_U"], jnp.float32), jnp.asarray(arrays["overlap_V"], jnp.float32)
    )
    np.testing.assert_allclose(overlap, arrays["overlap"], atol=1e-5)


def test_a_zero_matrix_loses_nothing():
    projection = lro.projections.dct(2)
    zeros = jnp.zeros((3, 4, 5))
    np.testing.assert_array_equal(lro.diagnostics.captured_energy(zeros, projection), 1.0)
    np.testing.assert_array_equal(lro.diagnostics.projection_error(zeros, projection), 0.0)


def test_a_stored_basis_can_be_measured_on_another_matrix():
    rng = np.random.default_rng(0)
    A, B = (jnp.asarray(rng.normal(size=(6, 8)), jnp.float32) for _ in range(2))
    tx = lro.scale_by_trion(3)
    _, state = tx.update(A, tx.init(A))
    projection = lro.projections.dct(3)
    own = lro.diagnostics.captured_energy(B, projection)
    stored = lro.diagnostics.captured_energy(B, projection, basis=state.basis)
    assert float(stored) < float(own)
    S = lro.orthogonal_dct(B, axis=0)
    expected = jnp.sum(S[state.basis] ** 2) / jnp.sum(S**2)
    np.testing.assert_allclose(stored, expected, rtol=1e-5)


def test_the_spectrum_of_an_orthonormal_update_is_flat():
    Q = jnp.linalg.qr(jnp.asarray(np.random.default_rng(1).normal(size=(6, 3)), jnp.float32))[0]
    np.testing.assert_allclose(lro.diagnostics.update_spectrum(Q), np.ones(3), rtol=1e-5)
    np.testing.assert_array_equal(lro.diagnostics.update_spectrum(0 * Q), np.zeros(3))
