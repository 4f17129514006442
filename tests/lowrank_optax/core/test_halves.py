"""The engine's step in half precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lowrank_optax as lro


@pytest.mark.product(every=3)
@pytest.mark.parametrize("projection", ["svd", "random", "dct"])
def test_a_step_in_float16_does_not_overflow_before_the_learning_rate_is_applied(projection):
    """Coordinates of 3000 · √1024 are beyond its 65504; 1e-6 of what they are lifted to is not."""
    tx = lro.low_rank(1e-6, 1, projection=projection, inner="sgd", compress="in")
    update = jax.jit(lambda G: tx.update(G, tx.init(G))[0]["w"])
    G = {"w": np.full((1024, 4), 3e3, np.float32)}
    expected = update(G)
    got = update(jax.tree.map(lambda x: x.astype(jnp.float16), G))
    assert got.dtype == jnp.float16
    np.testing.assert_allclose(got, expected, rtol=2e-3, atol=1e-6)
