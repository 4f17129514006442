"""Traced hyperparameters that an optimizer closed over can be used under other mesh axes."""

import dataclasses
import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from layouts import AXES, METHODS, eight_devices, kernel_numbers, normal

import lowrank_optax as lro
from lowrank_optax.sharding.closures import in_this_context

SHAPE = (16, 32)
NUMBERS = kernel_numbers(SHAPE)


def placed(kind, spec):
    sharding = NamedSharding(eight_devices(kind), spec)
    return jax.device_put(normal(1, SHAPE), sharding), sharding


def test_injected_hyperparameters_reach_the_fallback_under_zero_too():
    make = optax.inject_hyperparams(lro.trion, static_args=("rank", "ns_steps", "zero_axis"))
    tx = make(learning_rate=0.1, rank=4, weight_decay=0.1, zero_axis=AXES)
    here = {"w": normal(1, SHAPE), "b": normal(2, (16,))}
    whole = NamedSharding(eight_devices(AxisType.Explicit), P())
    there = jax.device_put(here, whole)
    state = jax.jit(tx.init, out_shardings=lro.state_shardings(tx, there, whole))(there)
    updates, _ = jax.jit(tx.update)(there, state, there)
    expected, _ = tx.update(here, tx.init(here), here)
    for name in here:
        np.testing.assert_allclose(updates[name], expected[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_every_hyperparameter_may_be_injected_under_explicit_axes(method):
    function = METHODS[method].func
    numeric = {"learning_rate", "momentum", "b1", "b2", "eps", "rho", "scale", "residual_decay"}
    static = set(inspect.signature(function).parameters) - numeric
    make = optax.inject_hyperparams(function, static_args=tuple(static))
    settings = METHODS[method].keywords | {"rank": 4, "dimension_numbers": NUMBERS}
    tx = make(learning_rate=0.1, **settings)
    here = normal(1, SHAPE)
    there, sharding = placed(AxisType.Explicit, P(None, AXES))
    places = lro.state_shardings(tx, there, sharding)
    state = jax.jit(tx.init, out_shardings=places)(there)
    updates, _ = jax.jit(tx.update)(there, state, there)
    expected, _ = tx.update(here, tx.init(here), here)
    np.testing.assert_allclose(updates, expected, rtol=2e-3, atol=1e-4)


def test_an_optimizer_that_is_told_where_its_parameters_are_may_close_over_traced_values():
    there, sharding = placed(AxisType.Auto, P(AXES, None))

    def make(rate, momentum):
        tx = lro.trion(rate, 4, momentum=momentum, compress="unsharded", dimension_numbers=NUMBERS)
        return lro.with_shardings(tx, sharding)

    @jax.jit
    def step(gradient, state, rate, momentum):
        return make(rate, momentum).update(gradient, state, gradient)[0]

    whole = NamedSharding(sharding.mesh, P())
    rate, momentum = jax.device_put((jnp.float32(0.1), jnp.float32(0.5)), whole)
    tx = make(0.1, 0.5)
    state = tx.init(there)
    expected, _ = tx.update(there, state, there)
    np.testing.assert_allclose(step(there, state, rate, momentum), expected, atol=1e-6)


@dataclasses.dataclass(frozen=True)
class Scaling:
    factor: jax.Array

    def apply(self, x):
        return self.factor * x


def closes_over(factor):
    return lambda x: factor * x


def has_default(factor):
    def function(x, *, factor=factor):
        return factor * x

    return function


HOLDERS = {
    "closure": closes_over,
    "nested closure": lambda factor: functools.partial(map_one, closes_over(factor)),
    "default": has_default,
    "partial": lambda factor: functools.partial(jnp.multiply, factor),
    "bound method": lambda factor: Scaling(factor).apply,
    "dictionary": lambda factor: functools.partial(
        lambda table, x: table["f"][0](x), {"f": [closes_over(factor)]}
    ),
}


def map_one(function, x):
    return function(x)


@pytest.mark.parametrize("holder", HOLDERS)
def test_values_are_found_wherever_a_function_holds_them(holder):
    mesh = eight_devices(AxisType.Explicit)
    x = jax.device_put(jnp.ones(8), NamedSharding(mesh, P(AXES)))
    factor = jax.device_put(jnp.float32(3), NamedSharding(mesh, P()))

    @jax.jit
    def call(factor, x):
        function = HOLDERS[holder](factor)
        inside = lambda x: in_this_context(function)(x)
        return jax.sharding.auto_axes(inside, out_sharding=P(AXES))(x)

    with jax.set_mesh(mesh):
        np.testing.assert_array_equal(call(factor, x), 3 * np.ones(8))


def test_what_holds_no_traced_values_stays_the_same_object():
    for value in [closes_over(2.0), Scaling(2.0), [1, (2, {"a": 3})], functools.partial(max, 2)]:
        assert in_this_context(value) is value


def test_a_function_that_refers_to_itself_is_rebuilt_once():
    def countdown(n):
        return n if n == 0 else countdown(n - 1)

    assert in_this_context(countdown)(3) == 0
