"""The gradient of a batch that is read in parts."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from training.steps.update import mean_gradient


@pytest.mark.product(every=2)
@pytest.mark.parametrize("parts", [1, 2, 4])
def test_micro_batches_give_the_gradient_of_the_whole_batch(parts):
    tokens = jax.random.randint(jax.random.key(0), (8, 5), 0, 9)
    params = {"table": jax.random.normal(jax.random.key(1), (9, 9))}

    def loss_fn(params, tokens):
        logits = params["table"][tokens[:, :-1]]
        return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()

    loss, gradient = jax.jit(mean_gradient, static_argnums=(0, 3))(loss_fn, params, tokens, parts)
    expected_loss, expected = jax.jit(jax.value_and_grad(loss_fn))(params, tokens)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-6)
    np.testing.assert_allclose(gradient["table"], expected["table"], atol=1e-7)


def test_small_gradients_of_many_micro_batches_are_not_lost_in_bfloat16():
    """A bfloat16 sum of 1 and 255 times 1/256 is 1: every term is half of its last bit."""
    coefficients = jnp.full((256, 3), 1 / 256).at[0].set(1)
    params = {"scale": jnp.ones(3, jnp.bfloat16)}

    def loss_fn(params, rows):
        return jnp.mean(rows.astype(jnp.bfloat16) @ params["scale"]).astype(jnp.float32)

    _, gradient = jax.jit(mean_gradient, static_argnums=(0, 3))(loss_fn, params, coefficients, 256)
    assert gradient["scale"].dtype == jnp.bfloat16  # as optax's states of such parameters expect
    expected = np.asarray(coefficients).mean(axis=0)
    np.testing.assert_allclose(gradient["scale"].astype(np.float32), expected, rtol=2**-8)
