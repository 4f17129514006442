"""The dynamic 8-bit map: its numbers, rounding to the nearest, exact entries, storage, devices."""

import functools

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from lowrank_optax.linalg.dynamic_quantization import (
    Quantized8,
    dequantize_dynamic,
    quantize_dynamic,
)

FLOAT32 = np.finfo(np.float32)
each_map = pytest.mark.parametrize("signed", [True, False])


@functools.cache
def expected_map(signed):
    """The map as the paper lists it, in float64."""
    bits = 6 if signed else 7
    values = [
        10.0**-decade * (0.1 + 0.9 * (place + 0.5) / 2 ** (bits - decade))
        for decade in range(7)
        for place in range(2 ** (bits - decade))
    ]
    return np.array(sorted([0.0, 1.0, *values, *[-value for value in values if signed]]))


def dynamic_map(signed):
    """What all codes in ascending order stand for, in a block whose largest entry is 1."""
    codes = Quantized8(jnp.arange(256, dtype=jnp.uint8), jnp.ones(1))
    return dequantize_dynamic(codes, signed=signed)


@functools.partial(jax.jit, static_argnames=("signed", "block_size"))
def round_trip(x, signed, **options):
    return dequantize_dynamic(quantize_dynamic(x, signed=signed, **options), signed=signed)


