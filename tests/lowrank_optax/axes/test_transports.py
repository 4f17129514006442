"""What a change of the subspace does to the moments, against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from drawing import draw, orthonormal

import lowrank_optax as lro
from lowrank_optax.axes.transports import TRANSPORTS, Change, RotateMoments, resolve

N, M, RANK, B1, B2 = 6, 4, 3, 0.8, 0.9
ADAM = optax.scale_by_adam(b1=B1, b2=B2)
LEARNED = lro.projections.svd(RANK)
SPAN = lambda P: LEARNED.subspace(P, (N, M))
COLUMNS = lambda *indices: lro.projections.dct(RANK).subspace(jnp.array(indices), (N, M))


def stepped(*coordinates, inner=ADAM):
    """The state after some steps, and a fresh one."""
    fresh = state = inner.init(jnp.zeros((RANK, M)))
    for a in coordinates:
        _, state = inner.update(a, state)
    return state, fresh


def transported(transport, old, new, state, fresh, inner=ADAM):
    change = Change(inner, state, fresh, jnp.zeros((RANK, M)), new.since(old))
    return resolve(transport)(change)


def some_steps(inner=ADAM):
    return stepped(*[draw((RANK, M), seed) for seed in range(4)], inner=inner)


def two_spans():
    return orthonormal((N, RANK), 1), orthonormal((N, RANK), 2)


def test_keeping_leaves_every_moment_in_its_slot_and_reset_forgets_them():
    state, fresh = some_steps()
    old, new = map(SPAN, two_spans())
    assert transported("keep", old, new, state, fresh) is state
    assert transported("reset", old, new, state, fresh) is fresh


def test_rotating_expresses_moments_in_the_new_subspace():
    state, fresh = some_steps()
    P, Q = two_spans()
    moved = transported("rotate", SPAN(P), SPAN(Q), state, fresh)
    np.testing.assert_allclose(moved.mu, Q.T @ P @ state.mu, atol=1e-6)
    np.testing.assert_allclose(moved.nu, jnp.abs(Q.T @ P @ state.nu), atol=1e-6)
    assert moved.count == state.count
    first = transported("rotate_first", SPAN(P), SPAN(Q), state, fresh)
    np.testing.assert_allclose(first.mu, moved.mu, atol=1e-6)
    np.testing.assert_array_equal(first.nu, state.nu)


@pytest.mark.parametrize("transport", ["rotate", "rotate_moments"])
def test_in_a_fixed_basis_moments_move_with_their_columns_and_new_ones_start_from_zero(transport):
    state, fresh = some_steps()
    moved = transported(transport, COLUMNS(0, 2, 5), COLUMNS(2, 3, 5), state, fresh)
    for new, old in ((moved.mu, state.mu), (moved.nu, state.nu)):
        np.testing.assert_allclose(new, jnp.stack([old[1], 0 * old[0], old[2]]), atol=1e-7)


def test_a_transport_finds_moments_inside_a_chain():
    inner = optax.chain(optax.clip_by_global_norm(1.0), ADAM)
    state, fresh = some_steps(inner)
    P, Q = two_spans()
    for transport in ("rotate", "rotate_first", "rotate_moments"):
        moved = transported(transport, SPAN(P), SPAN(Q), state, fresh, inner)[1]
        np.testing.assert_allclose(moved.mu, Q.T @ P @ state[1].mu, atol=1e-6)


@pytest.mark.parametrize("name", TRANSPORTS)
def test_a_transport_says_what_becomes_of_the_first_moment_alone(name):
    """For residuals, which feed back what is lost before all moments are moved."""
    state, fresh = some_steps()
    old, new = map(SPAN, two_spans())
    moved = transported(name, old, new, state, fresh)
    alone = TRANSPORTS[name].first_moment(new.since(old), state.mu)
    np.testing.assert_allclose(alone, moved.mu, atol=1e-6)


def rotate_moments(P, Q, state, fresh):
    return transported(RotateMoments(B1, B2), SPAN(P), SPAN(Q), state, fresh)


def test_ldadams_rule_is_its_formula():
    state, fresh = some_steps()
    P, Q = two_spans()
    moved = rotate_moments(P, Q, state, fresh)
    R, m, v = (np.asarray(x, np.float64) for x in (P.T @ Q, state.mu, state.nu))
    first, second = 1 - B1**4, 1 - B2**4
    n = R.T @ m
    variance = (R**2).T @ (v / second - (m / first) ** 2)
    expected = np.abs(second * (variance + (n / first) ** 2))
    np.testing.assert_allclose(moved.mu, n, atol=1e-6)
    np.testing.assert_allclose(moved.nu, expected, atol=1e-6)


def test_ldadams_rule_in_an_unchanged_subspace_changes_nothing():
    state, fresh = some_steps()
    P, _ = two_spans()
    moved = rotate_moments(P, P, state, fresh)
    np.testing.assert_allclose(moved.mu, state.mu, atol=1e-6)
    np.testing.assert_allclose(moved.nu, state.nu, atol=1e-6)


def test_ldadams_statistics_of_a_constant_gradient_are_those_of_its_new_coordinates():
    """Without variance the second moment is the squared mean, in any coordinates."""
    a = draw((RANK, M))
    state, fresh = stepped(a, a, a)
    P, Q = two_spans()
    moved = rotate_moments(P, Q, state, fresh)
    expected, _ = stepped(*[Q.T @ P @ a] * 3)
    np.testing.assert_allclose(moved.mu, expected.mu, atol=1e-6)
    np.testing.assert_allclose(moved.nu, expected.nu, atol=1e-6)


def test_ldadams_statistics_of_independent_coordinates_are_those_of_the_turned_ones():
    """Rotated as a variance, the second moment is that of Rᵀ a, if a's entries are independent."""
    draws = 4000
    b1 = b2 = 1 - 1 / draws
    mean, deviation = draw((RANK, 1), 1), jnp.array([[0.1], [1.0], [3.0]])
    a = mean + deviation * draw((RANK, draws))
    R = orthonormal((RANK, RANK), 2)
    # Averages over the draws stand for moments after as many steps, without correction for them.
    count = jnp.asarray(10**7, jnp.int32)
    average = lambda x: jnp.mean(x, axis=1, keepdims=True) * jnp.ones((1, M))
    state = optax.ScaleByAdamState(count, average(a), average(a**2))
    inner = optax.scale_by_adam(b1, b2)
    P = jnp.eye(N, RANK)
    moved = transported(RotateMoments(b1, b2), SPAN(P), SPAN(P @ R), state, state, inner)
    np.testing.assert_allclose(moved.mu, average(R.T @ a), atol=1e-4)
    np.testing.assert_allclose(moved.nu, average((R.T @ a) ** 2), rtol=0.05)


def test_before_any_step_there_is_nothing_to_rotate():
    state, fresh = stepped()
    P, Q = two_spans()
    moved = rotate_moments(P, Q, state, fresh)
    for leaf in jax.tree.leaves(moved):
        np.testing.assert_array_equal(leaf, 0)


def test_an_unknown_transport_is_explained():
    with pytest.raises(ValueError, match="transport='teleport' is unknown; use one of"):
        resolve("teleport")
