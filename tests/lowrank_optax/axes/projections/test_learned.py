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


@pytest.mark.product(every=9)
@every_basis
@pytest.mark.parametrize(("n", "m", "rank"), [(6, 10, 3), (6, 10, 6), (7, 4, 6), (1, 5, 1)])
def test_up_after_down_is_an_orthogonal_projection_at_any_rank(name, n, m, rank):
    @jax.jit
    def program(A, y):
        projection, basis = started(name, A, rank)
        square = projection.subspace(basis, (2, n, n))
        P = square.lift(square.project(jnp.broadcast_to(jnp.eye(n), (2, n, n))))
        subspace = projection.subspace(basis, A.shape)
        other = projection.subspace(basis[::-1], A.shape)
        a = subspace.project(A)
        found = {
            "embedded": subspace.embed(a),
            "reweighted": subspace.reweight(A, a, 0.5, 2.0),
            "restored": subspace.restore(subspace.store(A, a, 0.5, 2.0), 0.5, 2.0),
            "without": subspace.without(A, a, other, y),
        }
        return basis, P, found

    A, y = np.asarray(draw((2, n, m))), np.asarray(draw((2, rank, m), 1))
    basis, P, found = program(A, y)
    P = np.asarray(P)
    np.testing.assert_allclose(P @ P, P, atol=2e-5)
    np.testing.assert_allclose(P, P.mT, atol=2e-5)
    np.testing.assert_allclose(np.trace(P, axis1=-2, axis2=-1), rank, rtol=1e-5)
    weighted = 2 * A - 1.5 * P @ A
    np.testing.assert_allclose(found["embedded"], P @ A, atol=1e-4)
    np.testing.assert_allclose(found["reweighted"], weighted, atol=1e-4)
    np.testing.assert_allclose(found["restored"], weighted, atol=1e-4)
    expected = A - P @ A - np.asarray(basis)[::-1] @ y
    np.testing.assert_allclose(found["without"], expected, atol=1e-4)


@pytest.mark.product(every=3)
@pytest.mark.parametrize("name", [name for name in BASES if name != "random"])  # learns of none
def test_a_gradient_that_teaches_nothing_leaves_the_old_basis(name):
    @jax.jit
    def program(A, *later):
        projection, basis = started(name, A, 3)
        return basis, [refreshed(projection, gradient, basis, 3) for gradient in later]

    A, other = np.asarray(draw((3, 6, 10), 1)), np.asarray(draw((3, 6, 10), 2))
    for bad in (0.0, np.nan, np.inf):
        all_bad, once_bad = A.copy(), other.copy()
        all_bad[1] *= bad
        once_bad[1] = 0.0
        once_bad[1, 0, 0] = bad
        basis, after = jax.device_get(program(A, all_bad, once_bad))
        for new in after:
            np.testing.assert_array_equal(new[1], basis[1])
        assert np.isfinite(after[1]).all()
        assert np.max(np.abs(after[1][0] - basis[0])) > 0.01


@every_basis
def test_a_first_gradient_of_rank_one_or_none_gives_an_orthonormal_basis(name):
    @jax.jit
    def program(A):
        projection, basis = started(name, A, 3)
        return basis, lro.diagnostics.captured_energy(A, projection, basis)

    one = np.outer([1.0, -2.0, 0.5, 3.0, 0.0, 1.0], np.arange(1.0, 11.0))
    for A in (one, np.zeros((6, 10)), np.full((6, 10), np.nan)):
        basis, captured = jax.device_get(program(np.float32(A)))
        np.testing.assert_allclose(basis.T @ basis, np.eye(3), atol=1e-5)
        if A is one and name not in ("random", "svd importance"):
            assert captured > 1 - 1e-5


@pytest.mark.product(every=2)
@every_basis
def test_carrying_expresses_a_vector_of_both_subspaces_in_the_new_coordinates(name):
    @jax.jit
    def program(A, x, turn):
        projection, basis = started(name, A, 6)  # at full rank every vector is in both
        turned = basis @ turn
        old, new = (projection.subspace(P, (2, 6, 4)) for P in (basis, turned))
        transition = new.since(old)
        moved = transition.carry(x), transition.carry_squared(x)
        return basis, turned, moved, transition.overlap()

    x = np.asarray(draw((2, 6, 4), 5))
    basis, turned, (moved, squared), overlap = jax.device_get(
        program(draw((2, 6, 10), 3), x, orthonormal((6, 6), 4))
    )
    np.testing.assert_allclose(turned @ moved, basis @ x, atol=1e-5)
    R = basis.mT @ turned
    np.testing.assert_allclose(squared, (R**2).mT @ x, atol=1e-5)
    np.testing.assert_allclose(overlap, 1.0, rtol=1e-5)


@pytest.mark.product(every=2)
@every_basis
def test_lifting_multiplies_in_the_dtype_of_the_leaf_and_sums_in_float32(name):
    @jax.jit
    def program(A, u):
        projection, basis = started(name, A, 2)
        return basis, projection.subspace(basis, A.shape, jnp.bfloat16).lift(u)

    u = draw((3, 2, 12), 1)
    basis, lifted = program(draw((3, 8, 12)), u)
    assert lifted.dtype == jnp.float32
    P, u = (np.asarray(x.astype(jnp.bfloat16), np.float32) for x in (basis, u))
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
    step = np.asarray(updates["w"], np.float32)
    assert np.isfinite(step).all()
    if dtype == jnp.float32:
        assert np.linalg.matrix_rank(step, rtol=1e-4) == 2
