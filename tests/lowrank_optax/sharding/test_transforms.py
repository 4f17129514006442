"""Transforms on several devices: what they send, and what they compute."""

import ast
import contextlib
import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft
from drawing import draw
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from layouts import eight_devices

import lowrank_optax as lro
from benchmarks.collectives import collectives
from lowrank_optax.linalg import orthogonal_dct, orthogonal_idct
from lowrank_optax.sharding.transforms import transform_columns

AXIS_TYPES = [AxisType.Auto, AxisType.Explicit]
SHAPE = (8, 32, 16)
METHODS = ["fft", "factored", "matmul"]
# Functions on one device that are the same objects in every test.
FORWARDS = {method: functools.partial(orthogonal_dct, axis=-2, method=method) for method in METHODS}
BACKWARDS = {
    method: functools.partial(orthogonal_idct, axis=-2, method=method) for method in METHODS
}


def dct(x, method="fft"):
    return transform_columns(FORWARDS[method], BACKWARDS[method], x)


def idct(x, method="fft"):
    return transform_columns(BACKWARDS[method], FORWARDS[method], x)


TRANSFORMS = [dct, idct]


def spread(x, *spec, axis_type=AxisType.Auto):
    return jax.device_put(x, NamedSharding(eight_devices(axis_type), PartitionSpec(*spec)))


def exact(x, transform=dct):
    reference = scipy.fft.dct if transform is dct else scipy.fft.idct
    return reference(np.asarray(x, np.float64), norm="ortho", axis=-2)


def sent(compiled):
    """What the devices send each other: kind and number of devices that take part."""
    return [(each.kind, each.group) for each in collectives(compiled.as_text())]


agree = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-5)


@pytest.mark.product
@pytest.mark.parametrize("mesh_is_set", [False, True])
@pytest.mark.parametrize("axis_type", AXIS_TYPES)
@pytest.mark.parametrize("spec", [(None, None, "a"), ("b", None, "a"), (("a", "b"), None)])
def test_split_columns_and_batches_send_nothing(axis_type, spec, mesh_is_set):
    x = draw(SHAPE)
    sharded = spread(x, *spec, axis_type=axis_type)
    with jax.set_mesh(sharded.sharding.mesh) if mesh_is_set else contextlib.nullcontext():
        for transform in TRANSFORMS:
            compiled = jax.jit(transform).lower(sharded).compile()
            y = compiled(sharded)
            assert sent(compiled) == []
            assert y.sharding.is_equivalent_to(sharded.sharding, x.ndim)
            agree(y, exact(x, transform))


@pytest.mark.product
@pytest.mark.parametrize("mesh_is_set", [False, True])
@pytest.mark.parametrize("axis_type", AXIS_TYPES)
@pytest.mark.parametrize(
    ("spec", "devices"),
    [((None, "a"), 4), (("b", "a"), 4), ((None, ("b", "a")), 8)],
)
def test_a_split_transformed_axis_is_exchanged_for_columns_and_back(
    axis_type, spec, devices, mesh_is_set
):
    x = draw(SHAPE)
    sharded = spread(x, *spec, axis_type=axis_type)
    with jax.set_mesh(sharded.sharding.mesh) if mesh_is_set else contextlib.nullcontext():
        for transform in TRANSFORMS:
            compiled = jax.jit(transform).lower(sharded).compile()
            y = compiled(sharded)
            assert sent(compiled) == [("all-to-all", devices)] * 2
            assert y.sharding.is_equivalent_to(sharded.sharding, x.ndim)
            agree(y, exact(x, transform))


@pytest.mark.parametrize("method", ["factored", "matmul"])
def test_matrix_products_exchange_columns_too_instead_of_adding_up_partial_ones(method):
    x = draw(SHAPE)
    for spec, count in [((None, "a"), 2), (("b", None, "a"), 0)]:
        sharded = spread(x, *spec)
        compiled = jax.jit(lambda x: dct(x, method)).lower(sharded).compile()
        assert sent(compiled) == [("all-to-all", 4)] * count
        agree(compiled(sharded), exact(x))


