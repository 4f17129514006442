"""Codes and scales of blocks: exact zeros and constants, error bounds, unbiasedness."""

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quantized import round_trip

from lowrank_optax.linalg import dequantize, quantize

FLOAT32 = np.finfo(np.float32)
LOWEST = {"int8": 128, "int4": 8}  # the magnitude of the lowest code
KEYS = {"typed": jax.random.key, "raw": jax.random.PRNGKey}
FITTED = ("int2", "sign")  # whose scale is that of least squares
each_storage = pytest.mark.parametrize("storage", LOWEST)

options = st.fixed_dictionaries(
    {
        "storage": st.sampled_from([*LOWEST]),
        "block_size": st.sampled_from([1, 3, 4, 256]),
        "axis": st.sampled_from([0, 1, -1]),
    }
)
finite = st.floats(allow_nan=False, allow_infinity=False, width=32) | st.just(0.0)
arrays = hnp.arrays(np.float32, st.sampled_from([(2, 1), (2, 10), (11, 3)]), elements=finite)
int8_rows = dict(storage="int8", block_size=8, axis=-1)
int4_rows = dict(storage="int4", block_size=8, axis=-1)


def scales(x, *, storage="int8", block_size=256, axis=-1):
    """The distance between neighbouring codes at every entry, block by block, in float64."""
    lines = np.moveaxis(np.asarray(x, np.float64), axis, -1)
    size, result = lines.shape[-1], np.empty_like(lines)
    length = -(-size // -(-size // block_size))
    for start in range(0, size, length):
        block = lines[..., start : start + length]
        ends = np.sort([block.max(-1).clip(0), -block.min(-1).clip(None, 0)], axis=0)
        lowest = LOWEST[storage]
        scale = np.maximum(ends[1] / lowest, ends[0] / (lowest - 1))
        result[..., start : start + length] = scale[..., None]
    return np.moveaxis(result, -1, axis)


def rounding_slack(x):
    """Float32 rounding of the scale and the product, and scales that are flushed to zero."""
    return 4 * FLOAT32.eps * np.max(np.abs(x).astype(np.float64)) + 128 * float(FLOAT32.tiny)


@hypothesis.given(arrays, options, st.none() | st.integers(0, 1000))
@hypothesis.example(np.float32([[0, 1, 2]]), int8_rows, 0)
@hypothesis.example(np.float32([[0, 1, -0.01, 0]]), int4_rows, None)
@hypothesis.example(np.float32([[0, 1, -0.01, 0]]), int4_rows | {"storage": "int2"}, None)
@hypothesis.example(np.float32([[0, 1, -0.01, 0]]), int4_rows | {"storage": "int2"}, 0)
@hypothesis.example(np.zeros((2, 9), np.float32), int4_rows | {"storage": "sign"}, None)
def test_zeros_come_back_as_zeros(x, options, seed):
    key = None if seed is None else jax.random.key(seed)
    y = np.asarray(round_trip(jnp.asarray(x), key=key, **options))
    np.testing.assert_array_equal(y[x == 0], 0)


@hypothesis.given(arrays, options)
@hypothesis.example(np.float32([[FLOAT32.max, FLOAT32.min, 0]]), int4_rows)
@hypothesis.example(np.float32([[FLOAT32.max, FLOAT32.min, 0]]), int8_rows)
@hypothesis.example(np.float32([[FLOAT32.max, FLOAT32.min * 0.9, 0]]), int8_rows)
@hypothesis.example(np.float32([[0, FLOAT32.tiny, 1e-45]]), int8_rows)
def test_nearest_rounding_errs_by_at_most_half_a_scale(x, options):
    y = np.asarray(round_trip(jnp.asarray(x), **options), np.float64)
    assert np.isfinite(y).all()
    assert (np.abs(y - x) <= scales(x, **options) / 2 + rounding_slack(x)).all()


@hypothesis.given(arrays, options, st.integers(0, 1000))
def test_stochastic_rounding_errs_by_at_most_a_scale(x, options, seed):
    y = np.asarray(round_trip(jnp.asarray(x), key=jax.random.key(seed), **options), np.float64)
    assert np.isfinite(y).all()
    assert (np.abs(y - x) <= scales(x, **options) + rounding_slack(x)).all()


moderate = st.floats(2**-40, 2**40, width=32) | st.floats(-(2**40), -(2**-40), width=32)


@pytest.mark.parametrize("storage", FITTED)
@hypothesis.settings(max_examples=40)
@hypothesis.given(
    hnp.arrays(np.float32, (3, 11), elements=moderate | st.just(0.0)), st.sampled_from([2, 4, 256])
)
def test_fitted_blocks_are_orthogonal_to_their_error(storage, x, block_size):
    """So it is never larger than the block, and no other scale of these codes errs less."""
    y = np.asarray(round_trip(jnp.asarray(x), storage=storage, block_size=block_size), np.float64)
    for start in range(0, 11, -(-11 // -(-11 // block_size))):
        block = slice(start, start + -(-11 // -(-11 // block_size)))
        # A zero comes back as a sign, which the scale leaves out.
        mine = np.where(x[:, block] == 0, 0, y[:, block])
        inner = np.sum(mine * (mine - x[:, block]), -1)
        size = np.sum(np.abs(mine) * np.abs(x[:, block]), -1)
        np.testing.assert_allclose(inner, 0, atol=1e-5 * size.max(initial=1e-30))


@pytest.mark.parametrize("storage", FITTED)
def test_a_block_that_overflows_does_not_come_back_as_zeros(storage):
    y = round_trip(jnp.full((2, 8), FLOAT32.max).at[1].set(1.0), storage=storage)
    assert not jnp.isfinite(y[0]).any()
    np.testing.assert_array_equal(y[1], 1)


@pytest.mark.parametrize(("storage", "error"), [("int2", 0.38), ("sign", 0.60)])
def test_normal_entries_err_by_the_documented_share(storage, error):
    x = jax.random.normal(jax.random.key(0), (64, 256))
    apart = jnp.sqrt(jnp.mean((round_trip(x, storage=storage) - x) ** 2))
    assert float(apart) == pytest.approx(error, abs=0.01)


def test_two_bits_keep_a_lone_entry_and_signs_are_those_of_the_entries():
    x = jnp.zeros((2, 256)).at[0, 7].set(3.0).at[1, 9].set(-2.0)
    np.testing.assert_array_equal(round_trip(x, storage="int2"), x)
    x = jax.random.normal(jax.random.key(0), (3, 100))
    stored = round_trip(x, storage="sign")
    np.testing.assert_allclose(stored, np.sign(x) * jnp.mean(jnp.abs(x), 1)[:, None], rtol=1e-6)


@pytest.mark.product
@each_storage
@pytest.mark.parametrize("block_size", [7, 8])
def test_stochastic_rounding_is_unbiased(storage, block_size):
    options = dict(storage=storage, block_size=block_size)
    x = jax.random.normal(jax.random.key(0), (21,))
    keys = jax.random.split(jax.random.key(1), 4000)
    samples = np.asarray(jax.vmap(lambda key: round_trip(x, key=key, **options))(keys))
    # The deviation of one rounding is at most scale / 2; five standard errors.
    limit = 5 * scales(x, **options) / 2 / np.sqrt(len(keys)) + 1e-6
    assert (np.abs(np.mean(samples, axis=0, dtype=np.float64) - x) <= limit).all()
    assert max(len(np.unique(entry)) for entry in samples.T) == 2


@each_storage
def test_entries_are_rounded_independently(storage):
    """Two entries share the bits of one random number: half of the bits each."""
    x = jnp.array([8.0, *[0.5] * 8]) if storage == "int4" else jnp.array([128.0, *[0.5] * 8])
    keys = jax.random.split(jax.random.key(2), 4000)
    ups = np.asarray(jax.vmap(lambda key: round_trip(x, storage=storage, key=key))(keys))[:, 1:]
    assert set(np.unique(ups)) == {0, 1}
    np.testing.assert_allclose(np.corrcoef(ups.T), np.eye(8), atol=5 / np.sqrt(len(keys)))


@pytest.mark.parametrize("make_key", KEYS.values(), ids=KEYS)
def test_typed_and_raw_keys_round_alike(make_key):
    x = jax.random.normal(jax.random.key(0), (3, 40))
    expected = quantize(x, key=jax.random.key(7))
    stored = jax.jit(lambda x, key: quantize(x, key=key))(x, make_key(7))
    np.testing.assert_array_equal(stored.codes, expected.codes)


@hypothesis.settings(max_examples=15)
@hypothesis.given(finite, st.sampled_from([1, 10]), options, st.booleans())
@hypothesis.example(0.0, 5, int4_rows, True)
@hypothesis.example(float(FLOAT32.max), 5, int8_rows, True)
@hypothesis.example(-0.1, 10, int4_rows | {"storage": "int2"}, False)
@hypothesis.example(0.1, 10, int4_rows | {"storage": "sign"}, False)
def test_constant_blocks_come_back_exactly(value, size, options, stochastic):
    hypothesis.assume(value == 0 or abs(value) >= 128 * FLOAT32.tiny)
    x = jnp.full((2, size), value, jnp.float32)
    key = jax.random.key(0) if stochastic else None
    np.testing.assert_array_equal(round_trip(x, key=key, **options), x)


def test_codes_are_rounded_to_themselves_at_random_too():
    """Reciprocals and products are rounded; what is a code up to that must not be moved."""
    codes = jnp.tile(jnp.arange(-128.0, 128), (2000, 1))
    factor = jax.random.uniform(jax.random.key(0), (2000, 1), minval=0.5, maxval=1)
    stored = quantize(codes * factor, key=jax.random.key(1))
    np.testing.assert_array_equal(stored.codes, codes)


@each_storage
@pytest.mark.parametrize("sign", [1, -1])
def test_all_codes_are_used_and_the_largest_entry_has_the_lowest(storage, sign):
    lowest = LOWEST[storage]
    x = sign * jnp.linspace(-3.0, 3.0 * (lowest - 1) / lowest, 2 * lowest)
    stored = quantize(x, storage)
    np.testing.assert_allclose(dequantize(stored, size=len(x)), x, atol=1e-6)
    assert float(stored.scale[0]) == pytest.approx(sign * 3 / lowest)
    assert len(np.unique(dequantize(stored, size=len(x)))) == 2 * lowest


@pytest.mark.parametrize(
    ("storage", "seed"),
    [(s, seed) for s in [*LOWEST, *FITTED] for seed in (None, 0) if (s, seed) != ("sign", 0)],
)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_non_finite_entry_stays_visible_and_inside_its_block(storage, bad, seed):
    key = None if seed is None else jax.random.key(seed)
    x = jnp.ones(12).at[5].set(bad)
    y = round_trip(x, block_size=4, storage=storage, key=key)
    assert not jnp.isfinite(y[4:8]).any()
    np.testing.assert_array_equal(y[:4], 1)
    np.testing.assert_array_equal(y[8:], 1)
