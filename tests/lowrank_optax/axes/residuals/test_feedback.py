"""What happens outside the subspace: nothing is lost that should be kept."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lowrank_optax as lro
from lowrank_optax.linalg.quantization import dequantize, quantized_bytes

M, N, RANK, STEPS = 8, 5, 3, 6


def apply_all(residual, grads):
    """Sum of the steps of plain low-rank gradient descent, and the final state."""
    tx = lro.scale_by_low_rank(optax.identity(), lro.projections.dct(RANK), residual=residual)
    state = jax.jit(tx.init)(grads[0])
    update = jax.jit(tx.update)
    applied = jnp.zeros_like(grads[0])
    for grad in grads:
        step, state = update(grad, state)
        applied += step
    return applied, state


def draw(seed):
    """Gradients of a JAX kernel (in, out), whose in side is the smaller one."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=(STEPS, N, M)), jnp.float32)


def in_weight_space(coefficients):
    return lro.orthogonal_idct(coefficients).T


@settings(max_examples=5)
@given(seed=st.integers(0, 10**6))
@pytest.mark.parametrize(("bits", "atol"), [(32, 1e-5), (None, 1e-5), (8, 0.05), (4, 1.0)])
def test_error_feedback_telescopes(bits, atol, seed):
    """Applied steps plus the stored error are the gradients, up to the rounding of each store."""
    grads = draw(seed)
    applied, state = apply_all(lro.residuals.error_feedback(bits), grads)
    stored = state.residual if bits in (32, None) else dequantize(state.residual, size=N, bits=bits)
    np.testing.assert_allclose(applied + in_weight_space(stored), grads.sum(0), atol=atol)


def test_stored_error_takes_the_bytes_of_its_bits():
    shape = (48, 32)
    for bits in (8, 4):
        tx = lro.dct_adamw(0.1, 4, error_feedback=bits)
        plain = lro.dct_adamw(0.1, 4, error_feedback=None)
        params = {"w": jax.ShapeDtypeStruct(shape, jnp.float32)}
        more = (
            lro.memory_report(tx, params).total_bytes - lro.memory_report(plain, params).total_bytes
        )
        assert more == quantized_bytes(shape, bits=bits)


def test_stochastic_rounding_draws_anew_at_every_step_and_repeats_from_its_seed():
    residual = lro.residuals.error_feedback(4, rounding="stochastic")
    grads = draw(0)
    first, state = apply_all(residual, grads)
    again, _ = apply_all(residual, grads)
    nearest, _ = apply_all(lro.residuals.error_feedback(4), grads)
    np.testing.assert_array_equal(first, again)
    assert np.abs(np.asarray(first - nearest)).max() > 0
    assert state.key.dtype == jnp.uint32


@settings(max_examples=5)
@given(seed=st.integers(0, 10**6), decay=st.floats(0, 1), outside=st.floats(0, 1))
def test_momentum_decays_what_it_applied_and_what_it_did_not_separately(seed, decay, outside):
    grads = draw(seed)[:1]
    applied, state = apply_all(lro.residuals.momentum(decay, outside), grads)
    expected = decay * applied + outside * (grads[0] - applied)
    np.testing.assert_allclose(in_weight_space(state.residual), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bits": 16}, "bits=16 is not offered for error feedback; use 8, 4, 32 or None"),
        ({"rounding": "up"}, "rounding='up' is unknown; use 'nearest' or 'stochastic'"),
    ],
)
def test_bad_arguments_are_explained(arguments, message):
    with pytest.raises(ValueError, match=message):
        lro.residuals.error_feedback(**arguments)
