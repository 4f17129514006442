"""Columns of the DCT basis: orthonormal, exact at any length, by a table or by cosines."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from lowrank_optax.linalg.dct_basis import dct_columns, dct_matrix


def exact_columns(n, indices):
    """The basis in numpy's float64, phases reduced in 64-bit integers."""
    phase = (2 * np.arange(n)[:, None] + 1) * np.asarray(indices) % (4 * n)
    scale = np.where(np.asarray(indices) == 0, np.sqrt(1 / n), np.sqrt(2 / n))
    return scale * np.cos(np.pi * phase / (2 * n))


@pytest.mark.product(every=3)
@pytest.mark.parametrize("n", [1, 2, 7, 64, 255])
def test_matrix_is_orthogonal_and_columns_are_its_columns(n):
    q = dct_matrix(n)
    np.testing.assert_allclose(q @ q.T, np.eye(n), atol=5e-6)
    indices = jnp.array([[n - 1, 0], [n // 2, n // 3]])
    columns = dct_columns(n, indices)
    assert columns.shape == (2, n, 2)
    np.testing.assert_array_equal(columns, jnp.moveaxis(q[:, indices], 0, 1))
    third = dct_columns(n, indices, kind="III")
    np.testing.assert_allclose(third, jnp.moveaxis(q.T[:, indices], 0, 1), atol=1e-7)


@pytest.mark.product(every=3)
@pytest.mark.parametrize("n", [768, 4096, 30_011, 50_000, 250_007])
@pytest.mark.parametrize("kind", ["II", "III"])
def test_columns_are_exact_in_float32_at_any_length(n, kind):
    indices = np.array([0, 1, n // 3, n - 2, n - 1])
    columns = np.asarray(dct_columns(n, jnp.asarray(indices), kind=kind))
    if kind == "II":
        expected = exact_columns(n, indices)
    else:
        phase = np.arange(n)[:, None] * (2 * indices + 1) % (4 * n)
        scale = np.where(np.arange(n) == 0, np.sqrt(1 / n), np.sqrt(2 / n))[:, None]
        expected = scale * np.cos(np.pi * phase / (2 * n))
    # Phases in float32 would be off by about n · 1e-7.
    assert np.max(np.abs(columns - expected)) <= 1.5e-7 * np.max(np.abs(expected))


def test_columns_are_exact_in_float64_and_rounded_in_bfloat16(float64):
    indices = jnp.array([0, 5, 99])
    columns = dct_columns(100, indices, jnp.float64)
    assert columns.dtype == jnp.float64
    np.testing.assert_allclose(columns, exact_columns(100, indices), atol=1e-15)
    half = dct_columns(100, indices, jnp.bfloat16)
    np.testing.assert_array_equal(half, dct_columns(100, indices).astype(jnp.bfloat16))


@pytest.mark.parametrize("platform", ["cpu", "cuda", "rocm", "tpu"])
def test_the_platform_compiled_for_decides_whether_cosines_are_computed(platform):
    columns = jax.jit(lambda i: dct_columns(96, i))
    indices = jax.ShapeDtypeStruct((8,), jnp.int32)
    text = jax.export.export(columns, platforms=[platform])(indices).mlir_module()
    assert ("stablehlo.cosine" in text) == (platform == "tpu")


def test_computed_cosines_equal_the_table():
    # What is compiled for a TPU, run here.
    indices = jnp.arange(33)
    exported = jax.export.export(
        jax.jit(lambda i: dct_columns(33, i)),
        platforms=["tpu"],
        disabled_checks=[jax.export.DisabledSafetyCheck.platform()],
    )(indices)
    np.testing.assert_allclose(jax.jit(exported.call)(indices), dct_columns(33, indices), atol=5e-8)


@pytest.mark.parametrize("spec", [("b", "a"), (None, "a")])
def test_columns_are_sharded_as_their_indices_under_explicit_axes(spec):
    mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(AxisType.Explicit,) * 2)
    indices = jnp.arange(32).reshape(4, 8)
    with jax.set_mesh(mesh):
        sharded = jax.device_put(indices, NamedSharding(mesh, PartitionSpec(*spec)))
        columns = jax.jit(lambda i: dct_columns(64, i))(sharded)
        assert columns.sharding.spec == PartitionSpec(spec[0], None, spec[1])
    np.testing.assert_array_equal(columns, dct_columns(64, indices))


def test_wrong_basis_arguments_are_named():
    with pytest.raises(ValueError, match="not n = 0"):
        dct_matrix(0)
    with pytest.raises(ValueError, match='unknown DCT kind \'IV\': choose "II" or "III"'):
        dct_columns(4, jnp.arange(2), kind="IV")
    with pytest.raises(TypeError, match="int32 is not a floating dtype"):
        dct_columns(4, jnp.arange(2), jnp.int32)
