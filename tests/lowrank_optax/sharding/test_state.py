"""Shardings of the state are known before it exists, for any optimizer."""

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
    eight_devices,
    misplaced,
)
from methods import compiled
from optax.contrib import MuonDimensionNumbers

import lowrank_optax as lro

SHAPE = (16, 32)
NUMBERS = MuonDimensionNumbers(0, 1)
TRION = lro.trion(0.02, 4, dimension_numbers=NUMBERS)

OTHERS = {
    "adamw": optax.adamw(0.1),
    "chain": optax.chain(optax.clip_by_global_norm(1.0), TRION),
    "MultiSteps": optax.MultiSteps(TRION, 2).gradient_transformation(),
    "inject_hyperparams": optax.inject_hyperparams(lro.trion, static_args=("rank", "ns_steps"))(
        learning_rate=0.02, rank=4, dimension_numbers=NUMBERS
    ),
}


@pytest.mark.product
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("layout", ["both", "zero"])
def test_init_outside_jit_is_placed_as_the_shardings_say(layout, kind):
    case = Case(METHODS["dct_adamw"], LAYOUTS[layout], kind)
    assert not misplaced(case.optimizer.init(case.params), case.state_shardings(), scalars=False)


@pytest.mark.product(every=3)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_shardings_follow_from_shapes_alone(layout):
    case = Case(METHODS["trion"], LAYOUTS[layout], AxisType.Auto)
    structs = jax.eval_shape(lambda: case.here)
    assert lro.state_shardings(case.optimizer, structs, case.shardings) == case.state_shardings()


def test_a_low_rank_array_is_split_as_m_and_a_basis_as_n():
    params = {"w": jax.ShapeDtypeStruct(SHAPE, jnp.float32)}
    sharding = NamedSharding(eight_devices(), P("b", "a"))
    tx = lro.galore(0.1, 4, dimension_numbers={"w": NUMBERS})
    (engine,) = lro.matrix_states(lro.state_shardings(tx, params, sharding))
    assert engine.inner.mu["w"].spec == P(None, "a")
    assert engine.basis["w"].spec == P("b", None)
    assert engine.count.spec == P()
    assert engine.key.spec == P(None)


@pytest.mark.product(every=9)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("name", OTHERS)
def test_any_optax_transformation_has_state_shardings(name, kind):
    tx = OTHERS[name]
    here = {"w": draw(SHAPE, 1)}
    sharding = NamedSharding(eight_devices(kind), P(None, AXES))
    params = jax.device_put(here, sharding)
    places = lro.state_shardings(tx, params, sharding)
    state = jax.jit(tx.init, out_shardings=places)(params)
    assert not misplaced(state, places)
    assert any(not place.is_fully_replicated for place in jax.tree.leaves(places))
    updates, state = jax.jit(tx.update, out_shardings=(None, places))(params, state, params)
    plain = compiled(tx)
    expected, expected_state = plain.update(here, plain.init(here), here)
    np.testing.assert_allclose(updates["w"], expected["w"], rtol=1e-4, atol=1e-6)
    assert jax.tree.structure(state) == jax.tree.structure(expected_state)


@pytest.mark.product(every=9)
@pytest.mark.parametrize("layout", ["both", "zero"])
@pytest.mark.parametrize("method", ["trion", "dct_adamw"])
def test_with_shardings_keeps_the_numbers_and_says_where_they_are(method, layout):
    case = Case(METHODS[method], LAYOUTS[layout], AxisType.Auto)
    tx = lro.with_shardings(case.optimizer, case.shardings)
    gradients = case.gradients(0)
    expected, _ = case.reference.update(gradients, case.reference.init(case.here), case.here)
    gradients = jax.device_put(gradients, case.shardings)
    state = jax.jit(tx.init)(case.params)
    assert not misplaced(state, case.state_shardings())
    updates, state = jax.jit(tx.update)(gradients, state, case.params)
    assert not misplaced(state, case.state_shardings())
    assert not misplaced(updates, case.shardings)
    for name, wanted in expected.items():
        scale = float(jnp.max(jnp.abs(wanted)))
        np.testing.assert_allclose(updates[name], wanted, rtol=0, atol=2e-5 * scale)


