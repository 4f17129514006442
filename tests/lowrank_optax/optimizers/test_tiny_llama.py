"""Every named optimizer trains a Llama further than training what is no matrix does."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from huggingface_folders import random_model
from methods import METHODS, QUICK

import lowrank_optax as lro
from models.configs import LlamaConfig
from models.llama import matrix_dimension_numbers

CONFIG = LlamaConfig(16, 16, 24, num_layers=2, num_heads=2, max_position=16)
RATES = {
    **dict.fromkeys(("trion", "dion", "tandem", "muon", "normuon", "dion2", "dion3"), 0.02),
    "golore": 0.04,  # of which a quarter is left, in a subspace that is soon a random one
}
"""Learning rates of the matrices where they are not 0.01."""
FULL_RANK = ("muon", "normuon")
NAMES = [*METHODS, "muon", "normuon", "dion2", "dion3", "apollo", "apollo_mini", "alice0"]
STEPS = 80


def sequences():
    """The sum of the last two tokens, modulo the size of the vocabulary, is the next one."""
    rng, size = np.random.default_rng(0), CONFIG.vocab_size
    tokens = rng.integers(0, size, (STEPS, 16, 14))
    for i in range(2, tokens.shape[-1]):
        tokens[..., i] = (tokens[..., i - 1] + tokens[..., i - 2]) % size
    return jnp.asarray(tokens, jnp.int32)


def start():
    structure, parameters = nnx.split(random_model(CONFIG), nnx.Param)
    parameters = nnx.to_pure_dict(parameters)
    return structure, jax.tree.map(
        lambda x: 0.1 * x if x.ndim > 1 else jnp.ones_like(x), parameters
    )


@functools.cache
def last_loss(name, learning_rate):
    """The mean loss of the last ten steps."""
    structure, params = start()
    rank = {} if name in FULL_RANK or name == "apollo_mini" else {"rank": 4}
    tx = getattr(lro, name)(
        learning_rate,
        **rank,
        fallback_learning_rate=0.003,
        dimension_numbers=matrix_dimension_numbers,
    )

    def loss(params, tokens):
        logits = nnx.merge(structure, params)(tokens[:, :-1])
        return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()

    def step(carry, tokens):
        params, state = carry
        value, gradient = jax.value_and_grad(loss)(params, tokens)
        updates, state = tx.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), value

    run = jax.jit(lambda params: jax.lax.scan(step, (params, tx.init(params)), sequences())[1])
    return float(run(params)[-10:].mean())


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in NAMES],
)
def test_it_trains_a_llama_further_than_without_its_matrices(name):
    frozen = last_loss("trion", 0.0)
    assert last_loss(name, RATES.get(name, 0.01)) < frozen - 0.05
