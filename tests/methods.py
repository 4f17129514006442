"""Named methods with small settings, for promises that all of them keep."""

import itertools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest
from covers import in_turn
from drawing import draw

import lowrank_optax as lro

METHODS = {
    "trion": dict(),
    "dct_adamw": dict(),
    "dion": dict(),
    "galore": dict(update_interval=3),
    "golore": dict(update_interval=3, random_after=4),
    "ldadamw": dict(),
    "frugal": dict(update_interval=3),
    "fira": dict(update_interval=3),
    "online_subspace_descent": dict(),
    "tandem": dict(),
}
"""Arguments of each beside the learning rate and the rank."""

every_method = pytest.mark.parametrize("name", METHODS)
"""For promises that cost little."""

QUICK = ("galore",)
"""A learned basis that is held for some steps, which has the most parts at work."""

each_method = pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in METHODS],
)
"""For promises that a program has to be compiled for."""


def each_method_with(parameter: str, values: Iterable[Any]) -> pytest.MarkDecorator:
    """Every method with one value of another parameter in turn, those of `QUICK` with all."""
    values = list(values)
    others = [name for name in METHODS if name not in QUICK]
    slow = [pytest.param(*case, marks=pytest.mark.slow) for case in in_turn(others, values)]
    return pytest.mark.parametrize(("name", parameter), [*itertools.product(QUICK, values), *slow])


def make(
    name: str, learning_rate: Any = 1e-2, rank: int | float = 2, **settings: Any
) -> optax.GradientTransformationExtraArgs:
    """The named method with its small settings, some of which may be replaced."""
    return getattr(lro, name)(learning_rate, rank, **(METHODS[name] | settings))


def compiled(tx: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """The same with jitted functions: eager ones would compile every operation by itself."""
    tx = optax.with_extra_args_support(tx)
    return optax.GradientTransformationExtraArgs(jax.jit(tx.init), jax.jit(tx.update))


def model(seed: int, dtype: Any = jnp.float32) -> dict[str, Any]:
    """Two matrices, wide and tall, and a bias, which is no matrix."""
    shapes = {"first": (4, 8), "second": (9, 5), "bias": (8,)}
    return {
        name: draw(shape, 100 * seed + i, dtype) for i, (name, shape) in enumerate(shapes.items())
    }


def trajectory(tx: optax.GradientTransformation, params: Any, gradient: Any, steps: int) -> Any:
    """Parameters and state after `steps` steps on `gradient(params, step)`, in one scan."""
    tx = optax.with_extra_args_support(tx)

    @jax.jit
    def run(params: Any) -> Any:
        def body(carry: Any, step: jax.Array) -> Any:
            params, state = carry
            updates, state = tx.update(gradient(params, step), state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(body, (params, tx.init(params)), jnp.arange(steps))[0]

    return run(params)
