"""Block-wise quantisation: error bounds, exact constants, unbiasedness, storage size."""

import functools

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lowrank_optax.linalg import dequantize, quantize, quantized_bytes

SCHEMES = ["minmax", "absmax"]
FLOAT32 = np.finfo(np.float32)

options = st.fixed_dictionaries(
    {
        "bits": st.sampled_from([4, 8]),
        "block_size": st.sampled_from([1, 3, 256]),
        "scheme": st.sampled_from(SCHEMES),
    }
)
finite = st.floats(allow_nan=False, allow_infinity=False, width=32)
arrays = hnp.arrays(np.float32, st.sampled_from([(2, 1), (2, 10), (11,)]), elements=finite)


def round_trip(x, *, key=None, dtype=jnp.float32, **kwargs):
    quantized = quantize(x, key=key, **kwargs)
    return dequantize(quantized, size=x.shape[-1], dtype=dtype, **kwargs)


def step_sizes(x, *, bits, block_size, scheme):
    """The distance between neighbouring codes at every entry, block by block, in float64."""
    x = np.asarray(x, np.float64)
    steps = np.empty_like(x)
    for start in range(0, x.shape[-1], block_size):
        block = x[..., start : start + block_size]
        if scheme == "minmax":
            step = (block.max(-1) - block.min(-1)) / (2**bits - 1)
        else:
            step = 2 * np.abs(block).max(-1) / (2**bits - 2)
        steps[..., start : start + block_size] = step[..., None]
    return steps


def rounding_slack(x):
    """Float32 rounding of the range and of the sum, and what is flushed to zero."""
    return 4 * FLOAT32.eps * np.max(np.abs(x).astype(np.float64)) + 64 * float(FLOAT32.tiny)


@hypothesis.given(arrays, options)
@hypothesis.example(
    np.float32([[FLOAT32.max, FLOAT32.min, 0]]), dict(bits=4, block_size=8, scheme="minmax")
)
@hypothesis.example(
    np.float32([[FLOAT32.max, FLOAT32.min, 0]]), dict(bits=8, block_size=8, scheme="absmax")
)
@hypothesis.example(
    np.float32([[0, FLOAT32.tiny, 1e-45]]), dict(bits=8, block_size=8, scheme="minmax")
)
def test_nearest_rounding_errs_by_at_most_half_a_step(x, options):
    y = np.asarray(round_trip(jnp.asarray(x), **options), np.float64)
    assert np.isfinite(y).all()
    assert (np.abs(y - x) <= step_sizes(x, **options) / 2 + rounding_slack(x)).all()


@hypothesis.given(arrays, options, st.integers(0, 1000))
def test_stochastic_rounding_errs_by_at_most_a_step(x, options, seed):
    y = np.asarray(round_trip(jnp.asarray(x), key=jax.random.key(seed), **options), np.float64)
    assert np.isfinite(y).all()
    assert (np.abs(y - x) <= step_sizes(x, **options) + rounding_slack(x)).all()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_stochastic_rounding_is_unbiased(bits, scheme):
    options = dict(bits=bits, block_size=8, scheme=scheme)
    x = jax.random.normal(jax.random.key(0), (21,))
    keys = jax.random.split(jax.random.key(1), 4000)
    samples = np.asarray(jax.vmap(lambda key: round_trip(x, key=key, **options))(keys))
    # The deviation of one rounding is at most step / 2; five standard errors.
    limit = 5 * step_sizes(x, **options) / 2 / np.sqrt(len(keys)) + 1e-6
    assert (np.abs(np.mean(samples, axis=0, dtype=np.float64) - x) <= limit).all()
    assert max(len(np.unique(entry)) for entry in samples.T) == 2


@hypothesis.settings(max_examples=15)
@hypothesis.given(finite, st.sampled_from([1, 10]), options, st.booleans())
@hypothesis.example(0.0, 5, dict(bits=4, block_size=3, scheme="minmax"), True)
def test_constant_blocks_come_back_exactly(value, size, options, stochastic):
    hypothesis.assume(value == 0 or abs(value) >= FLOAT32.tiny)
    x = jnp.full((2, size), value, jnp.float32)
    key = jax.random.key(0) if stochastic else None
    np.testing.assert_array_equal(round_trip(x, key=key, **options), x)


@pytest.mark.parametrize("bits", [4, 8])
def test_zero_is_exact_with_a_symmetric_range(bits):
    x = jnp.array([0.0, 0.3, -7.0, 0.0, 1.0])
    y = round_trip(x, bits=bits, scheme="absmax")
    np.testing.assert_array_equal(y[jnp.array([0, 3])], 0)
    np.testing.assert_array_equal(y[2], x[2])


@pytest.mark.parametrize("bits", [4, 8])
def test_the_ends_of_a_block_and_all_codes_are_used(bits):
    x = jnp.linspace(-3.0, 5.0, 2**bits)
    quantized = quantize(x, bits=bits)
    np.testing.assert_allclose(round_trip(x, bits=bits), x, atol=1e-5)
    codes = quantized.codes if bits == 8 else (quantized.codes & 15)
    assert len(np.unique(codes)) == (256 if bits == 8 else 8)
    assert (quantized.minimum, quantized.maximum) == (-3.0, 5.0)


