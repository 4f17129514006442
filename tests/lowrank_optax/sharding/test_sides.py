"""`unsharded_sides` finds the side of every matrix that is whole, for `compress`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawing import draw
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from layouts import (
    AXES,
    KINDS,
    METHODS,
    TOLERANCE,
    Layout,
    assert_close,
    compiled_collectives,
    eight_devices,
    kernel_numbers,
)
from methods import compiled
from optax.contrib import MuonDimensionNumbers

import lowrank_optax as lro

SHAPE = (16, 32)  # in, out: the smaller side is "in"
SIDES = [
    (SHAPE, P(None, AXES), "in"),
    (SHAPE, P(AXES, None), "out"),
    (SHAPE, P(AXES), "out"),
    (SHAPE, P("b", "a"), "in"),
    (SHAPE, P(), "in"),
    ((32, 32), P(AXES, None), "out"),
    ((32, 32), P(None, AXES), "in"),
    ((32, 16), P(None, AXES), "in"),
    ((8, 16, 32), P(None, AXES, None), "out"),
    ((8, 16, 32), P(AXES, None, None), "in"),
]


def sides_of(shape, sharding):
    params = jax.ShapeDtypeStruct(shape, jnp.float32)
    return lro.unsharded_sides(params, sharding, dimension_numbers=kernel_numbers(shape))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize(("shape", "spec", "side"), SIDES)
def test_it_is_the_smaller_side_unless_only_that_is_split(shape, spec, side, kind):
    assert sides_of(shape, spec) == side
    assert sides_of(shape, NamedSharding(eight_devices(kind), spec)) == side


def test_only_matrices_have_a_side_and_one_sharding_is_enough_for_all():
    params = {"w": jnp.ones(SHAPE), "layer": {"u": jnp.ones((32, 16)), "b": jnp.ones(8)}}
    assert lro.unsharded_sides(params, P("a")) == {"w": "out", "layer": {"u": "out", "b": None}}
    partitions = {"w": P(None, "a"), "layer": P("a")}
    assert lro.unsharded_sides(params, partitions)["w"] == "in"


def test_a_side_of_several_axes_is_split_if_one_of_them_is():
    heads = MuonDimensionNumbers(reduction_axis=0, output_axis=(1, 2))
    params = jax.ShapeDtypeStruct((64, 4, 8), jnp.float32)  # out = 32 is the smaller side
    side = functools.partial(lro.unsharded_sides, params, dimension_numbers=heads)
    assert side(P(None, "a", None)) == side(P(None, None, "a")) == "in"
    assert side(P("a")) == "out"


def test_a_sharding_of_another_type_is_named():
    params = {"w": jnp.ones(SHAPE)}
    with pytest.raises(TypeError, match=r"shardings holds SingleDeviceSharding.*give a NamedSh"):
        lro.unsharded_sides(params, jax.tree.map(lambda leaf: leaf.sharding, params))


def test_the_word_that_it_replaces_is_refused_with_its_name():
    params = {"w": jnp.ones(SHAPE)}
    with pytest.raises(ValueError, match=r"compress=lro\.unsharded_sides\(params, shardings\)"):
        lro.trion(0.02, 4, compress="unsharded").init(params)


@pytest.mark.product(every=99)
@pytest.mark.parametrize(
    ("method", "kind"), [(method, KINDS[i % 2]) for i, method in enumerate(METHODS)]
)
def test_every_method_compresses_the_side_that_it_is_told(method, kind):
    sharding = NamedSharding(eight_devices(kind), P(AXES, None))
    numbers = {"w": kernel_numbers(SHAPE), "b": None}
    here = {"w": draw(SHAPE, 1), "b": draw((16,), 2)}
    there = {"w": jax.device_put(here["w"], sharding), "b": here["b"]}
    there["b"] = jax.device_put(here["b"], NamedSharding(sharding.mesh, P()))
    shardings = jax.tree.map(lambda leaf: leaf.sharding, there)
    sides = lro.unsharded_sides(here, shardings, dimension_numbers=numbers)
    make = functools.partial(METHODS[method], dimension_numbers=numbers)
    plain, tx = compiled(make(compress="out")), make(compress=sides)
    places = lro.state_shardings(tx, there, shardings)
    state = jax.jit(tx.init, out_shardings=places)(there)
    updates, state = jax.jit(tx.update)(there, state, there)
    expected, expected_state = plain.update(here, plain.init(here), here)
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, expected_state)
    assert_close(updates, expected, TOLERANCE[method])


@pytest.mark.product(every=2)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_muon_on_the_side_that_is_whole_is_muon_and_its_momentum_stays_split(kind):
    sharding = NamedSharding(eight_devices(kind), P(AXES, None))
    here = draw(SHAPE, 1)
    there = jax.device_put(here, sharding)
    make = functools.partial(lro.muon, 0.02, dimension_numbers=kernel_numbers(SHAPE))
    plain, tx = compiled(make()), make(compress=sides_of(SHAPE, sharding))
    places = lro.state_shardings(tx, there, sharding)
    state = jax.jit(tx.init, out_shardings=places)(there)
    updates, state = jax.jit(tx.update)(there, state, there)
    expected, _ = plain.update(here, plain.init(here), here)
    scale = float(jnp.max(jnp.abs(expected)))
    np.testing.assert_allclose(updates, expected, rtol=0, atol=2e-4 * scale)
    momentum = lro.matrix_states(state)[0].inner[0].trace
    assert momentum.sharding.shard_shape(momentum.shape) == (32, 2)


@pytest.mark.product(every=2)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_then_a_split_of_the_smaller_side_moves_no_part_of_the_matrix(kind):
    n, m, r = 512, 64, 8  # the compressed side is the larger one
    make = lambda **settings: lro.trion(0.02, r, compress=sides_of((m, n), P(AXES)), **settings)
    found = compiled_collectives(make, Layout((m, n), P(AXES, None)), kind)
    assert {each.kind for each in found} == {"all-reduce"}
    assert sum(each.bytes for each in found) == 4 * (n + r * r + 1)


@pytest.mark.product(every=2)
@pytest.mark.parametrize("method", ["trion", "dct_adamw"])
def test_under_auto_axes_an_optimizer_can_be_told_both(method):
    sharding = NamedSharding(eight_devices(), P(AXES, None))
    here = draw(SHAPE, 1)
    there = jax.device_put(here, sharding)
    make = functools.partial(METHODS[method], dimension_numbers=kernel_numbers(SHAPE))
    plain, tx = compiled(make(compress="out")), make(compress=sides_of(SHAPE, sharding))
    tx = lro.with_shardings(tx, sharding)
    updates, _ = jax.jit(tx.update)(there, jax.jit(tx.init)(there), there)
    expected, _ = plain.update(here, plain.init(here), here)
    scale = float(jnp.max(jnp.abs(expected)))
    np.testing.assert_allclose(updates, expected, rtol=0, atol=2e-5 * scale)
    assert updates.sharding.is_equivalent_to(sharding, 2)
