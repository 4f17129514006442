"""Products with kernels: JAX's numbers and gradients, and how XLA makes them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.linear import KERNEL_PRODUCT, Linear, kernel_product


def operands(dtype="float32", batch=(2, 3)):
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (*batch, 8), dtype)
    return x, jax.random.normal(keys[1], (8, 5), dtype), jax.random.normal(keys[2], (*batch, 5))


def gradients(product, x, kernel, cotangent):
    return jax.grad(lambda *both: jnp.vdot(product(*both), cotangent), (0, 1))(x, kernel)


@pytest.mark.product(every=3)
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)], ids=str)
def test_gradients_are_those_of_matmul(batch):
    x, kernel, cotangent = operands(batch=batch)
    np.testing.assert_allclose(kernel_product(x, kernel), x @ kernel, rtol=1e-6)
    ours = gradients(kernel_product, x, kernel, cotangent)
    for mine, theirs in zip(ours, gradients(jnp.matmul, x, kernel, cotangent), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)


def test_gradients_of_half_precision_operands_are_rounded_once():
    x, kernel, cotangent = operands("bfloat16")

    def wide(x, kernel):
        return kernel_product(x, kernel, jnp.float32)

    def theirs(x, kernel):
        return jnp.matmul(x, kernel, preferred_element_type=jnp.float32)

    assert wide(x, kernel).dtype == jnp.float32
    for mine, expected in zip(
        gradients(wide, x, kernel, cotangent), gradients(theirs, x, kernel, cotangent), strict=True
    ):
        assert mine.dtype == jnp.bfloat16
        np.testing.assert_array_equal(mine, expected)


@pytest.mark.parametrize("use_bias", [False, True])
def test_layer_is_that_of_flax(use_bias):
    layers = [
        kind(8, 5, use_bias=use_bias, dtype="bfloat16", rngs=nnx.Rngs(0))
        for kind in (Linear, nnx.Linear)
    ]
    x, _, _ = operands()
    ours, theirs = (layer(x) for layer in layers)
    assert ours.dtype == theirs.dtype == jnp.bfloat16
    np.testing.assert_array_equal(ours, theirs)


def test_a_policy_can_keep_the_products():
    x, kernel, _ = operands()
    policy = jax.checkpoint_policies.save_only_these_names(KERNEL_PRODUCT)

    def loss(x, kernel, policy):
        product = jax.checkpoint(lambda x: jnp.sin(kernel_product(x, kernel)), policy=policy)
        return product(x).sum()

    def products(policy):
        return str(
            jax.make_jaxpr(jax.grad(loss, (0, 1)), static_argnums=2)(x, kernel, policy)
        ).count("dot_general[")

    assert products(policy) == 3
    assert products(None) == 4


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="asks XLA's compiler for CPUs")
def test_no_product_of_a_compiled_gradient_reads_its_left_side_transposed():
    x, kernel, cotangent = operands(batch=(8, 64))

    def slow_products(product):
        compiled = jax.jit(lambda *given: gradients(product, *given)).lower(x, kernel, cotangent)
        text = compiled.compile().as_text()
        return sum(
            " dot(" in line and "lhs_contracting_dims={0}" in line for line in text.splitlines()
        )

    assert slow_products(kernel_product) == 0
    assert slow_products(jnp.matmul) > 0
