"""8-bit Adam: close to Adam, bounded steps, one byte per entry, and any tree of leaves."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from methods import compiled

from lowrank_optax.linalg.dynamic_quantization import Quantized8, quantize_dynamic
from lowrank_optax.transforms.adam8bit import read_moments, scale_by_adam8bit, store_moments

SHAPE = (8, 512)


def gradient(step, spread=0.0):
    """Normal gradients; entries' scales are spread over so many powers of ten, in every row."""
    rng = np.random.default_rng(0)
    scales = 10.0 ** rng.uniform(-spread, 0, SHAPE)
    return jnp.asarray(scales * np.random.default_rng(step + 1).normal(size=SHAPE), jnp.float32)


@functools.cache
def directions(tx, spread, steps=50):
    """The directions of all steps, shape (steps, *SHAPE)."""
    grads = jnp.stack([gradient(step, spread) for step in range(steps)])

    def body(state, grad):
        direction, state = tx.update(grad, state)
        return state, direction

    return jax.jit(lambda: jax.lax.scan(body, tx.init(grads[0]), grads)[1])()


def test_the_direction_is_adams_within_a_few_percent():
    expected = directions(optax.scale_by_adam(), 0.0)
    actual = directions(scale_by_adam8bit(min_size=1), 0.0)
    errors = jnp.linalg.norm(actual - expected, axis=(1, 2)) / jnp.linalg.norm(
        expected, axis=(1, 2)
    )
    # Measured: 0.024 at every step after the first few.
    assert errors.max() < 0.03
    drift = jnp.linalg.norm(jnp.sum(actual - expected, 0)) / jnp.linalg.norm(jnp.sum(expected, 0))
    assert drift < 0.03
    assert errors[10:].min() > 1e-3, "quantisation must show, or nothing was quantised"


def test_the_first_step_is_adams():
    expected = directions(optax.scale_by_adam(), 0.0)[0]
    np.testing.assert_allclose(directions(scale_by_adam8bit(min_size=1), 0.0)[0], expected)


@pytest.mark.product(every=2)
@pytest.mark.parametrize("spread", [3.0, 6.0])
def test_steps_stay_bounded_where_gradients_differ_by_orders_of_magnitude(spread):
    actual = directions(scale_by_adam8bit(min_size=1), spread)
    bound = jnp.abs(directions(optax.scale_by_adam(), spread)).max()
    assert jnp.abs(actual).max() < 3 * bound


def test_small_arrays_are_exactly_adam():
    params = {"b": jnp.zeros(4095), "column": jnp.zeros((5000, 1)), "scalar": jnp.zeros(())}
    adam = compiled(optax.scale_by_adam(0.8, 0.95, 1e-6))
    ours = compiled(scale_by_adam8bit(0.8, 0.95, 1e-6))
    states = adam.init(params), ours.init(params)
    for seed in range(3):
        grads = optax.tree.random_like(jax.random.key(seed), params)
        expected, first = adam.update(grads, states[0])
        actual, second = ours.update(grads, states[1])
        states = first, second
        chex.assert_trees_all_equal(actual, expected)
    chex.assert_trees_all_equal(tuple(states[1]), tuple(states[0]))


