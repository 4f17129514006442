"""Measures of subspaces agree with recorded values and with their definitions."""

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lowrank_optax as lro


def test_subspace_overlap_equals_the_recorded_values():
    _, arrays = golden.load("i3s_sampling")
    overlap = lro.diagnostics.subspace_overlap(
        jnp.asarray(arrays["overlap_U"], jnp.float32), jnp.asarray(arrays["overlap_V"], jnp.float32)
    )
    np.testing.assert_allclose(overlap, arrays["overlap"], atol=1e-5)


def captured_and_error(A, projection, **basis):
    """Compiled: eager calls would compile every operation."""
    measures = (lro.diagnostics.captured_energy, lro.diagnostics.projection_error)
    program = jax.jit(lambda A, basis: [measure(A, projection, **basis) for measure in measures])
    return map(np.asarray, program(A, basis))


def test_a_zero_matrix_loses_nothing():
    captured, error = captured_and_error(jnp.zeros((3, 5, 4)), lro.projections.dct(2))
    np.testing.assert_array_equal(captured, np.ones(3))
    np.testing.assert_array_equal(error, np.zeros(3))


@pytest.mark.product(every=2)
@pytest.mark.parametrize("shape", [(5, 9), (9, 5)])
def test_the_compressed_axis_is_the_second_to_last(shape):
    A = jnp.asarray(np.random.default_rng(0).normal(size=(2, *shape)), jnp.float32)
    S = np.asarray(jax.jit(lambda A: lro.orthogonal_dct(A, axis=-2))(A))
    captured, error = captured_and_error(A, lro.projections.dct(2, "l2"))
    captured_by_svd, _ = captured_and_error(A, lro.projections.svd(2))
    energies = np.sort(np.sum(S**2, axis=-1))
    best = energies[:, -2:].sum(-1) / energies.sum(-1)
    np.testing.assert_allclose(captured, best, rtol=1e-5)
    np.testing.assert_allclose(error**2, 1 - best, rtol=1e-4)
    values = np.linalg.svd(A, compute_uv=False) ** 2
    np.testing.assert_allclose(captured_by_svd, values[:, :2].sum(-1) / values.sum(-1), rtol=1e-5)


@pytest.mark.product(every=2)
@pytest.mark.parametrize("shape", [(6, 8), (8, 6)])
def test_a_basis_from_the_state_is_measured_in_the_view_of_its_matrix(shape):
    rng = np.random.default_rng(0)
    W, other = (jnp.asarray(rng.normal(size=shape), jnp.float32) for _ in range(2))
    tx = lro.scale_by_trion(3)
    _, state = jax.jit(lambda W: tx.update(W, tx.init(W)))(W)
    (spec,) = lro.matrix_specs(W, 3)
    captured = lambda leaf, **basis: next(
        captured_and_error(spec.to_matrix(leaf), lro.projections.dct(3), **basis)
    )
    np.testing.assert_allclose(captured(W, basis=state.basis), captured(W), rtol=1e-6)
    assert (captured(other, basis=state.basis) < captured(other)).all()


@pytest.mark.product(every=3)
@pytest.mark.parametrize("rank", [1, 4, 1.0])
def test_every_projection_can_be_measured(rank):
    A = jnp.asarray(np.random.default_rng(2).normal(size=(3, 6, 4)), jnp.float32)
    for name in ("dct", "identity", "random_orthogonal", "svd", "random"):
        captured, error = captured_and_error(A, lro.projections.by_name(name, rank))
        np.testing.assert_allclose(captured + error**2, np.ones(3), atol=1e-5)
        assert captured.shape == (3,)


def test_the_spectrum_of_an_orthonormal_update_is_flat():
    Q = jnp.linalg.qr(jnp.asarray(np.random.default_rng(1).normal(size=(6, 3)), jnp.float32))[0]
    np.testing.assert_allclose(lro.diagnostics.update_spectrum(Q), np.ones(3), rtol=1e-5)
    np.testing.assert_array_equal(lro.diagnostics.update_spectrum(0 * Q), np.zeros(3))


def test_half_precision_is_measured_in_float32():
    U, V = np.random.default_rng(3).normal(size=(2, 64, 8)).astype(jnp.bfloat16)
    for measure, arrays in (
        (lro.diagnostics.update_spectrum, (U,)),
        (lro.diagnostics.subspace_overlap, (U, V)),
    ):
        exact = measure(*(jnp.asarray(array, jnp.float32) for array in arrays))
        np.testing.assert_allclose(measure(*map(jnp.asarray, arrays)), exact, rtol=1e-5)


@pytest.mark.parametrize(
    ("projection", "basis"),
    [
        (lro.projections.power_iteration(2, rho=0.9), jnp.eye(4, 2)),
        (lro.projections.dct(2, lro.selection.following()), jnp.arange(2)),
    ],
    ids=["power_iteration", "dct"],
)
def test_a_projection_that_follows_a_moment_is_measured_with_a_basis_only(projection, basis):
    with pytest.raises(ValueError, match=r"follows an inner optimizer's first moment.*pass basis="):
        lro.diagnostics.captured_energy(jnp.ones((4, 6)), projection)
    captured = lro.diagnostics.captured_energy(jnp.eye(4, 6), projection, basis)
    np.testing.assert_allclose(captured, 0.5, rtol=1e-6)
