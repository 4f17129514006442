"""The cosine transform on several devices: what it sends, and what it computes."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from benchmarks.collectives import collectives
from lowrank_optax.linalg import orthogonal_dct, orthogonal_idct

TRANSFORMS = [orthogonal_dct, orthogonal_idct]
AXIS_TYPES = [AxisType.Auto, AxisType.Explicit]
SHAPE = (8, 16, 32)


def mesh_of(axis_type=AxisType.Auto):
    return jax.make_mesh((4, 2), ("a", "b"), axis_types=(axis_type, axis_type))


def normal(shape=SHAPE, dtype=jnp.float32, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def spread(x, *spec, axis_type=AxisType.Auto):
    return jax.device_put(x, NamedSharding(mesh_of(axis_type), PartitionSpec(*spec)))


def fft(transform=orthogonal_dct, axis=-1):
    return lambda x: transform(x, axis, "fft")


def exact(x, transform=orthogonal_dct):
    reference = scipy.fft.dct if transform is orthogonal_dct else scipy.fft.idct
    return reference(np.asarray(x, np.float64), norm="ortho")


def sent(compiled):
    """What the devices send each other: kind and number of devices that take part."""
    return [(each.kind, each.group) for each in collectives(compiled.as_text())]


def assert_close(actual, expected, tolerance=1e-5):
    np.testing.assert_allclose(
        np.asarray(actual, np.float64), np.asarray(expected, np.float64), atol=tolerance
    )


@pytest.mark.parametrize("mesh_is_set", [False, True])
@pytest.mark.parametrize("axis_type", AXIS_TYPES)
@pytest.mark.parametrize("spec", [(None, "a"), ("b", "a"), (("a", "b"), None)])
def test_split_rows_and_batches_send_nothing(axis_type, spec, mesh_is_set):
    x = normal()
    sharded = spread(x, *spec, axis_type=axis_type)
    with jax.set_mesh(sharded.sharding.mesh) if mesh_is_set else contextlib.nullcontext():
        for transform in TRANSFORMS:
            compiled = jax.jit(fft(transform)).lower(sharded).compile()
            y = compiled(sharded)
            assert sent(compiled) == []
            assert y.sharding.is_equivalent_to(sharded.sharding, x.ndim)
            assert_close(y, exact(x, transform))


def test_any_axis_is_transformed_without_sending_if_it_is_whole():
    x = normal((32, 8, 4))
    sharded = spread(x, None, "a", "b")
    compiled = jax.jit(fft(axis=0)).lower(sharded).compile()
    assert sent(compiled) == []
    assert_close(compiled(sharded), fft(axis=0)(x))


@pytest.mark.parametrize("mesh_is_set", [False, True])
@pytest.mark.parametrize("axis_type", AXIS_TYPES)
@pytest.mark.parametrize(
    ("spec", "devices"),
    [((None, None, "a"), 4), (("b", None, "a"), 4), ((None, None, ("b", "a")), 8)],
)
def test_a_split_transformed_axis_is_exchanged_for_rows_and_back(
    axis_type, spec, devices, mesh_is_set
):
    x = normal()
    sharded = spread(x, *spec, axis_type=axis_type)
    with jax.set_mesh(sharded.sharding.mesh) if mesh_is_set else contextlib.nullcontext():
        for transform in TRANSFORMS:
            compiled = jax.jit(fft(transform)).lower(sharded).compile()
            y = compiled(sharded)
            assert sent(compiled) == [("all-to-all", devices)] * 2
            assert y.sharding.is_equivalent_to(sharded.sharding, x.ndim)
            assert_close(y, exact(x, transform))


@pytest.mark.parametrize("method", ["factored", "matmul"])
def test_matrix_products_exchange_rows_too_instead_of_adding_up_partial_ones(method):
    x = normal()
    for spec, count in [((None, None, "a"), 2), (("b", "a"), 0)]:
        sharded = spread(x, *spec)
        compiled = jax.jit(lambda x: orthogonal_dct(x, method=method)).lower(sharded).compile()
        assert sent(compiled) == [("all-to-all", 4)] * count
        assert_close(compiled(sharded), exact(x))


@pytest.mark.parametrize("axis_type", AXIS_TYPES)
@pytest.mark.parametrize(
    ("shape", "spec"),
    [((32,), ("a",)), ((3, 32), (None, "a")), ((2, 32), ("b", "a"))],
)
def test_rows_that_do_not_divide_among_the_devices_are_exchanged_too(axis_type, shape, spec):
    x = normal(shape)
    sharded = spread(x, *spec, axis_type=axis_type)
    compiled = jax.jit(fft()).lower(sharded).compile()
    y = compiled(sharded)
    assert sent(compiled) == [("all-to-all", 4)] * 2
    assert y.sharding.is_equivalent_to(sharded.sharding, x.ndim)
    assert_close(y, exact(x))


@pytest.mark.parametrize("shape", [(8, 30), (5, 7)])
@pytest.mark.parametrize("spec", [(None, "a"), ("b", "a"), ("a", None)])
def test_axes_that_the_compiler_splits_unevenly_keep_their_values(shape, spec):
    x = normal(shape)
    sharding = NamedSharding(mesh_of(), PartitionSpec(*spec))
    replicated = spread(x)

    @jax.jit
    def transform(x):
        return fft()(jax.lax.with_sharding_constraint(x, sharding))

    assert_close(transform(replicated), exact(x))


@pytest.mark.parametrize("axis_type", AXIS_TYPES)
def test_vmap_maps_split_axes_without_sending(axis_type):
    x = normal()
    for spec in [("a", "b"), (None, "a")]:
        sharded = spread(x, *spec, axis_type=axis_type)
        for mapped in [
            jax.vmap(fft()),
            jax.vmap(jax.vmap(fft())),
            jax.vmap(fft(), in_axes=1, out_axes=1),
        ]:
            compiled = jax.jit(mapped).lower(sharded).compile()
            assert sent(compiled) == []
            assert_close(compiled(sharded), exact(x))


@pytest.mark.parametrize("axis_type", AXIS_TYPES)
@pytest.mark.parametrize("spec", [("b", "a"), ("b", None, "a")])
def test_derivatives_are_the_transform_and_its_inverse(axis_type, spec):
    x, other = normal(), normal(seed=1)
    sharded, direction = (spread(value, *spec, axis_type=axis_type) for value in (x, other))
    for transform, inverse in [TRANSFORMS, TRANSFORMS[::-1]]:
        tangent = jax.jit(lambda x, t, f=transform: jax.jvp(fft(f), (x,), (t,))[1])
        gradient = jax.jit(lambda x, t, f=transform: jax.vjp(fft(f), x)[1](t)[0])
        for derivative, expected in [(tangent, transform), (gradient, inverse)]:
            compiled = derivative.lower(sharded, direction).compile()
            assert {kind for kind, _ in sent(compiled)} <= {"all-to-all"}
            assert bool(sent(compiled)) == (spec[-1] == "a" and len(spec) == 3)
            y = compiled(sharded, direction)
            assert y.sharding.is_equivalent_to(sharded.sharding, x.ndim)
            assert_close(y, exact(other, expected))


def test_gradient_of_a_mapped_rematerialized_scan_agrees_with_one_device():
    def loss(x):
        rows = jax.checkpoint(jax.vmap(fft()))
        _, ys = jax.lax.scan(lambda c, row: (c, rows(row) ** 3), None, x)
        return jnp.sum(ys)

    x = normal((2, 8, 32))
    compiled = jax.jit(jax.grad(loss)).lower(spread(x, None, "a")).compile()
    assert {kind for kind, _ in sent(compiled)} == set()
    # Cubes of transformed normals: float32's rounding of gradients of up to about 40.
    assert_close(compiled(spread(x, None, "a")), jax.grad(loss)(x), 1e-4)


@pytest.mark.parametrize("spec", [("b", "a"), (None, None, "a")])
def test_double_and_half_precision_keep_dtype_and_values(float64, spec):
    for dtype, tolerance in [(jnp.float64, 1e-12), (jnp.bfloat16, 0), (jnp.float16, 0)]:
        x = normal(dtype=dtype)
        y = jax.jit(fft())(spread(x, *spec))
        assert y.dtype == dtype
        assert_close(y, fft()(x), tolerance)


def test_arrays_are_transformed_outside_jit_and_uncommitted_under_a_mesh():
    x = normal()
    sharded = spread(x, "b", None, "a")
    y = fft()(sharded)
    assert y.sharding.is_equivalent_to(sharded.sharding, x.ndim)
    assert_close(y, exact(x))
    for axis_type in AXIS_TYPES:
        with jax.set_mesh(mesh_of(axis_type)):
            assert_close(fft()(normal()), y)
            assert_close(jax.jit(lambda: fft()(normal()))(), y)


@pytest.mark.parametrize("axis_names", [{"a", "b"}, {"a"}])
def test_shard_map_computes_on_its_own_parts(axis_names):
    x = normal()
    sharded = spread(x, "a")
    spec = PartitionSpec("a")
    mapped = jax.shard_map(
        fft(), mesh=sharded.sharding.mesh, in_specs=spec, out_specs=spec, axis_names=axis_names
    )
    compiled = jax.jit(mapped).lower(sharded).compile()
    assert "lowrank_optax_dct" not in str(jax.make_jaxpr(mapped)(sharded))
    assert sent(compiled) == []
    assert_close(compiled(sharded), exact(x))


def test_auto_axes_inside_an_explicit_mesh_are_transformed():
    x = normal()
    sharded = spread(x, "b", "a", axis_type=AxisType.Explicit)
    with jax.set_mesh(sharded.sharding.mesh):
        inside = jax.sharding.auto_axes(fft(), out_sharding=PartitionSpec("b", "a"))
        assert_close(jax.jit(inside)(sharded), exact(x))


def test_one_device_compiles_the_plain_fft():
    x = normal()
    one = jax.make_mesh((1,), ("a",), axis_types=(AxisType.Auto,), devices=jax.devices()[:1])
    for value in [x, jax.device_put(x, NamedSharding(one, PartitionSpec("a")))]:
        assert "custom_partitioning" not in str(jax.make_jaxpr(fft())(value))
        text = jax.jit(fft()).lower(value).compile().as_text()
        assert "CustomSPMDPartitioning" not in text
    assert "custom_partitioning" in str(jax.make_jaxpr(fft())(spread(x, "a")))
