"""What is summed over steps is at least float32, and numbers may be traced."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from lowrank_optax import transforms
from lowrank_optax.transforms.adam8bit import read_moments
from lowrank_optax.transforms.precision import in_float32

SECOND = {  # those that have second moments like the updates
    "adam": functools.partial(transforms.resolve, "adam"),
    "adam8bit": functools.partial(transforms.resolve, "adam8bit"),
    "adam_mini": functools.partial(transforms.resolve, "adam_mini"),
    "published_adam": transforms.scale_by_published_adam,
    "uncorrected_adam": transforms.scale_by_uncorrected_adam,
}
STATEFUL = SECOND | {
    "adafactor": functools.partial(transforms.resolve, "adafactor"),
    "lion": functools.partial(transforms.resolve, "lion"),
    "sgd": functools.partial(transforms.resolve, "sgd"),
    "unsigned_lion": transforms.scale_by_unsigned_lion,
}
half = pytest.mark.parametrize("dtype", ["bfloat16", "float16"])


def run(tx, grad_at, steps, shape=(2, 3)):
    """The state and the directions of the last and all steps, `grad_at(step)` in all entries."""

    def body(state, step):
        direction, state = tx.update(jnp.broadcast_to(grad_at(step), shape), state)
        return state, direction.ravel()[0]

    zeros = jnp.zeros(shape, jax.eval_shape(grad_at, 0).dtype)
    return jax.jit(lambda: jax.lax.scan(body, tx.init(zeros), jnp.arange(steps)))()


@pytest.mark.product(every=2)
@pytest.mark.parametrize("name", SECOND)
def test_second_moments_decay_in_bfloat16(name):
    """In bfloat16 0.999 is 1: a second moment fed there would end at 4."""
    grad_at = lambda step: jnp.where(step < 2000, 1, 1e-3).astype(jnp.bfloat16)
    state, _ = run(SECOND[name](), grad_at, 7000)
    small = float(jnp.bfloat16(1e-3))
    expected = (1 - 0.999**2000) * 0.999**5000 + small**2 * (1 - 0.999**5000)
    assert expected == pytest.approx(0.00581, rel=0.01)
    np.testing.assert_allclose(read_moments(state.nu, signed=False), expected, rtol=1e-3)


@pytest.mark.product(every=3)
@pytest.mark.parametrize("name", STATEFUL)
def test_small_float16_gradients_give_finite_steps(name):
    """The square of 1e-5 is zero in float16, and so is Adam's eps."""
    state, directions = run(STATEFUL[name](), lambda step: jnp.float16(1e-5), 20)
    chex.assert_tree_all_finite((state, directions))
    assert directions.dtype == jnp.float16
    if "adam" in name and name != "uncorrected_adam":
        np.testing.assert_allclose(directions[-1], 1, rtol=0.05)


@pytest.mark.product(every=4)
@half
@pytest.mark.parametrize("name", STATEFUL)
def test_half_precision_is_computed_as_float32_and_rounded_once(name, dtype):
    grads = [jax.random.normal(jax.random.key(step), (3, 5)).astype(dtype) for step in range(5)]
    tx = STATEFUL[name]()
    state, wide_state = tx.init(grads[0]), tx.init(grads[0].astype(jnp.float32))
    for grad in grads:
        direction, state = tx.update(grad, state)
        wide, wide_state = tx.update(grad.astype(jnp.float32), wide_state)
        np.testing.assert_array_equal(direction, wide.astype(dtype))
    chex.assert_trees_all_equal(state, wide_state)


@pytest.mark.product(every=3)
@pytest.mark.parametrize("name", STATEFUL)
def test_float64_stays_float64(name, float64):
    state = STATEFUL[name]().init(jnp.zeros((2, 3)))
    direction, new = STATEFUL[name]().update(jnp.ones((2, 3)), state)
    assert direction.dtype == jnp.float64
    assert all(leaf.dtype in (jnp.float64, jnp.int32) for leaf in jax.tree.leaves(new))
    chex.assert_trees_all_equal_shapes_and_dtypes(new, state)


@pytest.mark.product(every=5)
@pytest.mark.parametrize("name", [*STATEFUL, "adam_bias_correction"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_decays_and_eps_may_be_traced(name, dtype):
    make = STATEFUL.get(name, transforms.scale_by_adam_bias_correction)
    numbers = {"b1": 0.75, "b2": 0.5}
    if "lion" not in name and name != "adam_bias_correction":
        numbers["eps"] = 0.0625
    grads = [jax.random.normal(jax.random.key(step), (3, 5)).astype(dtype) for step in range(3)]

    def last(numbers):
        tx = make(**numbers)
        state = tx.init(grads[0])
        for grad in grads:
            direction, state = tx.update(grad, state)
        return direction, state

    chex.assert_trees_all_close(jax.jit(last)(numbers), last(numbers), rtol=1e-2, atol=1e-6)
    injected = optax.inject_hyperparams(lambda b1, b2: make(b1=b1, b2=b2))(0.75, 0.5)
    state = injected.init(grads[0])
    direction, new = jax.jit(injected.update)(grads[0], state)
    chex.assert_trees_all_equal_shapes_and_dtypes(new, state)
    plain = make(b1=0.75, b2=0.5)
    expected, _ = plain.update(grads[0], plain.init(grads[0]))
    np.testing.assert_allclose(direction.astype(np.float32), expected.astype(np.float32), rtol=1e-2)


@pytest.mark.product(every=2)
@pytest.mark.parametrize("name", [*STATEFUL, "adam_bias_correction"])
def test_counts_saturate(name):
    tx = STATEFUL.get(name, transforms.scale_by_adam_bias_correction)()
    grads = jnp.ones((2, 3))
    last = np.iinfo(np.int32).max
    state = tx.init(grads)
    state = jax.tree.map(lambda x: jnp.int32(last) if x.dtype == jnp.int32 else x, state)
    direction, state = tx.update(grads, state)
    chex.assert_tree_all_finite(direction)
    counts = [leaf for leaf in jax.tree.leaves(state) if leaf.dtype == jnp.int32]
    assert all(int(count) == last for count in counts)
    if name == "adam_bias_correction":
        np.testing.assert_allclose(direction, 1)


@pytest.mark.product(every=5)
@pytest.mark.parametrize("name", STATEFUL)
@pytest.mark.parametrize("spec", [(None, "model"), ("model", None)])
def test_the_states_type_is_the_same_before_and_after_under_explicit_axes(name, spec):
    mesh = jax.make_mesh((4,), ("model",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        sharding = NamedSharding(mesh, PartitionSpec(*spec))
        grads = jax.device_put(jax.random.normal(jax.random.key(0), (16, 1024)), sharding)
        tx = STATEFUL[name]()

        seen = {}
        typed = lambda tree: [str(jax.typeof(leaf)) for leaf in jax.tree.leaves(tree)]

        @jax.jit
        def both(grads):
            state = tx.init(grads)
            direction, new = tx.update(grads, state)
            seen.update(before=typed(state), after=typed(new))
            seen.update(grads=typed(grads), direction=typed(direction))
            return direction

        jax.block_until_ready(both(grads))
    assert seen["before"] == seen["after"]
    assert seen["grads"] == seen["direction"]
    assert "model" in str(seen["grads"])


def test_messages_name_the_optimizer_that_was_wrapped():
    assert in_float32(optax.scale_by_lion()).init.__qualname__.startswith("scale_by_lion")
