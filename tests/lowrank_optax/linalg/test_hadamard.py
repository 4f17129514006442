"""The Walsh–Hadamard transform: Sylvester's matrix, orthonormal, never formed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from drawing import draw

from lowrank_optax.linalg.hadamard import hadamard_columns, orthogonal_hadamard


@pytest.mark.product(every=3)
@pytest.mark.parametrize("n", [1, 2, 8, 64])
def test_it_is_sylvesters_matrix_in_orthonormal_form(n, float64):
    H = scipy.linalg.hadamard(n) / np.sqrt(n)
    x = draw((3, n, 2), dtype=jnp.float64)
    np.testing.assert_allclose(orthogonal_hadamard(x), H @ x, atol=1e-13)
    np.testing.assert_allclose(orthogonal_hadamard(x[0]), H @ x[0], atol=1e-13)
    np.testing.assert_allclose(hadamard_columns(n, jnp.arange(n), jnp.float64), H, rtol=1e-15)


def test_it_undoes_itself():
    x = draw((4, 16, 3))
    np.testing.assert_allclose(orthogonal_hadamard(orthogonal_hadamard(x)), x, atol=1e-6)


def test_columns_are_batched():
    indices = jnp.array([[0, 5], [7, 1]])
    columns = hadamard_columns(8, indices)
    assert columns.shape == (2, 8, 2)
    np.testing.assert_array_equal(columns[1], hadamard_columns(8, indices[1]))


def test_half_precision_is_computed_in_float32():
    x = draw((64, 4), dtype=jnp.bfloat16)
    y = orthogonal_hadamard(x)
    assert y.dtype == jnp.bfloat16
    expected = orthogonal_hadamard(x.astype(jnp.float32)).astype(jnp.bfloat16)
    np.testing.assert_array_equal(y, expected)


def test_two_small_products_in_four_passes_and_no_large_matrix():
    shape = jax.ShapeDtypeStruct((1024, 512), jnp.float32)
    compiled = orthogonal_hadamard.lower(shape).compile()
    cost = compiled.cost_analysis()
    assert "[1024,1024]" not in compiled.as_text()
    assert cost["flops"] <= 1.01 * 1024 * 512 * 2 * (32 + 32)
    assert cost["bytes accessed"] <= 4.2 * 4 * 1024 * 512


@pytest.mark.parametrize("n", [3, 12, 0])
def test_another_length_is_refused_with_the_remedy(n):
    message = rf"a power of two, not n = {n}: use the DCT, which takes any n"
    with pytest.raises(ValueError, match=message):
        orthogonal_hadamard(jnp.ones((n, 2)))
    with pytest.raises(ValueError, match=message):
        hadamard_columns(n, jnp.array([0]))