@pytest.mark.parametrize(
    ("shape", "block_size"), [((64, 64), 256), ((3, 2, 700), 256), (SHAPE, 32)]
)
def test_state_bytes_are_those_of_the_formula(shape, block_size):
    tx = scale_by_adam8bit(block_size=block_size)
    state = jax.eval_shape(tx.init, jax.ShapeDtypeStruct(shape, jnp.float32))
    total = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves((state.mu, state.nu)))
    blocks = -(-shape[-1] // block_size)
    assert total == 2 * np.prod(shape[:-1]) * (shape[-1] + 4 * blocks)
    assert state.mu.codes.shape == shape


@pytest.mark.product(every=2)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_any_tree_keeps_structure_shapes_and_dtypes_from_step_to_step(dtype):
    params = {
        "w": jnp.ones((8, 600), dtype),
        "b": jnp.ones(3, dtype),
        "masked": optax.MaskedNode(),
        "nothing": None,
        "empty": jnp.ones((0, 4), dtype),
    }
    tx = scale_by_adam8bit()
    state = tx.init(params)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
    chex.assert_trees_all_equal_shapes_and_dtypes(jax.eval_shape(tx.init, shapes), state)
    chex.assert_trees_all_equal(tx.init(shapes), state)
    updates, new_state = jax.jit(tx.update)(params, state)
    chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(new_state, state)
    assert state.mu["w"].codes.dtype == jnp.uint8
    np.testing.assert_allclose(np.float32(updates["w"]), 1, rtol=0.01)


def test_float64_computes_in_float64(float64):
    tx = compiled(scale_by_adam8bit())
    updates, state = tx.update(jnp.full(SHAPE, 1e-200), tx.init(jnp.zeros(SHAPE)))
    assert updates.dtype == state.mu.largest.dtype == jnp.float64
    np.testing.assert_allclose(updates, 1e-192, rtol=1e-6)  # 1e-200 / eps: g² underflows


def test_zero_gradients_give_zero_and_a_finite_state():
    tx = compiled(scale_by_adam8bit())
    state = tx.init(jnp.zeros(SHAPE))
    for grad in (jnp.zeros(SHAPE), gradient(0), jnp.zeros(SHAPE)):
        updates, state = tx.update(grad, state)
        chex.assert_tree_all_finite((updates, read_moments(state.mu, signed=True)))
        chex.assert_tree_all_finite(read_moments(state.nu, signed=False))
    np.testing.assert_array_equal(tx.update(jnp.zeros(SHAPE), tx.init(jnp.zeros(SHAPE)))[0], 0)


@pytest.mark.slow
def test_vmap_over_a_stack_equals_the_stack():
    grads = jnp.stack([gradient(step) for step in range(2)])
    tx = compiled(scale_by_adam8bit())
    stacked, state = tx.update(grads, tx.init(grads))
    mapped, mapped_state = jax.vmap(tx.update)(grads, jax.vmap(tx.init)(grads))
    np.testing.assert_allclose(mapped, stacked, rtol=1e-6)
    np.testing.assert_array_equal(mapped_state.mu.codes, state.mu.codes)


@pytest.mark.parametrize("block_size", [1, 5, 7, 256])
def test_moments_are_read_and_stored_back_in_their_blocks(block_size):
    tree = {"w": gradient(0), "b": jnp.ones(3)}
    quantized = quantize_dynamic(tree["w"], signed=True, block_size=block_size)
    stored = {"w": quantized, "b": tree["b"]}
    again = store_moments(read_moments(stored, signed=True), stored, signed=True)
    assert isinstance(again["w"], Quantized8)
    chex.assert_trees_all_equal(again, stored)


def test_it_works_in_a_chain_under_injected_hyperparameters():
    make = lambda learning_rate, b1: optax.chain(
        scale_by_adam8bit(b1), optax.scale_by_learning_rate(learning_rate)
    )
    injected, plain = compiled(optax.inject_hyperparams(make)(0.1, 0.9)), compiled(make(0.1, 0.9))
    params = gradient(0)
    updates, _ = injected.update(params, injected.init(params))
    expected, _ = plain.update(params, plain.init(params))
    np.testing.assert_allclose(updates, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"b1": 1.5}, r"b1=1.5 must lie in \[0, 1\]"),
        ({"b2": -1}, r"b2=-1 must lie in \[0, 1\]"),
        ({"eps": 0.0}, "eps=0.0 must be positive"),
        ({"block_size": 0}, "block_size=0 must be at least 1"),
        ({"min_size": -1}, "min_size=-1 must be at least 0"),
    ],
)
def test_wrong_arguments_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        scale_by_adam8bit(**settings)


def test_sizes_cannot_be_arrays():
    with pytest.raises(TypeError, match="block_size must be a Python value"):
        scale_by_adam8bit(block_size=jnp.array(256))
