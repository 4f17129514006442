"""Decay, learning rate and step reach a bfloat16 parameter in one rounding.

Dion3's authors (arXiv 2608.11612, section 6) measured a loss from two.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawing import draw
from methods import compiled, each_method, make

RATE, DECAY = 1e-2, 0.1
HALF = jnp.bfloat16
MATRICES = {"wide": (16, 40), "tall": (40, 12)}
SHAPES = MATRICES | {"bias": (200,)}


def tree(seed):
    return {name: draw(shape, seed, HALF) for name, shape in SHAPES.items()}


@functools.cache
def optimizer(name, rate, decay):
    return compiled(make(name, rate, rank=4, weight_decay=decay))


def update(name, params, gradients, rate, decay):
    tx = optimizer(name, rate, decay)
    return tx.update(gradients, tx.init(params), params)[0]


@functools.cache
def first_step(name):
    """The first step on bfloat16 gradients in float64, and what its rounding to bfloat16 loses.

    Two updates in bfloat16 tell: one of the step alone, and one of which all but that loss is
    taken away again, by decaying weights that are the opposite of the first.
    """
    negative = functools.partial(jax.tree.map, jnp.negative)
    none = jax.tree.map(jnp.zeros_like, tree(1))
    rounded = negative(update(name, none, tree(1), 1.0, 0.0))
    lost = negative(update(name, negative(rounded), tree(1), 1.0, 1.0))
    step = {leaf: np.float64(rounded[leaf]) + np.float64(lost[leaf]) for leaf in SHAPES}
    return step, lost


def rounded_once(got, step, weights):
    """Where `got` is −η (step + λ W) to half a bfloat16, and to how well the step is known."""
    exact = -RATE * (step + DECAY * np.float64(weights))
    half = 2.0 ** (np.floor(np.log2(np.abs(exact))) - 8)
    return np.abs(np.float64(got) - exact) <= half + 2.0**-16 * np.abs(RATE * step)


def in_bfloat16(step, weights):
    """The step, the decay and the rate each rounded, as the parts of `optax.adamw` do it."""
    return HALF(-RATE) * (jnp.asarray(step, HALF) + HALF(DECAY) * weights)


@pytest.mark.parametrize("leaf", SHAPES)
@each_method
def test_an_update_in_bfloat16_is_rounded_once(name, leaf):
    weights, step = tree(0)[leaf], first_step(name)[0][leaf]
    got = update(name, tree(0), tree(1), RATE, DECAY)[leaf]
    assert got.dtype == HALF
    assert rounded_once(got, step, weights).all()
    assert np.mean(rounded_once(in_bfloat16(step, weights), step, weights)) < 0.8


@pytest.mark.parametrize("leaf", MATRICES)
@each_method
def test_a_step_is_not_rounded_before_the_decay_is_added(name, leaf):
    assert np.mean(np.float64(first_step(name)[1][leaf]) != 0) > 0.3


@pytest.mark.parametrize("leaf", SHAPES)
@each_method
def test_decay_alone_is_rounded_once(name, leaf):
    weights = tree(0)
    none = jax.tree.map(jnp.zeros_like, weights)
    got = update(name, weights, none, RATE, DECAY)[leaf]
    assert rounded_once(got, 0.0, weights[leaf]).all()