def scale_of_entries(x, block_size):
    """The entry of largest magnitude in each entry's block, the positive one of two; in float64."""
    x = np.asarray(x, np.float64)
    length = -(-x.shape[-1] // -(-x.shape[-1] // block_size))
    scales = np.empty_like(x)
    for start in range(0, x.shape[-1], length):
        block = x[..., start : start + length]
        top, bottom = block.max(-1, keepdims=True), block.min(-1, keepdims=True)
        scales[..., start : start + length] = np.where(top >= -bottom, top, bottom)
    return scales


@each_map
def test_the_map_is_the_papers(signed):
    table = np.asarray(dynamic_map(signed))
    assert table.shape == (256,)
    np.testing.assert_allclose(table, expected_map(signed), rtol=3e-7)
    assert (np.diff(table) > 0).all()
    assert 0.0 in table
    assert 1.0 in table


@each_map
def test_every_code_is_kept(signed):
    table = dynamic_map(signed)
    np.testing.assert_array_equal(quantize_dynamic(table, signed=signed).codes, np.arange(256))


magnitudes = st.floats(2.0**-100, 2.0**100, width=32) | st.just(0.0)
arrays = hnp.arrays(np.float32, st.sampled_from([(3, 1), (2, 10), (11,)]), elements=magnitudes)


@each_map
@hypothesis.given(x=arrays, block_size=st.sampled_from([1, 4, 256]), seed=st.integers(0, 99))
@hypothesis.example(x=np.float32([FLOAT32.max, 1, 0]), block_size=8, seed=0)
@hypothesis.example(x=np.float32([FLOAT32.tiny, 0, 1e-45]), block_size=8, seed=0)
def test_entries_round_to_the_nearest_number_of_the_map(signed, x, block_size, seed):
    if signed:
        x = x * np.random.default_rng(seed).choice(np.float32([-1, 1]), size=x.shape)
    y = np.asarray(round_trip(jnp.asarray(x), signed, block_size=block_size), np.float64)
    scales = scale_of_entries(x, block_size)
    whole = np.abs(scales) >= FLOAT32.tiny
    assert (y[~whole] == 0).all()
    ratio = x[whole].astype(np.float64) / scales[whole]
    table = expected_map(signed)
    # Rounding to nearest errs by at most half the distance of the neighbours.
    error = np.min(np.abs(ratio[:, None] - table), axis=-1)
    if not signed:
        error = np.where((ratio > 0) & (ratio < table[1]), table[1] - ratio, error)
    slack = 1e-6 * np.abs(ratio) + 1e-12
    assert (np.abs(y[whole] / scales[whole] - ratio) <= error + slack).all()
    assert (y[x == 0] == 0).all()
    is_largest = whole & (x == scales)
    np.testing.assert_array_equal(y[is_largest], x[is_largest])


@each_map
def test_zeros_and_the_largest_entry_are_exact(signed):
    x = jnp.array([[0.3, 0.0, -0.71, 0.1], [0.0, 0.0, 0.0, 0.0], [1e-3, 0.9, 0.0, 0.2]])
    x = x if signed else jnp.abs(x)
    y = round_trip(x, signed)
    np.testing.assert_array_equal(y[x == 0], 0)
    largest = jnp.max(jnp.abs(x), axis=-1)
    np.testing.assert_array_equal(jnp.max(jnp.abs(y), axis=-1), largest)
    np.testing.assert_array_equal(y[0, 2], x[0, 2])


def test_an_entry_opposite_to_the_largest_stays_on_its_side():
    np.testing.assert_allclose(round_trip(jnp.array([2.0, -2.0]), True), [2, -2], rtol=0.008)


def test_small_positive_entries_never_become_zero_without_signs():
    y = round_trip(jnp.array([1.0, 1e-7, 1e-30, 0.0, -1.0]), False)
    np.testing.assert_allclose(y, [1, 3.25e-7, 3.25e-7, 0, 0], rtol=1e-6)


def test_a_row_without_positive_entries_is_zero_without_signs():
    np.testing.assert_array_equal(round_trip(jnp.array([-1.0, -2.0]), False), [0, 0])


def test_blocks_have_equal_lengths_and_their_own_scales():
    x = jnp.array([1.0, 2.0, 3.0, -4.0, 5.0, 6.0, 70.0])
    stored = quantize_dynamic(x, signed=True, block_size=4)
    np.testing.assert_array_equal(stored.largest, [-4, 70])


@hypothesis.given(
    st.lists(st.integers(1, 4), max_size=2), st.integers(1, 600), st.sampled_from([1, 3, 256])
)
def test_bytes_are_those_of_the_formula(batch, size, block_size):
    shape = (*batch, size)
    stored = jax.eval_shape(
        functools.partial(quantize_dynamic, signed=True, block_size=block_size),
        jax.ShapeDtypeStruct(shape, jnp.bfloat16),
    )
    total = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(stored))
    assert stored.codes.shape == shape
    assert total == np.prod(batch, dtype=int) * (size + 4 * -(-size // block_size))


@each_map
def test_jit_and_vmap_agree_with_the_plain_call(signed):
    x = jax.random.uniform(jax.random.key(0), (3, 2, 11))
    function = functools.partial(round_trip, signed=signed, block_size=4)
    # To the last bit or so: what is compiled together may multiply and add in one operation.
    np.testing.assert_allclose(jax.jit(function)(x), function(x), rtol=2.5e-7)
    np.testing.assert_allclose(jax.vmap(function)(x), function(x), rtol=2.5e-7)


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_sharded_rows_need_no_communication(axis_type):
    mesh = jax.make_mesh((8,), ("rows",), axis_types=(axis_type,))
    x = jax.random.normal(jax.random.key(0), (16, 20))
    with jax.set_mesh(mesh):
        rows = jax.sharding.NamedSharding(mesh, PartitionSpec("rows", None))
        function = jax.jit(functools.partial(round_trip, signed=True, block_size=8))
        placed = jax.device_put(x, rows)
        y = function(placed)
        assert y.sharding.is_equivalent_to(rows, 2)
        text = function.lower(placed).compile().as_text()
    assert not any(name in text for name in ("all-gather", "all-reduce", "all-to-all"))
    np.testing.assert_allclose(y, round_trip(x, True, block_size=8), rtol=2.5e-7)


def test_half_precision_goes_in_and_float64_keeps_its_scale(float64):
    assert quantize_dynamic(jnp.ones(3, jnp.float16), signed=True).largest.dtype == jnp.float32
    x = jnp.full(3, 0.1, jnp.float64)
    np.testing.assert_array_equal(round_trip(x, True), x)
    assert round_trip(x, True).dtype == jnp.float64


@each_map
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_non_finite_entry_stays_visible_and_inside_its_block(signed, bad):
    y = round_trip(jnp.ones(12).at[5].set(bad), signed, block_size=4)
    assert not jnp.isfinite(y[5])
    np.testing.assert_array_equal(y[:4], 1)
    np.testing.assert_array_equal(y[8:], 1)


def test_wrong_arguments_are_named():
    with pytest.raises(TypeError, match="only real floating arrays can be quantised, not int32"):
        quantize_dynamic(jnp.arange(4), signed=True)
    with pytest.raises(ValueError, match=r"last axis of shape \(3, 0\)"):
        quantize_dynamic(jnp.ones((3, 0)), signed=True)
    with pytest.raises(ValueError, match="block_size=0 must be at least 1"):
        quantize_dynamic(jnp.ones(3), signed=True, block_size=0)


@each_map
def test_small_float16_numbers_are_kept(signed):
    """The smallest normal number is that of the float32 in which scales are stored."""
    x = jnp.full(4, 1e-5, jnp.float16)
    np.testing.assert_array_equal(round_trip(x, signed), x.astype(jnp.float32))
