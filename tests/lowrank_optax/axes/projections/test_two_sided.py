"""Compressing both sides: an orthogonal projection of rank r_left · r_right, for any two bases."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from drawing import draw
from methods import compiled
from subspaces import KEY, chosen, refreshed

import lowrank_optax as lro

projections = lro.projections
# The left side is m, the right side n.
PAIRS = {
    "dct, svd": (projections.dct(3), projections.svd(2)),
    "svd, dct": (projections.svd(3), projections.dct(2)),
    "identity, hadamard": (projections.identity(3, "uniform"), projections.hadamard(2)),
    "random, power_iteration": (projections.random(3), projections.power_iteration(2)),
}
N, M = 8, 5
every_pair = pytest.mark.parametrize("name", PAIRS)


def at_work(name, G):
    projection = projections.two_sided(*PAIRS[name])
    S = projection.analyze(G, G.dtype)
    basis = chosen(projection, S, 2)
    return projection, S, basis, projection.subspace(basis, G.shape)


@pytest.mark.product(every=2)
@every_pair
def test_up_after_down_is_an_orthogonal_projection(name):
    projection, _, _, subspace = at_work(name, draw((N, M)))

    def down_up(X):
        u = subspace.project(projection.analyze(X, X.dtype))
        assert u.shape == projection.low_rank_shape((N, M), 2) == (2, 3)
        return subspace.lift(u)

    P = jax.vmap(down_up)(jnp.eye(N * M).reshape(-1, N, M)).reshape(N * M, N * M)
    np.testing.assert_allclose(P @ P, P, atol=1e-5)
    np.testing.assert_allclose(P, P.T, atol=1e-5)
    np.testing.assert_allclose(jnp.trace(P), 2 * 3, rtol=1e-5)


@pytest.mark.product(every=2)
@every_pair
def test_it_is_the_two_projections_one_after_the_other(name):
    left, right = PAIRS[name]
    A = draw((N, M), 1)
    projection, S, (left_basis, right_basis), subspace = at_work(name, A)
    np.testing.assert_allclose(projection.synthesize(S), A, atol=1e-5)
    keys = jax.random.split(KEY)
    first = left.init(A.T.shape, 3, A.dtype, keys[0])
    expected = refreshed(left, S.T, first, 3, key=keys[0])
    np.testing.assert_array_equal(left_basis, expected)
    of_rows = left.subspace(left_basis, A.T.shape)
    down_left = of_rows.project(left.analyze(A.T, A.dtype)).T
    of_columns = right.subspace(right_basis, down_left.shape)
    expected = of_columns.project(right.analyze(down_left, A.dtype))
    u = subspace.project(S)
    np.testing.assert_allclose(u, expected, atol=1e-5)
    lifted = subspace.lift(u)
    np.testing.assert_allclose(projection.synthesize(subspace.embed(u)), lifted, atol=1e-5)
    weighted = 2 * A - 1.5 * lifted
    reweighted = subspace.reweight(S, u, 0.5, 2.0)
    np.testing.assert_allclose(projection.synthesize(reweighted), weighted, atol=1e-4)
    restored = subspace.restore(subspace.store(S, u, 0.5, 2.0), 0.5, 2.0)
    np.testing.assert_allclose(projection.synthesize(restored), weighted, atol=1e-4)
    without = projection.synthesize(subspace.without(S, u, subspace, u))
    np.testing.assert_allclose(without, A - 2 * lifted, atol=1e-4)


def test_two_singular_subspaces_hold_the_best_approximation():
    A = draw((2, 6, 9), 2)
    projection = projections.two_sided(projections.svd(3), projections.svd(3))
    s = jnp.linalg.svd(A, compute_uv=False)
    best = jnp.sum(s[:, :3] ** 2, -1) / jnp.sum(s**2, -1)
    np.testing.assert_allclose(lro.diagnostics.captured_energy(A, projection), best, rtol=1e-5)


@pytest.mark.product(every=2)
@every_pair
def test_a_transition_is_that_of_the_tensor_product(name):
    *_, old = at_work(name, draw((N, M), 3))
    *_, new = at_work(name, draw((N, M), 4))
    x = draw((2, 3), 5)
    transition = new.since(old)
    expected = new.project(old.embed(x))
    np.testing.assert_allclose(transition.carry(x), expected, atol=1e-5)
    R = jax.vmap(lambda e: new.project(old.embed(e)))(jnp.eye(6).reshape(6, 2, 3))
    squared = jnp.tensordot(x.reshape(6), R**2, 1)
    np.testing.assert_allclose(transition.carry_squared(x), squared, atol=1e-5)
    np.testing.assert_allclose(transition.overlap(), jnp.sum(R**2) / 6, atol=1e-5)
    np.testing.assert_allclose(old.since(old).overlap(), 1.0, rtol=1e-5)


def test_every_operation_is_batched_like_a_loop():
    A = draw((2, 3, N, M), 6)
    projection, S, basis, subspace = at_work("dct, svd", A)
    other = jax.tree.map(lambda leaf: leaf[::-1], basis)
    transition = subspace.since(projection.subspace(other, A.shape))
    u = subspace.project(S)
    lifted, carried = subspace.lift(u), transition.carry(u)
    assert transition.overlap().shape == (2, 3)
    for i in np.ndindex(2, 3):
        one, S_one, _, subspace_one = at_work("dct, svd", A[i])
        u_one = subspace_one.project(S_one)
        other_one = one.subspace(jax.tree.map(lambda leaf: leaf[i], other), (N, M))  # noqa: B023
        np.testing.assert_allclose(u[i], u_one, atol=1e-5)
        np.testing.assert_allclose(lifted[i], subspace_one.lift(u_one), atol=1e-5)
        expected = subspace_one.since(other_one).carry(u_one)
        np.testing.assert_allclose(carried[i], expected, atol=1e-5)


@pytest.mark.product(every=3)
@pytest.mark.parametrize("transport", ["keep", "rotate", "reset", "rotate_first"])
def test_an_optimizer_runs_with_state_of_both_ranks(transport):
    tx = lro.scale_by_low_rank(
        optax.scale_by_adam(),
        projections.two_sided(projections.dct(3), projections.svd(2)),
        update_interval=2,
        transport=transport,
        residual=lro.residuals.error_feedback("int8"),
    )
    params = {"wide": draw((8, 12)), "tall": draw((16, 4), 1), "bias": draw((7,), 2)}
    state = jax.jit(tx.init)(params)
    update = jax.jit(tx.update)
    for seed in range(4):
        gradients = jax.tree.map(lambda p: p + draw(p.shape, seed), params)  # noqa: B023
        updates, new_state = update(gradients, state)
        chex.assert_trees_all_equal_shapes_and_dtypes(new_state, state)
        chex.assert_tree_all_finite(new_state)
        state = new_state
    assert {state.inner.mu[name].shape for name in ("wide", "tall")} == {(2, 3)}
    assert jnp.linalg.matrix_rank(updates["wide"], rtol=1e-4) == 2
    left, right = state.basis["tall"]
    assert (left.shape, right.shape) == ((3,), (4, 2))


def test_ranks_are_fractions_of_their_own_side_and_random_sides_differ():
    projection = projections.two_sided(projections.random(0.5), projections.random(0.5))
    tx = compiled(lro.scale_by_low_rank(optax.identity(), projection))
    _, state = tx.update(draw((8, 8)), tx.init(draw((8, 8))))
    left, right = state.basis
    assert left.shape == right.shape == (8, 4)
    assert jnp.max(jnp.abs(left - right)) > 0.1
    stack = jax.eval_shape(tx.init, jax.ShapeDtypeStruct((3, 20, 8), jnp.float32))
    assert stack.basis == optax.MaskedNode()
    (spec,) = lro.matrix_specs(draw((14, 8)), 0.5)
    assert projection.low_rank_shape(spec.view, spec.rank) == (4, 7)
    # No more than the smaller side has.
    assert projection.low_rank_shape((8, 20), 4) == (4, 8)


@pytest.mark.product(every=2)
@pytest.mark.parametrize(
    "side",
    [
        projections.power_iteration(2),
        projections.switch(projections.svd(2), projections.random(2), 3),
        projections.scheduled_rank(projections.svd(2), lambda refreshes: 1 + refreshes),
    ],
    ids=["power_iteration", "switch", "scheduled_rank"],
)
def test_any_projection_that_follows_the_gradient_alone_can_be_a_side(side):
    for pair in ((side, projections.dct(3)), (projections.dct(3), side)):
        tx = compiled(lro.scale_by_low_rank(optax.scale_by_adam(), projections.two_sided(*pair)))
        updates, _ = tx.update(draw((8, 12)), tx.init(draw((8, 12))))
        assert 1 <= jnp.linalg.matrix_rank(updates, rtol=1e-4) <= 2


@pytest.mark.parametrize(
    ("left", "right", "error", "message"),
    [
        (
            projections.dct(2),
            projections.power_iteration(2, rho=0.9),
            ValueError,
            r"two_sided: right=PowerIteration.* follows the inner optimizer's first moment",
        ),
        (
            projections.switch(projections.svd(2), projections.power_iteration(2, rho=0.9), 3),
            projections.dct(2),
            ValueError,
            r"two_sided: left=Switch.* follows the inner optimizer's first moment",
        ),
        (
            projections.online_pca(2),
            projections.dct(2),
            ValueError,
            r"two_sided: left=OnlinePca.* learns from every step",
        ),
        (
            projections.two_sided(projections.dct(2), projections.dct(2)),
            projections.dct(2),
            TypeError,
            "two_sided: left=TwoSided.* must be a one-sided projection",
        ),
    ],
)
def test_sides_that_cannot_work_are_explained(left, right, error, message):
    with pytest.raises(error, match=message):
        projections.two_sided(left, right)