@pytest.mark.product(every=5)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("name", OTHERS)
def test_the_state_can_be_kept_in_another_kind_of_memory(name, kind):
    tx = OTHERS[name]
    sharding = NamedSharding(eight_devices(kind), P(None, AXES))
    params = jax.device_put({"w": draw(SHAPE, 1)}, sharding)
    here = lro.state_shardings(tx, params, sharding)
    there = lro.state_shardings(tx, params, sharding, memory_kind="pinned_host")
    for near, far in zip(jax.tree.leaves(here), jax.tree.leaves(there), strict=True):
        assert isinstance(far, NamedSharding)
        assert far == NamedSharding(near.mesh, near.spec, memory_kind="pinned_host")
        assert near.memory_kind == sharding.memory_kind != far.memory_kind
    # Kept there from step to step; fetched for the step itself.
    state = jax.jit(tx.init, out_shardings=there)(params)
    fetched = jax.device_put(state, here)
    expected, expected_state = jax.jit(tx.update)(params, fetched, params)
    updates, state = jax.jit(tx.update, out_shardings=(None, there))(params, fetched, params)
    assert not misplaced(state, there)
    assert {x.sharding.memory_kind for x in jax.tree.leaves(state)} == {"pinned_host"}
    np.testing.assert_array_equal(updates["w"], expected["w"])
    jax.tree.map(np.testing.assert_array_equal, state, expected_state)


def plateau(tx):
    return optax.chain(tx, optax.contrib.reduce_on_plateau(patience=1, factor=0.5))


@pytest.mark.product(every=2)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_with_shardings_hands_the_loss_on(kind):
    """Computed from arrays on the mesh, so that it is one of the mesh's axes itself."""
    sharding = NamedSharding(eight_devices(kind), P(None, AXES))
    here = {"w": draw(SHAPE, 1)}
    params = jax.device_put(here, sharding)
    plain, tx = plateau(TRION), lro.with_shardings(plateau(TRION), sharding)

    def two_steps(tx, params):
        step = lambda state: tx.update(params, state, params, value=jnp.sum(params["w"] ** 2))
        return step(step(step(tx.init(params))[1])[1])[0]

    updates = jax.jit(lambda params: two_steps(tx, params))(params)
    expected = jax.jit(lambda params: two_steps(plain, params))(here)
    scale = float(jnp.max(jnp.abs(expected["w"])))
    np.testing.assert_allclose(updates["w"], expected["w"], rtol=0, atol=1e-5 * scale)


def test_with_shardings_leaves_explicit_parameters_to_their_types():
    case = Case(METHODS["trion"], LAYOUTS["rows"], AxisType.Explicit)
    tx = lro.with_shardings(case.optimizer, case.shardings)
    places = lro.state_shardings(tx, case.params, case.shardings)
    assert places == case.state_shardings()


def test_a_sharding_of_another_type_is_named():
    params = {"w": jnp.ones(SHAPE)}
    with pytest.raises(TypeError, match=r"param_shardings holds P\('a'.*give a NamedSharding"):
        lro.state_shardings(TRION, params, {"w": P("a", None)})
    with pytest.raises(TypeError, match="param_shardings holds SingleDeviceSharding"):
        lro.state_shardings(TRION, params, params["w"].sharding)
    with pytest.raises(TypeError, match="param_shardings holds P"):
        jax.jit(lro.with_shardings(TRION, {"w": P("a")}).init)(params)


def test_two_meshes_are_refused():
    params = {"u": jnp.ones(SHAPE), "w": jnp.ones(SHAPE)}
    shardings = {
        "u": NamedSharding(eight_devices(), P()),
        "w": NamedSharding(jax.make_mesh((8,), ("a",), axis_types=(AxisType.Auto,)), P()),
    }
    with pytest.raises(ValueError, match="name 2 different meshes; put all parameters on one"):
        lro.state_shardings(lro.trion(0.02, 4), params, shardings)


def test_a_shape_that_does_not_divide_is_named_with_its_partition():
    params = {"layer": {"w": jax.ShapeDtypeStruct((16, 30), jnp.float32)}}
    sharding = NamedSharding(eight_devices(), P(None, "a"))
    with pytest.raises(
        ValueError, match=r"layer/w of shape \(16, 30\) cannot be split as P\(None, 'a'\) on the"
    ):
        lro.state_shardings(lro.trion(0.02, 4), params, sharding)
