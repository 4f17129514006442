"""Adafactor: optax's on one matrix, each matrix of a stack by itself, factored however thin."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from drawing import draw

from lowrank_optax.transforms import scale_by_adafactor

B1 = 0.8


def gradients(shape, steps=4):
    return [draw(shape, step) for step in range(steps)]


def directions(tx, grads):
    state, result, update = tx.init(grads[0]), [], jax.jit(tx.update)
    for grad in grads:
        u, state = update(grad, state, grad)
        result.append(u)
    return jnp.stack(result)


@pytest.mark.product(every=3)
@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (64, 2), (1, 5), (5, 1), (7,), (1,)])
def test_on_one_matrix_it_is_optaxs_without_its_step_size(shape):
    theirs = optax.adafactor(
        None, min_dim_size_to_factor=2, multiply_by_parameter_scale=False, momentum=B1
    )
    grads = gradients(shape)
    expected = -directions(theirs, grads)
    actual = directions(scale_by_adafactor(B1), grads)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def test_a_stack_is_its_matrices_one_by_one():
    grads = [g * jnp.array([1.0, 1e3, 0, 1e-3, 5, 1])[:, None, None] for g in gradients((6, 2, 5))]
    tx = scale_by_adafactor(B1)
    stacked = directions(tx, grads)
    for layer in range(6):
        alone = directions(tx, [g[layer] for g in grads])
        np.testing.assert_allclose(stacked[:, layer], alone, rtol=1e-5)


def test_second_moments_are_factored_and_the_first_is_whole():
    state = scale_by_adafactor().init({"w": jnp.zeros((3, 2, 64)), "b": jnp.zeros(5)})
    assert {name: x.shape for name, x in state.row.items()} == {"w": (3, 2), "b": (1,)}
    assert {name: x.shape for name, x in state.column.items()} == {"w": (3, 64), "b": (5,)}
    assert state.ema["w"].shape == (3, 2, 64)


def test_float64_moments_decay_in_float64(float64):
    first, second = (draw((3, 5), i).astype(jnp.float64) for i in range(2))
    tx = scale_by_adafactor()
    state = tx.update(second, tx.update(first, tx.init(first))[1])[1]
    decay = 1 - 2**-0.8
    expected = decay * np.mean(first**2, 1) + (1 - decay) * np.mean(second**2, 1)
    np.testing.assert_allclose(state.row, expected, rtol=1e-14)


def test_wrong_decays_are_named():
    with pytest.raises(ValueError, match=r"b1=2 must lie in \[0, 1\]"):
        scale_by_adafactor(2)
