"""Stacked matrices are factorised one after the other on a CPU, where batches can hang."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawing import draw
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from lowrank_optax.linalg.devices import matrix_by_matrix
from lowrank_optax.linalg.orthogonalize import orthonormal_columns
from lowrank_optax.linalg.singular import right_singular_vectors

FACTORISATIONS = {
    "qr": orthonormal_columns,
    "cholesky_qr": functools.partial(orthonormal_columns, method="cholesky_qr"),
    "svd": lambda x: right_singular_vectors(x, 4, "exact")[0],
    "gram": lambda x: right_singular_vectors(x, 4, "gram")[0],
}


def batch_axes(function):
    """How many batch axes each kernel of the compiled program takes."""
    text = jax.jit(function).lower(draw((2, 3, 8, 4))).compile().as_text()
    return [int(count) for count in re.findall(r'num_batch_dims="(\d+)"', text)]


@pytest.mark.parametrize("name", FACTORISATIONS)
def test_no_kernel_is_given_a_batch(name):
    assert set(batch_axes(FACTORISATIONS[name])) == {0}
    assert set(batch_axes(lambda x: jnp.linalg.qr(x)[0])) == {2}


@pytest.mark.parametrize("name", FACTORISATIONS)
def test_a_stack_gives_what_its_matrices_give(name):
    x = draw((2, 3, 8, 4))
    stacked = jax.jit(FACTORISATIONS[name])(x)
    assert stacked.shape[:2] == (2, 3)
    for i in np.ndindex(2, 3):
        np.testing.assert_array_equal(stacked[i], jax.jit(FACTORISATIONS[name])(x[i]))


def test_matrices_on_several_devices_stay_one_batch():
    mesh = jax.make_mesh((8,), ("a",), axis_types=(AxisType.Auto,))
    x = jax.device_put(draw((8, 6, 4)), NamedSharding(mesh, PartitionSpec("a")))
    jaxpr = jax.make_jaxpr(functools.partial(matrix_by_matrix, jnp.linalg.qr))(x)
    assert "scan" not in str(jaxpr)
