"""Every named method's update lowers for GPUs and TPUs, on a machine that has neither."""

import jax
import jax.numpy as jnp
import pytest
from drawing import draw
from methods import each_method, make, model


@pytest.mark.product
@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@each_method
def test_the_update_lowers_for_accelerators(name, platform):
    tx = make(name)
    params = model(0) | {"half": draw((6, 12), 1, jnp.bfloat16)}
    params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
    state = jax.eval_shape(tx.init, params)
    exported = jax.export.export(jax.jit(tx.update), platforms=[platform])(params, state, params)
    assert exported.platforms == (platform,)
    updates, _ = jax.tree.unflatten(exported.out_tree, exported.out_avals)
    assert updates["half"].dtype == jnp.bfloat16