@pytest.mark.product
@pytest.mark.parametrize("axis_type", AXIS_TYPES)
@pytest.mark.parametrize(
    ("shape", "spec"),
    [((32, 1), ("a",)), ((32, 3), ("a",)), ((2, 32, 1), ("b", "a")), ((4, 32, 3), (None, "a"))],
)
def test_columns_that_do_not_divide_among_the_devices_are_exchanged_too(axis_type, shape, spec):
    x = draw(shape)
    sharded = spread(x, *spec, axis_type=axis_type)
    compiled = jax.jit(dct).lower(sharded).compile()
    y = compiled(sharded)
    assert sent(compiled) == [("all-to-all", 4)] * 2
    assert y.sharding.is_equivalent_to(sharded.sharding, x.ndim)
    agree(y, exact(x))


@pytest.mark.parametrize("shape", [(30, 8), (7, 5)])
@pytest.mark.parametrize("spec", [("a", None), ("a", "b"), (None, "a")])
def test_axes_that_the_compiler_splits_unevenly_keep_their_values(shape, spec):
    x = draw(shape)
    sharding = NamedSharding(eight_devices(), PartitionSpec(*spec))
    replicated = spread(x)

    @jax.jit
    def transform(x):
        return dct(jax.lax.with_sharding_constraint(x, sharding))

    agree(transform(replicated), exact(x))


@pytest.mark.parametrize("axis_type", AXIS_TYPES)
def test_vmap_maps_split_axes_without_sending(axis_type):
    x = draw(SHAPE)
    for spec in [("a", None, "b"), (None, None, "a")]:
        sharded = spread(x, *spec, axis_type=axis_type)
        for mapped in [jax.vmap(dct), jax.vmap(dct, in_axes=0, out_axes=0)]:
            compiled = jax.jit(mapped).lower(sharded).compile()
            assert sent(compiled) == []
            agree(compiled(sharded), exact(x))


@pytest.mark.parametrize("axis_type", AXIS_TYPES)
@pytest.mark.parametrize("spec", [("b", None, "a"), ("b", "a")])
def test_the_gradient_is_the_inverse(axis_type, spec):
    x, other = draw(SHAPE), draw(SHAPE, 1)
    sharded, direction = (spread(value, *spec, axis_type=axis_type) for value in (x, other))
    for transform, inverse in [TRANSFORMS, TRANSFORMS[::-1]]:
        gradient = jax.jit(lambda x, t, f=transform: jax.vjp(f, x)[1](t)[0])
        compiled = gradient.lower(sharded, direction).compile()
        assert sent(compiled) == [("all-to-all", 4)] * (2 if spec[1] == "a" else 0)
        y = compiled(sharded, direction)
        assert y.sharding.is_equivalent_to(sharded.sharding, x.ndim)
        agree(y, exact(other, inverse))


def test_gradient_of_a_mapped_rematerialized_scan_agrees_with_one_device():
    def loss(x):
        each = jax.checkpoint(jax.vmap(dct))
        _, ys = jax.lax.scan(lambda c, part: (c, each(part) ** 3), None, x)
        return jnp.sum(ys)

    x = draw((2, 3, 32, 8))
    sharded = spread(x, None, None, None, "a")
    compiled = jax.jit(jax.grad(loss)).lower(sharded).compile()
    assert {kind for kind, _ in sent(compiled)} == set()
    # Cubes of transformed normals: float32's rounding of gradients of up to about 40.
    agree(compiled(sharded), jax.grad(loss)(x), atol=1e-4)


@pytest.mark.parametrize("spec", [("b", None, "a"), (None, "a")])
def test_double_and_half_precision_keep_dtype_and_values(float64, spec):
    for dtype, tolerance in [(jnp.float64, 1e-12), (jnp.bfloat16, 0), (jnp.float16, 0)]:
        x = draw(SHAPE, dtype=dtype)
        y = jax.jit(dct)(spread(x, *spec))
        assert y.dtype == dtype
        agree(y, dct(x), atol=tolerance)


def test_arrays_are_transformed_outside_jit_and_uncommitted_under_a_mesh():
    x = draw(SHAPE)
    sharded = spread(x, "b", "a")
    y = dct(sharded)
    assert y.sharding.is_equivalent_to(sharded.sharding, x.ndim)
    agree(y, exact(x))
    for axis_type in AXIS_TYPES:
        with jax.set_mesh(eight_devices(axis_type)):
            agree(dct(draw(SHAPE)), y)
            agree(jax.jit(lambda: dct(draw(SHAPE)))(), y)


