"""What every learned basis promises, whichever way it is chosen."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lowrank_optax as lro

projections = lro.projections
KEY = jax.random.key(0)
BASES = {
    "svd": projections.svd,
    "svd gram": lambda rank: projections.svd(rank, method="gram"),
    "svd randomized": lambda rank: projections.svd(rank, method="randomized"),
    "svd importance": lambda rank: projections.svd(rank, "importance"),
    "power_iteration": projections.power_iteration,
    "random": projections.random,
}
every_basis = pytest.mark.parametrize("name", BASES)


def draw(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def started(name, A, rank):
    """A projection and its basis after two refreshes, so that nothing is left from its start."""
    projection = BASES[name](rank)
    spec = lro.MatrixSpec("A", A.shape, tuple(range(A.ndim - 2)), (-2,), (-1,), "in", rank)
    basis = projection.init(spec, A.dtype, KEY)
    for _ in range(2):
        basis = projection.refresh(A, basis, rank, KEY)
    return projection, basis


@every_basis
@pytest.mark.parametrize(("m", "n", "rank"), [(10, 6, 3), (10, 6, 6), (4, 7, 6), (5, 1, 1)])
def test_up_after_down_is_an_orthogonal_projection_at_any_rank(name, m, n, rank):
    A = draw(0, 2, m, n)
    projection, basis = started(name, A, rank)
    down_up = lambda X: projection.lift(projection.project(X, basis), basis, (n, n))
    P = down_up(jnp.broadcast_to(jnp.eye(n), (2, n, n)))
    np.testing.assert_allclose(P @ P, P, atol=2e-5)
    np.testing.assert_allclose(P, P.mT, atol=2e-5)
    np.testing.assert_allclose(jnp.trace(P, axis1=-2, axis2=-1), rank, rtol=1e-5)
    weighted = projection.reweight(A, projection.project(A, basis), basis, 0.5, 2.0)
    np.testing.assert_allclose(weighted, 2 * A - 1.5 * A @ P, atol=1e-4)


@pytest.mark.parametrize("name", [name for name in BASES if name != "random"])
@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
def test_a_gradient_that_teaches_nothing_leaves_the_old_basis(name, bad):
    A = draw(1, 3, 10, 6)
    projection, basis = started(name, A, 3)
    new = projection.refresh(A.at[1].multiply(bad), basis, 3, KEY)
    np.testing.assert_array_equal(new[1], basis[1])
    once_bad = draw(2, 3, 10, 6).at[1].set(0.0).at[1, 0, 0].set(bad)
    new = projection.refresh(once_bad, basis, 3, KEY)
    np.testing.assert_array_equal(new[1], basis[1])
    assert jnp.isfinite(new).all()
    assert jnp.max(jnp.abs(new[0] - basis[0])) > 0.01


@every_basis
@pytest.mark.parametrize("bad", [0.0, np.nan])
def test_a_first_gradient_that_teaches_nothing_gives_some_finite_basis(name, bad):
    A = jnp.full((10, 6), bad)
    _, basis = started(name, A, 3)
    np.testing.assert_allclose(basis.T @ basis, jnp.eye(3), atol=1e-5)


@every_basis
def test_a_gradient_of_rank_one_still_gives_an_orthonormal_basis(name):
    A = jnp.outer(jnp.arange(1.0, 11.0), jnp.array([1.0, -2.0, 0.5, 3.0, 0.0, 1.0]))
    projection, basis = started(name, A, 3)
    np.testing.assert_allclose(basis.T @ basis, jnp.eye(3), atol=1e-5)
    if name not in ("random", "svd importance"):
        assert float(lro.diagnostics.captured_energy(A, projection, basis)) > 1 - 1e-5


@every_basis
def test_carrying_expresses_a_vector_of_both_subspaces_in_the_new_coordinates(name):
    A = draw(3, 2, 10, 6)
    projection, basis = started(name, A, 6)  # at full rank every vector is in both
    rotation = jnp.linalg.qr(draw(4, 6, 6))[0]
    turned = basis @ rotation
    x = draw(5, 2, 4, 6)
    moved = projection.carry(x, basis, turned)
    np.testing.assert_allclose(moved @ turned.mT, x @ basis.mT, atol=1e-5)
    np.testing.assert_allclose(projection.overlap(basis, turned), 1.0, rtol=1e-5)


def test_the_overlap_is_that_of_known_subspaces():
    golden = [jnp.eye(6)[:, :3], jnp.eye(6)[:, 3:], jnp.eye(6)[:, 1:4]]
    overlap = projections.svd(3).overlap
    np.testing.assert_allclose([overlap(golden[0], P) for P in golden], [1, 0, 2 / 3], rtol=1e-6)


@every_basis
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_an_optimizer_runs_and_steps_inside_the_subspace(name, dtype):
    tx = lro.scale_by_low_rank(optax.scale_by_adam(), BASES[name](2), update_interval=2)
    params = {"w": draw(0, 8, 12).astype(dtype)}
    state = tx.init(params)
    update = jax.jit(tx.update)
    for seed in range(4):
        updates, state = update({"w": draw(seed, 8, 12).astype(dtype)}, state)
    assert updates["w"].dtype == dtype
    assert state.basis["w"].dtype == jnp.float32
    if dtype == jnp.float32:
        assert jnp.linalg.matrix_rank(updates["w"], rtol=1e-4) == 2
    assert jnp.isfinite(updates["w"]).all()
