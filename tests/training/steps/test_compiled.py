"""What is known of the compiled steps besides what they compute."""

import jax
import pytest
from flax import nnx
from huggingface_folders import random_model

from models.configs import LlamaConfig
from training.steps.compiled import flops_per_token


@pytest.mark.parametrize("tied", [False, True])
def test_the_models_operations_are_those_that_the_compiler_counts(tied):
    # The compiler counts the body of a loop once: one layer. Rows are too short for attention to
    # matter, of which it counts the masked half too.
    config = LlamaConfig(64, 64, 160, num_layers=1, num_heads=4, tie_embeddings=tied)
    structure, params = nnx.split(random_model(config))
    tokens = jax.ShapeDtypeStruct((4, 8), "int32")
    forward = jax.jit(lambda params, tokens: nnx.merge(structure, params)(tokens))
    counted = forward.lower(params, tokens).compile().cost_analysis()["flops"] / (4 * 8)
    ours = flops_per_token(config, nnx.to_pure_dict(params), seq_len=8) / 3  # a third is forwards
    assert ours == pytest.approx(counted, rel=0.1)
