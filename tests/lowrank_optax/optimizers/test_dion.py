"""Dion's own arguments."""

import jax.numpy as jnp
from drawing import draw

import lowrank_optax as lro


def test_a_storage_of_a_floating_dtype_is_that_dtype():
    for mu_dtype in (jnp.bfloat16, lro.storage(jnp.bfloat16)):
        state = lro.scale_by_dion(2, mu_dtype=mu_dtype).init({"w": draw((4, 8))})
        assert state.residual["w"].dtype == jnp.bfloat16
