"""compress="unsharded" compresses a side that every device has whole, and stays with it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from layouts import AXES, KINDS, eight_devices, kernel_numbers, normal

import lowrank_optax as lro

SHAPE = (16, 32)  # in, out: the smaller side is "in"
make = functools.partial(
    lro.scale_by_trion, 4, dimension_numbers=kernel_numbers(SHAPE), compress="unsharded"
)
SIDES = [
    (SHAPE, P(None, AXES), "in"),
    (SHAPE, P(AXES, None), "out"),
    (SHAPE, P("b", "a"), "in"),
    (SHAPE, P(), "in"),
    ((32, 32), P(AXES, None), "out"),
    ((32, 32), P(None, AXES), "in"),
    ((32, 16), P(None, AXES), "in"),
]


def on_mesh(shape, spec, kind):
    sharding = NamedSharding(eight_devices(kind), spec)
    return jax.device_put(normal(1, shape), sharding), sharding


def side_of(state):
    return {(): "in", (1,): "out"}[state.side.shape]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize(("shape", "spec", "side"), SIDES)
def test_arrays_tell_which_side_is_whole(shape, spec, side, kind):
    params, sharding = on_mesh(shape, spec, kind)
    (matrix,) = lro.matrix_specs(
        params, 4, dimension_numbers=kernel_numbers(shape), compress="unsharded"
    )
    assert matrix.side == side
    assert side_of(make().init(params)) == side
    # Of the momentum (m, n), n is the compressed side.
    expected = shape if side == "out" else shape[::-1]
    placed = jax.eval_shape(lro.with_shardings(make(), sharding).init, params)
    assert placed.residual.shape == expected


@pytest.mark.parametrize(("shape", "spec", "side"), SIDES[:2])
def test_explicit_types_tell_it_inside_jit(shape, spec, side):
    params, sharding = on_mesh(shape, spec, AxisType.Explicit)
    with jax.set_mesh(sharding.mesh):
        state = jax.jit(make().init)(params)
    assert side_of(state) == side
    assert side_of(jax.jit(make().update)(params, state)[1]) == side


@pytest.mark.parametrize(("shape", "spec", "side"), SIDES[:2])
def test_with_shardings_tells_it_inside_jit(shape, spec, side):
    params, sharding = on_mesh(shape, spec, AxisType.Auto)
    tx = lro.with_shardings(make(), sharding)
    state = jax.jit(tx.init)(params)
    assert side_of(state) == side
    assert side_of(jax.jit(tx.update)(params, state)[1]) == side


def test_inside_jit_under_auto_axes_it_asks_to_be_told():
    params, _ = on_mesh(SHAPE, P(AXES, None), AxisType.Auto)
    with (
        jax.set_mesh(eight_devices()),
        pytest.raises(
            ValueError, match=r"\(16, 32\): compress='unsharded' needs to know .*lro.with_shardings"
        ),
    ):
        jax.jit(make().init)(params)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize(("shape", "spec", "side"), [SIDES[0], SIDES[1], SIDES[4]])
def test_updates_follow_the_side_that_init_chose(shape, spec, side, kind):
    params, _ = on_mesh(shape, spec, kind)
    state = make().init(params)
    plain = make(compress=side)
    here = normal(1, shape)
    expected_state = plain.init(here)
    for _ in range(2):
        expected, expected_state = plain.update(here, expected_state)
        updates, state = jax.jit(make().update)(params, state)
        assert side_of(state) == side
        np.testing.assert_allclose(updates, expected, rtol=0, atol=2e-5)


def test_a_gradient_placed_elsewhere_does_not_change_the_side():
    params, _ = on_mesh(SHAPE, P(AXES, None), AxisType.Auto)
    state = make().init(params)
    elsewhere, _ = on_mesh(SHAPE, P(None, AXES), AxisType.Auto)
    _, state = make().update(elsewhere, state)
    assert side_of(state) == "out"


def test_only_matrices_have_a_side():
    params = {"w": jnp.ones(SHAPE), "b": jnp.ones(4)}
    tx = lro.trion(0.02, 4, compress="unsharded")
    _, state = tx.update(params, tx.init(params), params)
    engine = state.inner_states["matrices"].inner_state[0]
    assert [mark.dtype for mark in jax.tree.leaves(engine.side)] == [jnp.int8]
    plain = lro.trion(0.02, 4).init(params).inner_states["matrices"].inner_state[0]
    assert plain.side == ()
