"""ZeRO-1: every device holds its part of the state, and only low-rank updates are gathered."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from drawing import draw
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from layouts import (
    AXES,
    KINDS,
    LAYOUTS,
    METHODS,
    Case,
    Layout,
    compiled_collectives,
    eight_devices,
    kernel_numbers,
    misplaced,
)
from methods import compiled

import lowrank_optax as lro

M, N, R = 512, 64, 8
WHOLE = Layout((N, M), P(), AXES)


def shapes_on_device(state):
    return [x.addressable_shards[0].data.shape for x in jax.tree.leaves(state)]


@pytest.mark.product(every=2)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_an_eighth_of_the_momentum_and_of_the_other_moments_is_on_each_device(kind):
    case = Case(METHODS["trion"], LAYOUTS["zero"], kind)
    state = case.optimizer.init(case.params)
    update = jax.jit(case.optimizer.update)
    _, state = update(jax.device_put(case.gradients(0), case.shardings), state, case.params)
    count, key, bias, embedding = (), (2,), (2,), (3, 8)
    indices, momentum = (4,), (16, 4)
    assert shapes_on_device(state) == [
        *(count, key, indices, momentum),
        *(count, bias, embedding, bias, embedding),
    ]


@pytest.mark.product(every=3)
@pytest.mark.parametrize("method", ["dion", "galore", "fira"])
def test_init_outside_jit_places_the_state_at_once(method):
    case = Case(METHODS[method], LAYOUTS["zero"], AxisType.Auto)
    assert not misplaced(case.optimizer.init(case.params), case.state_shardings(), scalars=False)


@pytest.mark.product(every=9)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("method", ["trion", "dct_adamw", "dion"])
def test_what_is_gathered_is_low_rank(method, kind):
    make = {
        "trion": lambda **settings: lro.trion(0.02, R, **settings),
        "dct_adamw": lambda **settings: lro.dct_adamw(0.01, R, **settings),
        "dion": lambda **settings: lro.dion(0.01, R, **settings),
    }[method]
    found = compiled_collectives(make, WHOLE, kind)
    gathered = [each.bytes for each in found if each.kind == "all-gather"]
    assert 4 * M * R in gathered
    assert all(math.prod(shape) < M * N for each in found for shape in each.shapes), found


@pytest.mark.product(every=2)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_trion_gathers_m_r_floats_and_adds_up_n_plus_r_squared_and_one(kind):
    make = lambda **settings: lro.trion(0.02, R, **settings)
    sent = {"all-gather": 0, "all-reduce": 0}
    for each in compiled_collectives(make, WHOLE, kind):
        sent[each.kind] += each.bytes
    assert sent == {"all-gather": 4 * M * R, "all-reduce": 4 * (N + R * R + 1)}


@pytest.mark.product(every=2)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_rows_that_do_not_divide_stay_whole_and_the_report_says_so(kind):
    case = Case(METHODS["trion"], Layout((9, 15), P(), AXES), kind)
    state = case.optimizer.init(case.params)
    momentum = lro.matrix_states(state)[0].residual["kernel"]
    assert momentum.sharding.is_fully_replicated
    gradients = case.gradients(0)
    expected, _ = case.reference.update(gradients, case.reference.init(case.here), case.here)
    gradients = jax.device_put(gradients, case.shardings)
    updates, _ = jax.jit(case.optimizer.update)(gradients, state, case.params)
    for name, wanted in expected.items():
        np.testing.assert_allclose(updates[name], wanted, rtol=1e-4, atol=1e-6)
    report = lro.memory_report(case.optimizer, case.params)
    assert report.replicated == ("kernel",)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize(
    "make",
    [
        lambda axis: lro.trion(0.02, 4, zero_axis=axis),
        lambda axis: lro.zero(optax.adamw(0.1), axis),
    ],
    ids=["trion", "zero"],
)
def test_an_axis_that_the_mesh_does_not_have_is_named_with_those_it_has(make, kind):
    sharding = NamedSharding(eight_devices(kind), P())
    params = jax.device_put({"w": jnp.ones((16, 32))}, sharding)
    with pytest.raises(
        ValueError, match=r"zero_axis='data' is not an axis of the mesh .*'a': 4.* use one of"
    ):
        make("data").init(params)
    state = make(None).init(params)
    with pytest.raises(ValueError, match="zero_axis='data' is not an axis of the mesh"):
        jax.jit(make("data").update)(params, state, params)


def test_without_a_mesh_zero_axis_has_no_effect():
    params = {"w": draw((16, 32), 1), "b": jnp.ones(8)}
    plain, split = (compiled(lro.trion(0.02, 4, zero_axis=axis)) for axis in (None, "data"))
    expected, _ = plain.update(params, plain.init(params), params)
    updates, _ = split.update(params, split.init(params), params)
    jax.tree.map(np.testing.assert_array_equal, updates, expected)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_an_axis_that_splits_the_parameter_already_is_not_used_twice(kind):
    case = Case(METHODS["trion"], Layout((16, 32), P(None, "b"), AXES), kind)
    momentum = lro.matrix_states(case.state_shardings())[0].residual["kernel"]
    assert momentum.spec == P(None, ("b", "a"))


@pytest.mark.product(every=2)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_zero_splits_any_elementwise_optimizer_and_keeps_its_numbers(kind):
    sharding = NamedSharding(eight_devices(kind), P())
    here = {"w": draw((5, 16), 1), "odd": draw((3,), 2), "step": jnp.ones(())}
    there = jax.device_put(here, sharding)
    plain, split = optax.adamw(0.1), lro.zero(optax.adamw(0.1), AXES)
    state = split.init(there)
    assert not misplaced(state, lro.state_shardings(split, there, sharding))
    assert state[0].mu["w"].sharding.spec == P(None, AXES)
    assert state[0].mu["odd"].sharding.is_fully_replicated
    expected, _ = plain.update(here, plain.init(here), here)
    updates, state = jax.jit(split.update)(there, state, there)
    assert state[0].mu["w"].addressable_shards[0].data.shape == (5, 2)
    for name in here:
        np.testing.assert_allclose(updates[name], expected[name], rtol=1e-5)
        # Under Auto axes where the updates are is the compiler's choice.
        assert kind is AxisType.Auto or updates[name].sharding.is_fully_replicated


def test_of_a_parameter_split_under_auto_axes_with_shardings_splits_the_state_further():
    make = lambda **settings: lro.trion(0.02, 4, **settings)
    mesh = eight_devices()
    here = draw((16, 32), 1)
    sharding = NamedSharding(mesh, P(None, "b"))
    there = jax.device_put(here, sharding)
    numbers = kernel_numbers(here.shape)
    tx = lro.with_shardings(make(dimension_numbers=numbers, zero_axis="a"), sharding)
    places = lro.state_shardings(tx, there, sharding)
    _, state = jax.jit(tx.update)(there, jax.jit(tx.init)(there), there)
    assert not misplaced(state, places)
    assert (16, 4) in shapes_on_device(state)
