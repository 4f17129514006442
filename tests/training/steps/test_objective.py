"""Documents that share a row see each other, or do not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from huggingface_folders import random_model

from models.configs import LlamaConfig
from training.steps.objective import next_token_loss

CONFIG = LlamaConfig(48, 32, 48, num_layers=2, num_heads=4, num_kv_heads=2, max_position=64)
END = 47
RANDOM = np.random.default_rng(0)


@pytest.fixture(scope="module")
def loss():
    structure, params = nnx.split(random_model(CONFIG))

    def call(tokens, end_of_text=None):
        tokens = jnp.asarray(tokens, jnp.int32)[None]
        compiled = jax.jit(next_token_loss, static_argnums=(0, 3))
        return float(compiled(structure, params, tokens, end_of_text))

    return call


def test_a_documents_loss_is_its_own_under_the_mask(loss):
    first, second = RANDOM.integers(0, END, 9), RANDOM.integers(0, END, 14)
    row = np.concatenate([first, [END], second])
    # The end of the first document is predicted in it, and is the first token of the second.
    alone = loss([*first, END]) * 9 + loss([END, *second]) * 14
    assert loss(row, END) == pytest.approx(alone / 23, rel=1e-5)
    assert abs(loss(row) - loss(row, END)) > 1e-3


def test_a_row_of_one_document_is_as_without_the_mask(loss):
    row = RANDOM.integers(0, END, 20)
    assert loss(row, END) == pytest.approx(loss(row), rel=1e-6)
