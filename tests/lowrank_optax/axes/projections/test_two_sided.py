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


@pytest.mark.product(every=3)
@every_pair
def test_up_after_down_is_an_orthogonal_projection(name):
    @jax.jit
    def program(G):
        projection, _, _, subspace = at_work(name, G)

        def down_up(X):
            u = subspace.project(projection.analyze(X, X.dtype))
            assert u.shape == projection.low_rank_shape((N, M), 2) == (2, 3)
            return subspace.lift(u)

        return jax.vmap(down_up)(jnp.eye(N * M).reshape(-1, N, M)).reshape(N * M, N * M)

    P = np.asarray(program(draw((N, M))))
    np.testing.assert_allclose(P @ P, P, atol=1e-5)
    np.testing.assert_allclose(P, P.T, atol=1e-5)
    np.testing.assert_allclose(np.trace(P), 2 * 3, rtol=1e-5)


@pytest.mark.product(every=4)
@every_pair
def test_it_is_the_two_projections_one_after_the_other(name):
    left, right = PAIRS[name]

    @jax.jit
    def one_after_the_other(A, S, bases):
        key = jax.random.split(KEY)[0]
        left_basis = refreshed(left, S.T, left.init(A.T.shape, 3, A.dtype, key), 3, key=key)
        of_rows = left.subspace(bases[0], A.T.shape)
        down_left = of_rows.project(left.analyze(A.T, A.dtype)).T
        of_columns = right.subspace(bases[1], down_left.shape)
        return left_basis, of_columns.project(right.analyze(down_left, A.dtype))

    @jax.jit
    def together(A):
        projection, S, bases, subspace = at_work(name, A)
        u = subspace.project(S)
        spaces = {
            "whole": S,
            "embedded": subspace.embed(u),
            "reweighted": subspace.reweight(S, u, 0.5, 2.0),
            "restored": subspace.restore(subspace.store(S, u, 0.5, 2.0), 0.5, 2.0),
            "without": subspace.without(S, u, subspace, u),
        }
        return S, bases, u, subspace.lift(u), jax.tree.map(projection.synthesize, spaces)

    A = np.asarray(draw((N, M), 1))
    S, bases, u, lifted, spaces = together(A)
    lifted = np.asarray(lifted)
    left_basis, expected = one_after_the_other(A, S, bases)
    np.testing.assert_allclose(bases[0], left_basis, atol=1e-6)
    np.testing.assert_allclose(u, expected, atol=1e-5)
    np.testing.assert_allclose(spaces["whole"], A, atol=1e-5)
    np.testing.assert_allclose(spaces["embedded"], lifted, atol=1e-5)
    weighted = 2 * A - 1.5 * lifted
    np.testing.assert_allclose(spaces["reweighted"], weighted, atol=1e-4)
    np.testing.assert_allclose(spaces["restored"], weighted, atol=1e-4)
    np.testing.assert_allclose(spaces["without"], A - 2 * lifted, atol=1e-4)


def test_two_singular_subspaces_hold_the_best_approximation():
    A = draw((2, 6, 9), 2)
    projection = projections.two_sided(projections.svd(3), projections.svd(3))
    s = np.linalg.svd(A, compute_uv=False)
    best = np.sum(s[:, :3] ** 2, -1) / np.sum(s**2, -1)
    found = jax.jit(lambda A: lro.diagnostics.captured_energy(A, projection))(A)
    np.testing.assert_allclose(found, best, rtol=1e-5)


@pytest.mark.product(every=4)
@every_pair
def test_a_transition_is_that_of_the_tensor_product(name):
    @jax.jit
    def program(earlier, later, x):
        (*_, old), (*_, new) = at_work(name, earlier), at_work(name, later)
        transition = new.since(old)
        R = jax.vmap(lambda e: new.project(old.embed(e)))(jnp.eye(6).reshape(6, 2, 3))
        overlaps = transition.overlap(), old.since(old).overlap()
        return transition.carry(x), transition.carry_squared(x), overlaps, R

    x = np.asarray(draw((2, 3), 5))
    moved, squared, overlaps, R = program(draw((N, M), 3), draw((N, M), 4), x)
    R = np.asarray(R)
    np.testing.assert_allclose(moved, np.tensordot(x.reshape(6), R, 1), atol=1e-5)
    np.testing.assert_allclose(squared, np.tensordot(x.reshape(6), R**2, 1), atol=1e-5)
    np.testing.assert_allclose(overlaps, (np.sum(R**2) / 6, 1.0), atol=1e-5)


def test_every_operation_is_batched_like_a_loop():
    @jax.jit
    def program(A, other):
        _, S, _, subspace = at_work("dct, svd", A)
        *_, old = at_work("dct, svd", other)
        u = subspace.project(S)
        transition = subspace.since(old)
        return u, subspace.lift(u), transition.carry(u), transition.overlap()

    A, other = np.asarray(draw((2, 3, N, M), 6)), np.asarray(draw((2, 3, N, M), 7))
    batched = program(A, other)
    assert batched[-1].shape == (2, 3)
    for i in np.ndindex(2, 3):
        for together, single in zip(batched, program(A[i], other[i]), strict=True):
            np.testing.assert_allclose(together[i], single, atol=1e-5)


@pytest.mark.product(every=4)
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
        gradients = {name: p + np.asarray(draw(p.shape, seed)) for name, p in params.items()}
        updates, new_state = update(gradients, state)
        chex.assert_trees_all_equal_shapes_and_dtypes(new_state, state)
        chex.assert_tree_all_finite(new_state)
        state = new_state
    assert {state.inner.mu[name].shape for name in ("wide", "tall")} == {(2, 3)}
    assert np.linalg.matrix_rank(updates["wide"], rtol=1e-4) == 2
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


@pytest.mark.product(every=3)
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
        assert 1 <= np.linalg.matrix_rank(updates, rtol=1e-4) <= 2


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
