"""What every learned basis promises, whichever way it is chosen."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from drawing import draw, orthonormal
from subspaces import chosen, refreshed

import lowrank_optax as lro

projections = lro.projections
BASES = {
    "svd": projections.svd,
    "svd gram": lambda rank: projections.svd(rank, method="gram"),
    "svd randomized": lambda rank: projections.svd(rank, method="randomized"),
    "svd importance": lambda rank: projections.svd(rank, "importance"),
    "power_iteration": projections.power_iteration,
    "random": projections.random,
}
QUICK = ("svd", "power_iteration", "random")  # the others are singular vectors too
every_basis = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in BASES]
)


def started(name, A, rank):
    """A projection and its basis after two refreshes, so that nothing is left from its start."""
    projection = BASES[name](rank)
    return projection, refreshed(projection, A, chosen(projection, A, rank), rank)


@pytest.mark.product(every=5)
@every_basis
@pytest.mark.parametrize(("n", "m", "rank"), [(6, 10, 3), (6, 10, 6), (7, 4, 6), (1, 5, 1)])
def test_up_after_down_is_an_orthogonal_projection_at_any_rank(name, n, m, rank):
    A = draw((2, n, m))
    projection, basis = started(name, A, rank)
    square = projection.subspace(basis, (2, n, n))
    P = square.lift(square.project(jnp.broadcast_to(jnp.eye(n), (2, n, n))))
    np.testing.assert_allclose(P @ P, P, atol=2e-5)
    np.testing.assert_allclose(P, P.mT, atol=2e-5)
    np.testing.assert_allclose(jnp.trace(P, axis1=-2, axis2=-1), rank, rtol=1e-5)
    subspace = projection.subspace(basis, A.shape)
    a = subspace.project(A)
    np.testing.assert_allclose(subspace.embed(a), P @ A, atol=1e-4)
    weighted = 2 * A - 1.5 * P @ A
    np.testing.assert_allclose(subspace.reweight(A, a, 0.5, 2.0), weighted, atol=1e-4)
    restored = subspace.restore(subspace.store(A, a, 0.5, 2.0), 0.5, 2.0)
    np.testing.assert_allclose(restored, weighted, atol=1e-4)
    other = projection.subspace(basis[::-1], A.shape)
    y = draw(a.shape, 1)
    expected = A - P @ A - basis[::-1] @ y
    np.testing.assert_allclose(subspace.without(A, a, other, y), expected, atol=1e-4)


@pytest.mark.product(every=8)
@pytest.mark.parametrize("name", [name for name in BASES if name != "random"])
@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
def test_a_gradient_that_teaches_nothing_leaves_the_old_basis(name, bad):
    A = draw((3, 6, 10), 1)
    projection, basis = started(name, A, 3)
    new = refreshed(projection, A.at[1].multiply(bad), basis, 3)
    np.testing.assert_array_equal(new[1], basis[1])
    once_bad = draw((3, 6, 10), 2).at[1].set(0.0).at[1, 0, 0].set(bad)
    new = refreshed(projection, once_bad, basis, 3)
    np.testing.assert_array_equal(new[1], basis[1])
    assert jnp.isfinite(new).all()
    assert jnp.max(jnp.abs(new[0] - basis[0])) > 0.01


@pytest.mark.product
@every_basis
@pytest.mark.parametrize("bad", [0.0, np.nan])
def test_a_first_gradient_that_teaches_nothing_gives_some_finite_basis(name, bad):
    _, basis = started(name, jnp.full((6, 10), bad), 3)
    np.testing.assert_allclose(basis.T @ basis, jnp.eye(3), atol=1e-5)


@every_basis
def test_a_gradient_of_rank_one_still_gives_an_orthonormal_basis(name):
    A = jnp.outer(jnp.array([1.0, -2.0, 0.5, 3.0, 0.0, 1.0]), jnp.arange(1.0, 11.0))
    projection, basis = started(name, A, 3)
    np.testing.assert_allclose(basis.T @ basis, jnp.eye(3), atol=1e-5)
    if name not in ("random", "svd importance"):
        assert float(lro.diagnostics.captured_energy(A, projection, basis)) > 1 - 1e-5


@pytest.mark.product(every=2)
@every_basis
def test_carrying_expresses_a_vector_of_both_subspaces_in_the_new_coordinates(name):
    A = draw((2, 6, 10), 3)
    projection, basis = started(name, A, 6)  # at full rank every vector is in both
    turned = basis @ orthonormal((6, 6), 4)
    old, new = (projection.subspace(P, (2, 6, 4)) for P in (basis, turned))
    x = draw((2, 6, 4), 5)
    transition = new.since(old)
    np.testing.assert_allclose(turned @ transition.carry(x), basis @ x, atol=1e-5)
    R = basis.mT @ turned
    np.testing.assert_allclose(transition.carry_squared(x), (R**2).mT @ x, atol=1e-5)
    np.testing.assert_allclose(transition.overlap(), 1.0, rtol=1e-5)


@pytest.mark.product(every=2)
@every_basis
def test_lifting_multiplies_in_the_dtype_of_the_leaf_and_sums_in_float32(name):
    projection, basis = started(name, draw((3, 8, 12)), 2)
    u = draw((3, 2, 12), 1)
    lifted = projection.subspace(basis, (3, 8, 12), jnp.bfloat16).lift(u)
    assert lifted.dtype == jnp.float32
    P, u = (x.astype(jnp.bfloat16).astype(jnp.float32) for x in (basis, u))
    np.testing.assert_allclose(lifted, P @ u, atol=1e-6)


def test_the_overlap_is_that_of_known_subspaces():
    spans = [
        projections.svd(3).subspace(P, (6, 1))
        for P in (jnp.eye(6)[:, :3], jnp.eye(6)[:, 3:], jnp.eye(6)[:, 1:4])
    ]
    overlaps = [span.since(spans[0]).overlap() for span in spans]
    np.testing.assert_allclose(overlaps, [1, 0, 2 / 3], rtol=1e-6)


@pytest.mark.product(every=4)
@every_basis
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_an_optimizer_runs_and_steps_inside_the_subspace(name, dtype):
    tx = lro.scale_by_low_rank(optax.scale_by_adam(), BASES[name](2), update_interval=2)
    state = jax.jit(tx.init)({"w": draw((8, 12), dtype=dtype)})
    update = jax.jit(tx.update)
    for seed in range(4):
        updates, state = update({"w": draw((8, 12), seed, dtype)}, state)
    assert updates["w"].dtype == dtype
    assert state.basis["w"].dtype == jnp.float32
    if dtype == jnp.float32:
        assert jnp.linalg.matrix_rank(updates["w"], rtol=1e-4) == 2
    assert jnp.isfinite(updates["w"]).all()
