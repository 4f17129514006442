"""Adam-mini: one second moment per column, the paper's update, stable under any tree."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lowrank_optax.transforms.adam_mini import scale_by_adam_mini


@pytest.mark.product(every=2)
@pytest.mark.parametrize(
    ("shape", "moments"), [((5, 3), (1, 3)), ((2, 5, 3), (2, 1, 3)), ((7,), (1,)), ((), ())]
)
def test_the_update_is_the_papers(shape, moments):
    b1, b2, eps = 0.8, 0.9, 1e-3
    tx = scale_by_adam_mini(b1, b2, eps)
    state = tx.init(jnp.zeros(shape))
    assert state.nu.shape == moments
    m, v = np.zeros(shape), np.zeros(moments)
    for t in range(1, 4):
        g = np.asarray(np.random.default_rng(t).normal(size=shape), np.float32)
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * (
            np.mean(g**2, axis=-min(2, len(shape)), keepdims=True) if shape else g**2
        )
        expected = (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)
        u, state = tx.update(jnp.asarray(g), state)
        np.testing.assert_allclose(u, expected, rtol=1e-5)


def test_one_row_is_adam():
    grads = jax.random.normal(jax.random.key(0), (1, 6))
    mini, adam = scale_by_adam_mini(), optax.scale_by_adam()
    states = mini.init(grads), adam.init(grads)
    for scale in (1.0, -3.0):
        actual, first = mini.update(scale * grads, states[0])
        expected, second = adam.update(scale * grads, states[1])
        states = first, second
        np.testing.assert_allclose(actual, expected, rtol=1e-6)


def test_rotating_the_rows_rotates_the_direction():
    rotation = jnp.linalg.qr(jax.random.normal(jax.random.key(1), (4, 4)))[0]
    grads = jax.random.normal(jax.random.key(0), (3, 4, 5))
    tx = scale_by_adam_mini()
    plain, rotated = tx.init(grads[0]), tx.init(grads[0])
    for grad in grads:
        u, plain = tx.update(grad, plain)
        w, rotated = tx.update(rotation @ grad, rotated)
        np.testing.assert_allclose(w, rotation @ u, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_any_tree_keeps_structure_shapes_and_dtypes(dtype):
    params = {
        "w": jnp.ones((4, 3), dtype),
        "scalar": jnp.ones((), dtype),
        "masked": optax.MaskedNode(),
        "nothing": None,
    }
    tx = scale_by_adam_mini()
    state = tx.init(params)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
    chex.assert_trees_all_equal_shapes_and_dtypes(jax.eval_shape(tx.init, shapes), state)
    zeros = jax.tree.map(jnp.zeros_like, params)
    for grads in (zeros, params):
        updates, new_state = jax.jit(tx.update)(grads, state)
        chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
        chex.assert_trees_all_equal_shapes_and_dtypes(new_state, state)
        chex.assert_tree_all_finite((updates, new_state))
    np.testing.assert_allclose(np.float32(updates["w"]), 1, rtol=0.01)


def test_wrong_decays_are_named():
    with pytest.raises(ValueError, match=r"b2=2 must lie in \[0, 1\]"):
        scale_by_adam_mini(b2=2)