@pytest.mark.parametrize("axis_names", [{"a", "b"}, {"a"}])
def test_shard_map_computes_on_its_own_parts(axis_names):
    x = draw(SHAPE)
    sharded = spread(x, "a")
    spec = PartitionSpec("a")
    mapped = jax.shard_map(
        dct, mesh=sharded.sharding.mesh, in_specs=spec, out_specs=spec, axis_names=axis_names
    )
    compiled = jax.jit(mapped).lower(sharded).compile()
    assert "custom_partitioning" not in str(jax.make_jaxpr(mapped)(sharded))
    assert sent(compiled) == []
    agree(compiled(sharded), exact(x))


def test_auto_axes_inside_an_explicit_mesh_are_transformed():
    x = draw(SHAPE)
    sharded = spread(x, "b", None, "a", axis_type=AxisType.Explicit)
    with jax.set_mesh(sharded.sharding.mesh):
        inside = jax.sharding.auto_axes(dct, out_sharding=PartitionSpec("b", None, "a"))
        agree(jax.jit(inside)(sharded), exact(x))


def test_one_device_compiles_the_plain_fft():
    x = draw(SHAPE)
    one = jax.make_mesh((1,), ("a",), axis_types=(AxisType.Auto,), devices=jax.devices()[:1])
    for value in [x, jax.device_put(x, NamedSharding(one, PartitionSpec("a")))]:
        assert "custom_partitioning" not in str(jax.make_jaxpr(dct)(value))
        text = jax.jit(dct).lower(value).compile().as_text()
        assert "CustomSPMDPartitioning" not in text
    assert "custom_partitioning" in str(jax.make_jaxpr(dct)(spread(x, "a")))


@pytest.mark.product(every=9)
@pytest.mark.parametrize("axis_type", AXIS_TYPES)
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_the_public_transforms_gather_nothing_along_any_axis(axis_type, axis):
    x = draw((16, 32, 24))
    spec = ["a", "b", None]
    for at, kinds in [(axis, set()), (2 if axis != -1 else 0, {"all-to-all"})]:
        placed = list(spec)
        placed[at], placed[2] = placed[2], placed[at]
        sharded = spread(x, *placed, axis_type=axis_type)
        is_split = placed[axis] is not None
        for transform, reference in [
            (lro.orthogonal_dct, scipy.fft.dct),
            (lro.orthogonal_idct, scipy.fft.idct),
        ]:
            compiled = jax.jit(lambda x, f=transform: f(x, axis)).lower(sharded).compile()
            assert {kind for kind, _ in sent(compiled)} == (kinds if is_split else set())
            y = compiled(sharded)
            assert y.sharding.is_equivalent_to(sharded.sharding, x.ndim)
            agree(y, reference(np.asarray(x, np.float64), norm="ortho", axis=axis))


def test_the_public_transforms_explain_themselves_as_those_of_one_device_do():
    assert "orthonormal DCT-II" in lro.orthogonal_dct.__doc__
    with jax.set_mesh(eight_devices()), pytest.raises(ValueError, match="axis 3 is out of range"):
        lro.orthogonal_dct(draw(SHAPE), 3)


@pytest.mark.parametrize("axis_type", AXIS_TYPES)
def test_half_precision_in_and_float32_out_and_its_gradient_back_in_half_precision(axis_type):
    x = draw((32, 16), dtype=jnp.bfloat16)
    sharded = spread(x, "a", "b", axis_type=axis_type)
    transform = lambda x: lro.orthogonal_dct(x, 0, dtype=jnp.float32)
    y, pullback = jax.vjp(jax.jit(transform), sharded)
    assert y.dtype == jnp.float32
    agree(y, exact(x), atol=0.02)
    assert pullback(y)[0].dtype == jnp.bfloat16
    agree(np.float32(pullback(y)[0]), np.float32(x), atol=0.03)


def test_equal_shapes_are_traced_once():
    calls = []

    def traced(x):
        calls.append(x.shape)
        return FORWARDS["matmul"](x)

    xs = [spread(draw((32, 8), seed), None, "a") for seed in range(3)]
    jax.jit(lambda xs: [transform_columns(traced, traced, x) for x in xs]).lower(xs)
    assert len(calls) == 1


def test_the_transforms_need_nothing_above_them():
    """They are below the axes, which are below the core."""
    program = (
        "import sys, types; package = types.ModuleType('lowrank_optax'); "
        f"package.__path__ = {list(lro.__path__)!r}; sys.modules['lowrank_optax'] = package; "
        "import lowrank_optax.sharding.transforms; "
        "print({name.split('.')[1] for name in sys.modules if name.startswith('lowrank_optax.')})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert set(ast.literal_eval(done.stdout)) == {"linalg", "sharding"}