@pytest.mark.parametrize("bits", [4, 8])
def test_an_array_without_rows_stays_one(bits):
    assert round_trip(jnp.zeros((0, 5)), bits=bits, block_size=2).shape == (0, 5)


def test_a_short_last_block_has_its_own_range():
    x = jnp.concatenate([jnp.full(4, 100.0), jnp.array([5.0, 6.0, 5.5])])
    quantized = quantize(x, block_size=4)
    np.testing.assert_array_equal(quantized.minimum, [100, 5])
    np.testing.assert_array_equal(quantized.maximum, [100, 6])
    symmetric = quantize(x, block_size=4, scheme="absmax")
    np.testing.assert_array_equal(symmetric.maximum, [100, 6])
    assert symmetric.minimum is None


def test_neighbours_keep_their_places_when_packed_in_four_bits():
    x = jnp.arange(15.0)
    np.testing.assert_array_equal(quantize(x, bits=4).codes[:2] & 15, [0, 2])
    np.testing.assert_allclose(round_trip(x, bits=4), x, atol=0.5)


@hypothesis.given(
    st.lists(st.integers(1, 4), max_size=2), st.integers(1, 600), options, st.sampled_from(SCHEMES)
)
def test_bytes_are_those_of_the_formula(batch, size, options, scheme):
    options = {**options, "scheme": scheme}
    shape = (*batch, size)
    stored = jax.eval_shape(
        functools.partial(quantize, **options), jax.ShapeDtypeStruct(shape, jnp.bfloat16)
    )
    total = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(stored))
    assert total == quantized_bytes(shape, **options)
    blocks = -(-size // options["block_size"])
    ranges = (2 if scheme == "minmax" else 1) * 4 * blocks
    assert total == np.prod(batch, dtype=int) * (-(-size * options["bits"] // 8) + ranges)
    assert stored.codes.shape[:-1] == stored.maximum.shape[:-1] == tuple(batch)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("bits", [4, 8])
def test_jit_and_vmap_agree_with_the_plain_call(scheme, bits):
    options = dict(bits=bits, block_size=4, scheme=scheme)
    x = jax.random.normal(jax.random.key(0), (3, 2, 11))
    plain = round_trip(x, **options)
    function = functools.partial(round_trip, **options)
    np.testing.assert_allclose(jax.jit(function)(x), plain, atol=1e-6)
    np.testing.assert_allclose(jax.vmap(function)(x), plain, atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_goes_in_and_comes_out(dtype):
    x = jax.random.normal(jax.random.key(0), (4, 30), dtype)
    y = round_trip(x, dtype=dtype)
    assert y.dtype == dtype
    np.testing.assert_allclose(y.astype(np.float32), x.astype(np.float32), atol=0.03)


def test_float64_keeps_its_range_in_float64(float64):
    x = jnp.full((3,), 0.1, jnp.float64)
    quantized = quantize(x)
    assert quantized.maximum.dtype == jnp.float64
    assert quantized_bytes((3,), dtype=jnp.float64) == 3 + 16
    np.testing.assert_array_equal(dequantize(quantized, size=3, dtype=jnp.float64), x)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_non_finite_entry_stays_visible_and_inside_its_block(scheme, bad):
    x = jnp.ones(12).at[5].set(bad)
    y = round_trip(x, block_size=4, scheme=scheme)
    assert not jnp.isfinite(y[5])
    np.testing.assert_array_equal(y[:4], 1)
    np.testing.assert_array_equal(y[8:], 1)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"bits": 2}, "cannot quantise to 2 bits: choose 8 or 4"),
        ({"block_size": 0}, "block_size must be at least 1, not 0"),
        ({"scheme": "log"}, 'unknown scheme \'log\': choose "minmax" or "absmax"'),
    ],
)
def test_wrong_options_are_named_with_the_choices(kwargs, message):
    with pytest.raises(ValueError, match=message):
        quantize(jnp.ones(4), **kwargs)


def test_wrong_arrays_are_named():
    with pytest.raises(TypeError, match="not int32"):
        quantize(jnp.arange(4))
    with pytest.raises(ValueError, match=r"last axis of shape \(3, 0\)"):
        quantize(jnp.ones((3, 0)))


def test_reading_back_with_other_options_is_refused():
    quantized = quantize(jnp.ones((2, 10)), block_size=4)
    with pytest.raises(ValueError, match=r"do not hold 9 entries of 8 bits in blocks of 4"):
        dequantize(quantized, size=9, block_size=4)
    with pytest.raises(ValueError, match="take 10 bytes and 1 blocks"):
        dequantize(quantized, size=10)
    with pytest.raises(ValueError, match='was quantised with scheme="minmax", not "absmax"'):
        dequantize(quantized, size=10, block_size=4, scheme="absmax")
