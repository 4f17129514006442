"""Compressing both sides: an orthogonal projection of rank r_left · r_right, for any two bases."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lowrank_optax as lro

projections = lro.projections
KEY = jax.random.key(0)
PAIRS = {
    "dct, svd": (projections.dct(3), projections.svd(2)),
    "svd, dct": (projections.svd(3), projections.dct(2)),
    "identity, hadamard": (projections.identity(3, "uniform"), projections.hadamard(2)),
    "random, power_iteration": (projections.random(3), projections.power_iteration(2)),
}
every_pair = pytest.mark.parametrize("name", PAIRS)


def draw(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def spec_of(A, rank=2):
    batch = tuple(range(A.ndim - 2))
    return lro.MatrixSpec("A", A.shape, batch, (A.ndim - 2,), (A.ndim - 1,), "in", rank)


def chosen(name, A):
    projection = projections.two_sided(*PAIRS[name])
    S = projection.analyze(A)
    basis = projection.init(spec_of(A), A.dtype, KEY)
    return projection, S, projection.refresh(S, basis, 2, KEY)


@every_pair
def test_up_after_down_is_an_orthogonal_projection(name):
    m, n = 5, 8
    projection, _, basis = chosen(name, draw(0, m, n))

    def down_up(X):
        u = projection.project(projection.analyze(X), basis)
        assert u.shape == (3, 2)
        return projection.lift(u, basis, X.shape)

    P = jax.vmap(down_up)(jnp.eye(m * n).reshape(-1, m, n)).reshape(m * n, m * n)
    np.testing.assert_allclose(P @ P, P, atol=1e-5)
    np.testing.assert_allclose(P, P.T, atol=1e-5)
    np.testing.assert_allclose(jnp.trace(P), 3 * 2, rtol=1e-5)


@every_pair
def test_it_is_the_two_projections_one_after_the_other(name):
    left, right = PAIRS[name]
    A = draw(1, 5, 8)
    projection, S, (left_basis, right_basis) = chosen(name, A)
    np.testing.assert_allclose(projection.synthesize(S), A, atol=1e-5)
    keys = jax.random.split(KEY)
    first = left.init(dataclasses.replace(spec_of(A.T), rank=3), A.dtype, keys[0])
    np.testing.assert_array_equal(left_basis, left.refresh(S.T, first, 3, keys[0]))
    down_left = left.project(left.analyze(A.T), left_basis).T
    expected = right.project(right.analyze(down_left), right_basis)
    basis = (left_basis, right_basis)
    u = projection.project(S, basis)
    np.testing.assert_allclose(u, expected, atol=1e-5)
    lifted = projection.lift(u, basis, A.shape)
    np.testing.assert_allclose(
        projection.synthesize(projection.embed(u, basis, A.shape)), lifted, atol=1e-5
    )
    weighted = projection.synthesize(projection.reweight(S, u, basis, 0.5, 2.0))
    np.testing.assert_allclose(weighted, 2 * A - 1.5 * lifted, atol=1e-4)


def test_two_singular_subspaces_hold_the_best_approximation():
    A = draw(2, 2, 9, 6)
    projection = projections.two_sided(projections.svd(3), projections.svd(3))
    s = jnp.linalg.svd(A, compute_uv=False)
    best = jnp.sum(s[:, :3] ** 2, -1) / jnp.sum(s**2, -1)
    np.testing.assert_allclose(lro.diagnostics.captured_energy(A, projection), best, rtol=1e-5)


@every_pair
def test_carry_and_overlap_are_those_of_the_tensor_product(name):
    projection, _, old = chosen(name, draw(3, 5, 8))
    _, _, new = chosen(name, draw(4, 5, 8))
    x = draw(5, 3, 2)
    Z = projection.embed(x, old, (5, 8))
    np.testing.assert_allclose(projection.carry(x, old, new), projection.project(Z, new), atol=1e-5)
    cross = jax.vmap(lambda e: projection.project(projection.embed(e, old, (5, 8)), new))
    R = cross(jnp.eye(6).reshape(6, 3, 2))
    np.testing.assert_allclose(projection.overlap(old, new), jnp.sum(R**2) / 6, atol=1e-5)
    np.testing.assert_allclose(projection.overlap(old, old), 1.0, rtol=1e-5)


def test_every_operation_is_batched_like_a_loop():
    A = draw(6, 2, 3, 5, 8)
    projection, S, basis = chosen("dct, svd", A)
    other = jax.tree.map(lambda leaf: leaf[::-1], basis)
    u = projection.project(S, basis)
    lifted, carried = projection.lift(u, basis, (5, 8)), projection.carry(u, other, basis)
    assert projection.overlap(other, basis).shape == (2, 3)
    for i in np.ndindex(2, 3):
        one, S_one, basis_one = chosen("dct, svd", A[i])
        u_one = one.project(S_one, basis_one)
        other_one = jax.tree.map(lambda leaf: leaf[i], other)  # noqa: B023
        np.testing.assert_allclose(u[i], u_one, atol=1e-5)
        np.testing.assert_allclose(lifted[i], one.lift(u_one, basis_one, (5, 8)), atol=1e-5)
        np.testing.assert_allclose(carried[i], one.carry(u_one, other_one, basis_one), atol=1e-5)


@pytest.mark.parametrize("transport", ["keep", "rotate", "reset", "rotate_first"])
def test_an_optimizer_runs_with_state_of_both_ranks(transport):
    tx = lro.scale_by_low_rank(
        optax.scale_by_adam(),
        projections.two_sided(projections.dct(3), projections.svd(2)),
        update_interval=2,
        transport=transport,
        residual=lro.residuals.error_feedback(8),
    )
    params = {"tall": draw(0, 8, 12), "wide": draw(1, 16, 4), "bias": draw(2, 7)}
    state = tx.init(params)
    update = jax.jit(tx.update)
    for seed in range(4):
        gradients = jax.tree.map(lambda p: p + draw(seed, *p.shape), params)  # noqa: B023
        updates, new_state = update(gradients, state)
        chex.assert_trees_all_equal_shapes_and_dtypes(new_state, state)
        chex.assert_tree_all_finite(new_state)
        state = new_state
    assert {state.inner.mu[name].shape for name in ("tall", "wide")} == {(3, 2)}
    assert jnp.linalg.matrix_rank(updates["tall"], rtol=1e-4) == 2
    left, right = state.basis["wide"]
    assert (left.shape, right.shape) == ((3,), (4, 2))


def test_ranks_are_fractions_of_their_own_side_and_random_sides_differ():
    projection = projections.two_sided(projections.random(0.5), projections.random(0.5))
    assert projection.stochastic
    tx = lro.scale_by_low_rank(optax.identity(), projection)
    _, state = tx.update(draw(0, 8, 8), tx.init(draw(0, 8, 8)))
    left, right = state.basis
    assert left.shape == right.shape == (8, 4)
    assert jnp.max(jnp.abs(left - right)) > 0.1
    wide = jax.eval_shape(tx.init, jax.ShapeDtypeStruct((3, 20, 8), jnp.float32))
    assert wide.basis == optax.MaskedNode()
    assert projection.low_rank_shape(lro.matrix_specs(draw(0, 20, 8), 0.5).specs[0]) == (10, 4)


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
