"""Losses in chunks are those of all logits at once, in less memory."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from huggingface_folders import random_model

from models.configs import LlamaConfig
from models.cross_entropy import next_token_losses

CONFIG = LlamaConfig(48, 32, 48, num_layers=1, num_heads=4, num_kv_heads=2, max_position=64)
TOKENS = jax.random.randint(jax.random.key(1), (3, 13), 0, CONFIG.vocab_size)
SEGMENTS = jnp.broadcast_to(jnp.arange(12) >= 5, (3, 12)).astype(jnp.int32)


def loss_and_gradient(config, segments=None, **options):
    structure, params = nnx.split(random_model(config))

    def mean(params):
        return next_token_losses(nnx.merge(structure, params), TOKENS, segments, **options).mean()

    return jax.jit(jax.value_and_grad(mean))(params)


@functools.cache
def whole(tied):
    return loss_and_gradient(dataclasses.replace(CONFIG, tie_embeddings=tied), SEGMENTS)


@pytest.mark.product(every=3)
@pytest.mark.parametrize(
    ("tied", "logits_at_once"),
    [(False, 3 * 48 * 6), (True, 3 * 48 * 5), (False, 1)],
    ids=["divides", "does not", "every position"],
)
def test_chunks_change_neither_losses_nor_gradients(tied, logits_at_once):
    config = dataclasses.replace(CONFIG, tie_embeddings=tied)
    parts = loss_and_gradient(config, SEGMENTS, logits_at_once=logits_at_once)
    chex.assert_trees_all_close(whole(tied), parts, rtol=1e-4, atol=1e-6)


def test_losses_are_those_of_the_models_logits():
    @nnx.jit
    def losses_and_logits(model):
        losses = next_token_losses(model, TOKENS, SEGMENTS, logits_at_once=1)
        return losses, model(TOKENS[:, :-1], SEGMENTS)

    losses, logits = losses_and_logits(random_model(CONFIG))
    expected = optax.softmax_cross_entropy_with_integer_labels(logits, TOKENS[:, 1:])
    np.testing.assert_allclose(losses, expected, rtol=1e-5)


@pytest.mark.slow
def test_the_heads_gradient_in_bfloat16_is_summed_in_float32():
    config = dataclasses.replace(CONFIG, dtype="bfloat16", param_dtype="bfloat16")
    _, whole = loss_and_gradient(config)
    _, parts = loss_and_gradient(config, logits_at_once=1)
    whole, parts = (
        np.asarray(tree["lm_head"]["kernel"][...], np.float32) for tree in (whole, parts)
    )
    # One rounding of the sum to bfloat16, and the products' own.
    np.testing.assert_allclose(parts, whole, atol=2**-7 * np.abs(whole).max())


def test_a_large_vocabulary_is_not_held_as_logits():
    config = dataclasses.replace(CONFIG, vocab_size=8192)
    structure, params = nnx.split(random_model(config))
    tokens = jnp.zeros((4, 65), jnp.int32)
    logits = 4 * 64 * 8192 * 4  # bytes

    def temporaries(logits_at_once):
        def mean(params):
            model = nnx.merge(structure, params)
            return next_token_losses(model, tokens, logits_at_once=logits_at_once).mean()

        return jax.jit(jax.grad(mean)).lower(params).compile().memory_analysis().temp_size_in_bytes

    assert temporaries(4 * 64 * 8192) > logits
    assert temporaries(4 * 4 * 8192) < 0.5 * logits
