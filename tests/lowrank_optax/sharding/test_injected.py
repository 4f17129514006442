"""Hyperparameters that are traced numbers reach every part of a method under `Explicit` axes."""

import inspect

import jax
import jax.numpy as jnp
import optax
import pytest
from drawing import draw
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from layouts import AXES, METHODS, TOLERANCE, assert_close, eight_devices, kernel_numbers, misplaced
from methods import compiled

import lowrank_optax as lro

SHAPE = (16, 32)
NUMBERS = {"w": kernel_numbers(SHAPE), "b": None}
EXPLICIT = AxisType.Explicit


def everything_injected(method, **settings):
    """The method with every argument that is a real number injected, weight decay included."""
    function = METHODS[method].func
    parameters = inspect.signature(function).parameters
    numeric = {name for name, each in parameters.items() if isinstance(each.default, float)}
    static = parameters.keys() - (numeric - {"rank"}) - {"learning_rate"}
    make = optax.inject_hyperparams(function, static_args=tuple(static))
    settings = METHODS[method].keywords | {"weight_decay": 0.1} | settings
    return make(learning_rate=0.1, rank=4, dimension_numbers=NUMBERS, **settings)


def problem(kind, spec):
    mesh = eight_devices(kind)
    here = {"w": draw(SHAPE, 1), "b": draw((16,), 2)}
    shardings = {"w": NamedSharding(mesh, spec), "b": NamedSharding(mesh, P())}
    return here, jax.device_put(here, shardings), shardings


@pytest.mark.product(every=18)
@pytest.mark.parametrize(
    ("method", "layout"), [(method, ("rows", "zero")[i % 2]) for i, method in enumerate(METHODS)]
)
def test_every_number_may_be_injected_under_explicit_axes(method, layout):
    here, there, shardings = problem(EXPLICIT, P(None, AXES) if layout == "rows" else P())
    tx = everything_injected(method, zero_axis=AXES if layout == "zero" else None)
    places = lro.state_shardings(tx, there, shardings)
    state = jax.jit(tx.init, out_shardings=places)(there)
    update = jax.jit(tx.update)
    _, state = update(there, state, there)
    assert not misplaced(state, places)
    injected = state.hyperparams
    assert {"learning_rate", "weight_decay"} < injected.keys()
    # Another rate in the state is another rate, in the same program.
    state = state._replace(hyperparams=injected | {"learning_rate": injected["learning_rate"] / 2})
    updates, _ = update(there, state, there)
    plain = compiled(everything_injected(method))
    _, expected_state = plain.update(here, plain.init(here), here)
    halved = expected_state.hyperparams | {"learning_rate": jnp.float32(0.05)}
    expected, _ = plain.update(here, expected_state._replace(hyperparams=halved), here)
    assert_close(updates, expected, TOLERANCE[method])


@pytest.mark.product(every=2)
@pytest.mark.parametrize("layout", ["rows", "zero"])
def test_a_schedule_is_followed_under_explicit_axes(layout):
    here, there, shardings = problem(EXPLICIT, P(None, AXES) if layout == "rows" else P())
    make = optax.inject_hyperparams(lro.dct_adamw, static_args=("rank", "update_interval"))
    schedule = optax.linear_schedule(0.1, 0.0, 3)
    settings = {"rank": 4, "dimension_numbers": NUMBERS, "zero_axis": AXES}
    tx = make(learning_rate=schedule, b1=optax.linear_schedule(0.9, 0.5, 3), **settings)
    places = lro.state_shardings(tx, there, shardings)
    state = jax.jit(tx.init, out_shardings=places)(there)
    update = jax.jit(tx.update)
    plain = compiled(tx)
    expected_state = plain.init(here)
    for _ in range(3):
        updates, state = update(there, state, there)
        expected, expected_state = plain.update(here, expected_state, here)
        assert_close(updates, expected, TOLERANCE["dct_adamw"])


@pytest.mark.product(every=3)
@pytest.mark.parametrize("method", ["trion", "galore", "ldadamw"])
def test_an_optimizer_may_be_built_around_traced_numbers(method):
    """As a search over learning rates does, with the rate an argument of the step."""
    here, there, shardings = problem(EXPLICIT, P(None, AXES))
    make = lambda rate: METHODS[method].func(
        rate, 4, weight_decay=rate, dimension_numbers=NUMBERS, **METHODS[method].keywords
    )
    rate = jax.device_put(jnp.float32(0.1), NamedSharding(shardings["w"].mesh, P()))
    state = make(0.1).init(there)
    step = jax.jit(lambda g, state, rate: make(rate).update(g, state, g)[0])
    plain = compiled(make(0.1))
    expected, _ = plain.update(here, plain.init(here), here)
    assert_close(step(there, state, rate), expected, TOLERANCE[method])


def test_injection_outside_and_inside_of_with_shardings():
    here, there, shardings = problem(AxisType.Auto, P(AXES, None))
    inside = lro.with_shardings(everything_injected("dct_adamw"), shardings)
    plain = compiled(everything_injected("dct_adamw"))
    expected, _ = plain.update(here, plain.init(here), here)
    updates, _ = jax.jit(inside.update)(there, jax.jit(inside.init)(there), there)
    assert_close(updates, expected, TOLERANCE["dct_adamw"])
