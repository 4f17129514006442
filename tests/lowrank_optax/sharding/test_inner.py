"""Inner optimizers see low-rank arrays that are split, in every kind of mesh axes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from covers import in_turn
from drawing import draw
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from layouts import AXES, KINDS, Case, Layout, eight_devices, misplaced
from methods import compiled

import lowrank_optax as lro
from lowrank_optax.transforms import scale_by_adam8bit

RANK = 8
# 512 are two blocks of 8-bit Adam: less than there are devices, so that shards hold no whole ones.
LAYOUTS = {
    "m": Layout((16, 512), P(None, AXES)),
    "both": Layout((16, 512), P("b", "a")),
    "zero": Layout((16, 512), P(), AXES),
    "layers and m": Layout((4, 16, 512), P("a", None, "b")),
}
INNER = {
    "adam": "adam",
    "adam8bit": "adam8bit",
    "adam_mini": "adam_mini",
    "adafactor": "adafactor",
    "lion": "lion",
    "sgd": "sgd",
    "yogi": optax.scale_by_yogi(),
    "rms": optax.scale_by_rms(),
    "clipped adam": optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam()),
    "trust ratio": optax.chain(optax.scale_by_adam(), optax.scale_by_trust_ratio()),
}


@pytest.mark.product(every=9)
@pytest.mark.parametrize(("inner", "kind", "layout"), in_turn(INNER, KINDS, LAYOUTS))
def test_the_direction_is_that_of_one_device(inner, kind, layout):
    make = functools.partial(lro.low_rank, 0.01, RANK, update_interval=2, inner=INNER[inner])
    case = Case(make, LAYOUTS[layout], kind)
    places = case.state_shardings()
    state = jax.jit(case.optimizer.init, out_shardings=places)(case.params)
    update = jax.jit(case.optimizer.update, out_shardings=(None, places))
    expected_state, reference = case.reference.init(case.here), jax.jit(case.reference.update)
    for step in range(3):
        gradients = case.gradients(step)
        expected, expected_state = reference(gradients, expected_state, case.here)
        gradients = jax.device_put(gradients, case.shardings)
        updates, state = update(gradients, state, case.params)
        scale = float(jnp.max(jnp.abs(expected["kernel"])))
        wrong = jnp.abs(updates["kernel"] - expected["kernel"]) > 2e-5 * scale
        # A moment half way between two codes of 8 bits may go either way.
        assert int(wrong.sum()) <= (64 if inner == "adam8bit" and step else 0)


@pytest.mark.product(every=5)
@pytest.mark.parametrize("inner", INNER)
def test_a_moment_is_split_as_its_array_and_stays_so(inner):
    make = functools.partial(lro.low_rank, 0.01, RANK, inner=INNER[inner])
    case = Case(make, LAYOUTS["layers and m"], AxisType.Explicit)
    places = case.state_shardings()
    with jax.set_mesh(case.mesh):
        state = jax.jit(case.optimizer.init)(case.params)
    inner = [lro.matrix_states(tree)[0].inner for tree in (places, state)]
    for place, x in zip(*map(jax.tree.leaves, inner), strict=True):
        if x.shape == (4, RANK, 512):
            assert place.spec == P("a", None, "b")
    update = jax.jit(case.optimizer.update)
    for _ in range(2):
        gradients = jax.device_put(case.gradients(0), case.shardings)
        _, state = update(gradients, state, case.params)
        assert not misplaced(state, places)
    assert update._cache_size() == 1


@pytest.mark.slow
@pytest.mark.parametrize("jitted", [False, True], ids=["eager", "jitted"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_adam8bit_by_itself_is_split_as_its_parameters_are(kind, jitted):
    here = {"w": draw((16, 512), 1), "b": draw((16,), 2)}
    mesh = eight_devices(kind)
    shardings = {"w": NamedSharding(mesh, P("b", "a")), "b": NamedSharding(mesh, P())}
    there = jax.device_put(here, shardings)
    tx = scale_by_adam8bit()
    state = tx.init(there)
    places = lro.state_shardings(tx, there, shardings)
    assert not misplaced(state, places, scalars=False)
    assert places.mu["w"].codes.spec == P("b", "a")
    assert places.nu["w"].largest.spec == P("b", None)
    updates, state = (jax.jit(tx.update) if jitted else tx.update)(there, state)
    plain = compiled(tx)
    expected, _ = plain.update(here, plain.init(here))
    for name, wanted in expected.items():
        np.testing.assert_allclose(updates[name], wanted, rtol=1e-5, atol=1e-6)
    assert state.mu["w"].codes.sharding.spec == P("b", "a")
