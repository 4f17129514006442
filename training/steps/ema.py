"""The running average of a run's weights, kept beside them: --ema-decay."""

from typing import Any

import jax.numpy as jnp
import optax


def weight_ema(decay: float) -> optax.GradientTransformation:
    """Keeps an exponential moving average of what its `update` is given; nothing at a decay of 0.

    With a decay d in [0, 1), mean <- d * mean + (1 - d) * weights. In float32: near its end a run
    moves its weights by less than bfloat16 can hold of an average.
    """
    return optax.ema(decay, accumulator_dtype=jnp.float32) if decay else optax.identity()


def follow(ema: optax.GradientTransformation, state: Any, params: Any) -> Any:
    """The state of `weight_ema` after one more step, whose parameters these are."""
    return ema.update(optax.tree.cast(params, jnp.float32), state)[1]


def mean_weights(state: optax.EmaState, decay: float, like: Any) -> Any:
    """The average of `weight_ema`, after at least one step, without the zeros that it began with,
    as parameters of the types of `like`."""
    mean = optax.tree.bias_correction(state.ema, decay, state.count)
    return optax.tree.cast_like(mean, like)
