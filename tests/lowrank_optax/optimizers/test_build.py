"""What all named optimizers do with leaves and gradients of any type."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from drawing import draw
from methods import compiled, make, model

import lowrank_optax as lro


def updates(tx, gradients, params=None):
    tx = compiled(tx)
    return tx.update(gradients, tx.init(model(0)), params)[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["galore", "trion"])
def test_updates_of_float32_parameters_are_not_rounded_to_bfloat16_gradients(name):
    gradients = model(1, jnp.bfloat16)
    wide = updates(make(name), gradients, model(0))
    narrow = updates(make(name), gradients)
    half = updates(make(name), gradients, model(0, jnp.bfloat16))
    for leaf, update in wide.items():
        assert update.dtype == jnp.float32
        assert narrow[leaf].dtype == half[leaf].dtype == jnp.bfloat16
        rounded = update.astype(jnp.bfloat16)
        assert np.any(rounded.astype(jnp.float32) != update)
        np.testing.assert_array_equal(rounded, narrow[leaf])
        np.testing.assert_array_equal(rounded, half[leaf])


def test_complex_parameters_are_left_to_adamw():
    params = {"w": draw((4, 5)) + 1j * draw((4, 5), 1), "v": draw((4, 5), 2)}
    tx, adamw = lro.trion(0.1, 2, weight_decay=0.1), optax.adamw(0.1, weight_decay=0.1)
    got, expected = (
        compiled(each).update(params, each.init(params), params)[0] for each in (tx, adamw)
    )
    assert got["w"].dtype == jnp.complex64
    np.testing.assert_allclose(got["w"], expected["w"], rtol=1e-5)


def test_a_number_beside_the_matrices_is_a_parameter_as_it_is_for_optax():
    params = {"w": draw((4, 8)), "temperature": 0.5}
    tx = lro.trion(0.1, 2, weight_decay=0.1)
    gradients = jax.grad(lambda p: p["temperature"] * jnp.sum(p["w"]))(params)
    got, _ = tx.update(gradients, tx.init(params), params)
    adamw = optax.adamw(0.1, weight_decay=0.1)
    expected, _ = adamw.update(gradients, adamw.init(params), params)
    np.testing.assert_allclose(got["temperature"], expected["temperature"], rtol=1e-5)
    assert optax.apply_updates(params, got)["w"].shape == (4, 8)


def test_moments_are_rotated_by_the_decays_of_the_inner_optimizer():
    def third_update(transport):
        tx = compiled(lro.low_rank(0.1, 2, projection="svd", transport=transport, b1=0.6, b2=0.9))
        state = tx.init(model(0))
        for seed in range(1, 4):
            updates, state = tx.update(model(seed), state, model(0))
        return updates

    expected = third_update(lro.transports.RotateMoments(0.6, 0.9))
    chex.assert_trees_all_equal(third_update("rotate_moments"), expected)


@pytest.mark.parametrize("inner", ["adam8bit", "adafactor"])
def test_galore_s_hybrid_selection_takes_inner_optimizers_without_a_first_moment_to_move(inner):
    tx = lro.galore(0.1, 2, select="hybrid", inner=inner, update_interval=1)
    gradients = {"w": draw((6, 8))}
    state = tx.init(gradients)
    for _ in range(2):
        step, state = jax.jit(tx.update)(gradients, state, gradients)
    assert np.isfinite(step["w"]).all()
