"""Dion's own arguments."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from drawing import draw

import lowrank_optax as lro

KERNEL = optax.contrib.MuonDimensionNumbers()


def test_a_storage_of_a_floating_dtype_is_that_dtype():
    for mu_dtype in (jnp.bfloat16, lro.storage(jnp.bfloat16)):
        state = lro.scale_by_dion(2, mu_dtype=mu_dtype).init({"w": draw((4, 8))})
        assert state.residual["w"].dtype == jnp.bfloat16


@pytest.mark.product(every=3)
@pytest.mark.parametrize(("way", "decay"), [("qr", 0.95), ("auto", 0.95), ("cholesky_qr", 1.0)])
def test_a_momentum_of_a_rank_below_r_is_applied_but_by_cholesky_qr_for_which_it_waits(way, decay):
    G = draw((6, 1), 0) @ draw((1, 8), 1)
    tx = lro.scale_by_dion(4, orthogonalize=way, dimension_numbers=KERNEL)
    step, state = jax.jit(lambda G: tx.update(G, tx.init(G)))(G)
    np.testing.assert_allclose(state.residual, decay * G, atol=1e-6)
    assert np.any(np.asarray(step) != 0) == (decay < 1)


@pytest.mark.parametrize("power_iters", [0, 1.5])
def test_power_iterations_are_a_whole_number(power_iters):
    with pytest.raises(ValueError, match=f"power_iters={power_iters} must be an int of at least 1"):
        lro.dion(0.1, power_iters=power_iters)
