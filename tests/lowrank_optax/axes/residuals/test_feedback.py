"""What happens outside the subspace: nothing is lost that should be kept."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from drawing import draw
from hypothesis import given, settings
from hypothesis import strategies as st
from methods import compiled

import lowrank_optax as lro
from lowrank_optax.linalg.quantization import dequantize, quantize

N, M, RANK, STEPS = 5, 8, 3, 6


def apply_all(residual, grads, projection=None):
    """Sum of the steps of plain low-rank gradient descent, and the final state."""
    projection = projection or lro.projections.dct(RANK)
    tx = lro.scale_by_low_rank(optax.identity(), projection, residual=residual)
    tx = compiled(tx)
    state, applied = tx.init(grads[0]), 0.0
    for grad in np.asarray(grads):
        step, state = tx.update(grad, state)
        applied += np.asarray(step)
    return applied, state


def gradients(seed):
    """Of a JAX kernel (in, out), whose in side is the smaller one."""
    return draw((STEPS, N, M), seed)


coefficients_of = jax.jit(lambda G: lro.orthogonal_dct(G, axis=-2))
in_weight_space = jax.jit(lambda S: lro.orthogonal_idct(S, axis=-2))
read = jax.jit(lambda stored: dequantize(stored, size=N, axis=-2))
store = jax.jit(lambda E, storage: quantize(E, storage, axis=-2), static_argnums=1)


def stored_error(state, storage):
    return np.asarray(state.residual if storage == "float32" else read(state.residual))


@pytest.mark.parametrize("storage", ["float32", "int8", "int4"])
def test_error_feedback_stores_what_it_does_not_apply_up_to_the_rounding_of_the_store(storage):
    tx = compiled(
        lro.scale_by_low_rank(
            optax.identity(),
            lro.projections.dct(RANK),
            residual=lro.residuals.error_feedback(storage),
        )
    )
    grads = gradients(0)
    state, stored = tx.init(grads[0]), np.zeros((N, M), np.float32)
    for grad in np.asarray(grads):
        step, state = tx.update(grad, state)
        A = np.asarray(coefficients_of(grad)) + stored
        rest = A.copy()
        rest[np.asarray(state.basis)] = 0.0
        np.testing.assert_allclose(step, in_weight_space(A - rest), atol=1e-5)
        if storage != "float32":
            rest = read(store(rest, storage))
        stored = stored_error(state, storage)
        np.testing.assert_allclose(stored, rest, atol=1e-5)


@pytest.mark.product(every=2)
@pytest.mark.parametrize(
    "projection",
    [
        lro.projections.svd(2),
        lro.projections.power_iteration(2),
        lro.projections.two_sided(lro.projections.svd(3), lro.projections.random(2)),
    ],
    ids=["svd", "power_iteration", "two_sided"],
)
def test_error_feedback_telescopes_in_subspaces_of_any_kind(projection):
    grads = gradients(1)
    applied, state = apply_all(lro.residuals.error_feedback("float32"), grads, projection)
    np.testing.assert_allclose(applied + state.residual, grads.sum(0), atol=1e-5)


@pytest.mark.parametrize("storage", ["int8", "int4"])
def test_the_chosen_rows_of_a_stored_error_are_zero_and_come_back_as_zero(storage):
    _, state = apply_all(lro.residuals.error_feedback(storage), gradients(2))
    error = stored_error(state, storage)
    np.testing.assert_array_equal(error[np.asarray(state.basis)], 0.0)
    assert np.any(error != 0, axis=-1).sum() == N - RANK


def test_stored_error_takes_the_bytes_of_its_bits():
    n, m = 32, 48
    for storage, bits in (("int8", 8), ("int4", 4)):
        tx = lro.dct_adamw(0.1, 4, error_feedback=storage)
        plain = lro.dct_adamw(0.1, 4, error_feedback=None)
        params = {"w": jax.ShapeDtypeStruct((n, m), jnp.float32)}
        more = (
            lro.memory_report(tx, params).total_bytes - lro.memory_report(plain, params).total_bytes
        )
        assert more == n * m * bits // 8 + 4 * m  # and one scale a column


def test_stochastic_rounding_draws_anew_at_every_step_and_repeats_from_its_seed():
    residual = lro.residuals.error_feedback("int4", rounding="stochastic")
    grads = jnp.stack([gradients(0)[0]] * 2)
    first, _ = apply_all(residual, grads)
    again, _ = apply_all(residual, grads)
    nearest, _ = apply_all(lro.residuals.error_feedback("int4"), grads)
    np.testing.assert_array_equal(first, again)
    assert np.abs(np.asarray(first - nearest)).max() > 0
    # The same error, rounded at another step, draws other noise.
    tx = compiled(
        lro.scale_by_low_rank(optax.identity(), lro.projections.dct(RANK), residual=residual)
    )
    start = tx.init(grads[0])
    stored = [
        tx.update(grads[0], start._replace(count=jnp.asarray(count, jnp.int32)))[1].residual.codes
        for count in (0, 1)
    ]
    assert np.any(stored[0] != stored[1])


@pytest.mark.product(every=3)
@pytest.mark.parametrize("update_interval", [1, 2])
@pytest.mark.parametrize("transport", ["keep", "reset", "rotate", "rotate_first", "rotate_moments"])
def test_what_the_transport_of_the_moment_loses_is_fed_back(transport, update_interval):
    """E ← A − P a + β₁ / (1 − β₁) (P_previous m − P n), as LDAdam stores it."""
    grads, b1 = gradients(3), 0.8
    plain, fed = (
        compiled(
            lro.scale_by_low_rank(
                optax.scale_by_adam(b1=b1),
                lro.projections.svd(RANK),
                update_interval=update_interval,
                transport=transport,
                residual=lro.residuals.error_feedback("float32", moment_decay=decay),
            )
        )
        for decay in (None, b1)
    )
    _, before = fed.update(grads[0], fed.init(grads[0]))
    _, without = plain.update(grads[1], before)
    _, after = fed.update(grads[1], before)
    old, new, m = before.basis, after.basis, before.inner.mu
    n = {"keep": m, "reset": 0 * m}.get(transport, new.T @ old @ m)
    if update_interval == 1:
        assert float(lro.diagnostics.subspace_overlap(old, new)) < 0.99
    else:  # Nothing is transported, so nothing is lost.
        np.testing.assert_array_equal(old, new)
        n = m
    expected = without.residual + b1 / (1 - b1) * (old @ m - new @ n)
    np.testing.assert_allclose(after.residual, expected, atol=1e-5)


@pytest.mark.product(every=2)
@settings(max_examples=2)
@given(seed=st.integers(0, 10**6), decay=st.floats(0, 1), outside=st.floats(0, 1))
@pytest.mark.parametrize(
    "projection", [lro.projections.dct(RANK), lro.projections.svd(RANK)], ids=["dct", "svd"]
)
def test_momentum_decays_what_it_applied_and_what_it_did_not_separately(
    projection, seed, decay, outside
):
    grads = gradients(seed)[:1]
    residual = lro.residuals.momentum(decay, outside)
    applied, state = apply_all(residual, grads, projection)
    # What the next step adds to its gradient, which is zero here.
    subspace = projection.subspace(state.basis, (N, M))
    momentum = residual.accumulate(jnp.zeros((N, M)), state.residual, subspace)
    expected = decay * applied + outside * (grads[0] - applied)
    np.testing.assert_allclose(projection.synthesize(momentum), expected, atol=1e-5)


@pytest.mark.product(every=2)
@pytest.mark.parametrize("rank", [RANK, N])
def test_nesterovs_momentum_takes_the_coordinates_one_decay_ahead(rank):
    grads, decay = gradients(4), 0.7
    projection = lro.projections.identity(rank)
    applied, _ = apply_all(lro.residuals.momentum(decay, nesterov=True), grads, projection)
    expected, total = np.zeros((N, M)), np.zeros((N, M))
    for G in np.asarray(grads):
        total += G
        chosen = np.sort(np.argsort(np.abs(total).sum(1))[-rank:])
        expected[chosen] += (decay * total + G)[chosen]
        total[chosen] *= decay
    np.testing.assert_allclose(applied, expected, atol=1e-5)


@pytest.mark.parametrize("residual", [lro.residuals.error_feedback(), lro.residuals.momentum()])
def test_a_basis_that_is_not_orthonormal_is_refused_for_the_rest_would_grow(residual):
    gaussian = lro.projections.random(2, kind="gaussian")
    for projection in (gaussian, lro.projections.two_sided(lro.projections.svd(2), gaussian)):
        with pytest.raises(ValueError, match=r"grow.*Random.*gaussian.*projections.random\(\)"):
            lro.low_rank(0.1, projection=projection, residual=residual)
    with pytest.raises(ValueError, match=r"grow.*OnlinePca.*projections.random\(\)"):
        lro.low_rank(0.1, projection="online_pca", residual=residual)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"storage": "int16"}, "error_feedback='int16' is not offered; use one of .* or None"),
        ({"rounding": "up"}, "rounding='up' is unknown; use 'nearest' or 'stochastic'"),
        ({"moment_decay": 1.0}, r"moment_decay=1.0, the inner .* b1, must lie in \[0, 1\)"),
    ],
)
def test_bad_arguments_are_explained(arguments, message):
    with pytest.raises(ValueError, match=message):
        lro.residuals.error_feedback(**arguments)
