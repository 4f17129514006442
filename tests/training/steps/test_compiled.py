"""What is known of the compiled steps besides what they compute."""

import jax
import pytest
from flax import nnx
from huggingface_folders import random_model

from models.configs import LlamaConfig
from training.steps.compiled import flops_per_token, keep_compilations


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


@pytest.fixture
def cache_dir():
    """What JAX is told, put back afterwards."""
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    yield lambda: jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", before)


@pytest.mark.parametrize(("backend", "kept"), [("gpu", True), ("tpu", True), ("cpu", False)])
def test_accelerators_keep_what_they_compile_in_the_users_cache(
    monkeypatch, tmp_path, cache_dir, backend, kept
):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    keep_compilations()
    assert cache_dir() == (str(tmp_path / "lowrank_optax/compilations") if kept else None)


def test_a_place_that_jax_is_told_is_kept(monkeypatch, cache_dir):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    jax.config.update("jax_compilation_cache_dir", "elsewhere")
    keep_compilations()
    assert cache_dir() == "elsewhere"
