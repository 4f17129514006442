"""The first example of the README is safe as it is written."""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax

README = pathlib.Path(__file__).parents[1] / "README.md"


def test_what_is_no_matrix_takes_the_first_step_of_adamw_at_the_rate_that_it_had():
    names = {"optax": optax}
    exec(re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), flags=re.DOTALL)[0], names)
    tx = names["tx"]
    embedding = jnp.tile(jnp.array([1.0, -1.0]), (24, 8))
    params = {
        "embed": embedding,
        "norm": jnp.ones(16),
        "kernel": jnp.eye(16, 32),
        "lm_head": {"kernel": embedding.T},
    }
    updates, _ = jax.jit(tx.update)(params, jax.jit(tx.init)(params), params)
    np.testing.assert_allclose(updates["norm"], -3e-3, rtol=0.01)
    np.testing.assert_allclose(updates["embed"], -3e-3 * embedding, rtol=0.01)
    np.testing.assert_allclose(updates["lm_head"]["kernel"], -3e-3 * embedding.T, rtol=0.01)
    assert float(jnp.abs(updates["kernel"]).max()) > 0
