"""Which factors the factored transform takes, and what it does without any."""

import jax
import jax.numpy as jnp
import pytest

from lowrank_optax.linalg import orthogonal_dct, orthogonal_idct
from lowrank_optax.linalg.dct_factored import factor_pair


@pytest.mark.parametrize(
    ("n", "pair"),
    [(1, (1, 1)), (7, (7, 1)), (12, (6, 2)), (512, (32, 16)), (4096, (128, 32)), (15, (5, 3))],
)
def test_factor_pair_takes_the_fewest_multiplications(n, pair):
    assert factor_pair(n) == pair


@pytest.mark.parametrize("n", [13, 2 * 509])
def test_factored_transform_of_a_length_without_balanced_factors_is_the_product(n):
    x = jax.ShapeDtypeStruct((3, n), jnp.float32)
    text = jax.jit(lambda x: orthogonal_dct(x, method="factored")).lower(x).as_text()
    assert text == jax.jit(lambda x: orthogonal_dct(x, method="matmul")).lower(x).as_text()


def test_large_gradients_in_float16_are_transformed_in_float32():
    x = jnp.full((96, 2), 2e4, jnp.float16)
    coefficients = orthogonal_dct(x, 0, "factored", dtype=jnp.float32)
    assert coefficients[0, 0] == pytest.approx(2e4 * 96**0.5, rel=1e-3)
    back = orthogonal_idct(coefficients, 0, "factored", dtype=jnp.float16)
    assert jnp.allclose(back, x, rtol=1e-3)
