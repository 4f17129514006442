"""The model is made as promised; that it computes what Llama and Qwen2 do: test_huggingface.py."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict
from huggingface_folders import forward, parameters

from models.attention import apply_rotary, causal_attention, rotary_tables
from models.configs import LlamaConfig
from models.llama import Llama, matrix_dimension_numbers

CONFIG = LlamaConfig(
    vocab_size=32,
    hidden_size=16,
    intermediate_size=24,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
    max_position=128,
)
QWEN = dataclasses.replace(CONFIG, qkv_bias=True, tie_embeddings=True)
TOKENS = jax.random.randint(jax.random.key(7), (2, 9), 0, CONFIG.vocab_size)


@functools.cache
def initial_parts(config, seed):
    return nnx.split(Llama(config, rngs=nnx.Rngs(seed)))


def initial(config, seed=0):
    """A model of its own, of arrays that are drawn once."""
    structure, state = initial_parts(config, seed)
    return nnx.merge(structure, jax.tree.map(lambda leaf: leaf, state))


def with_parameters(model, flat):
    """A copy of the model holding the given {path: array}."""
    structure, state = nnx.split(model)
    nnx.replace_by_pure_dict(state, unflatten_dict(flat, sep="/"))
    return nnx.merge(structure, state)


def loss(structure, state, tokens):
    logits = nnx.merge(structure, state)(tokens[:, :-1])
    return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()


value_and_gradients = jax.jit(jax.value_and_grad(loss, argnums=1), static_argnums=0)


def abstract(config):
    """Structure and shapes of a model that is never allocated."""
    return nnx.split(nnx.eval_shape(lambda: Llama(config, rngs=nnx.Rngs(0))))


def loss_and_gradients(config):
    structure, state = nnx.split(initial(config))
    value, gradients = value_and_gradients(structure, state, TOKENS)
    return value, flatten_dict(nnx.to_pure_dict(gradients), sep="/")


def test_a_later_token_leaves_earlier_logits_unchanged():
    model = initial(CONFIG)
    tokens = jax.random.randint(jax.random.key(1), (1, 100), 0, CONFIG.vocab_size)
    position = 50  # in the first of two chunks of queries
    changed = tokens.at[0, position].set((tokens[0, position] + 1) % CONFIG.vocab_size)
    before, after = forward(model, tokens), forward(model, changed)
    np.testing.assert_array_equal(before[:, :position], after[:, :position])
    assert jnp.all(jnp.any(before[:, position:] != after[:, position:], axis=-1))


@pytest.mark.product(every=2)
@pytest.mark.parametrize("time", [5, 150, 300])  # one chunk, and chunks of unequal length
def test_chunked_attention_is_exact(time):
    keys = jax.random.split(jax.random.key(0), 3)
    query = jax.random.normal(keys[0], (2, time, 4, 8))
    key, value = (jax.random.normal(k, (2, time, 2, 8)) for k in keys[1:])
    attended, expected = jax.jit(
        lambda *qkv: (causal_attention(*qkv), jax.nn.dot_product_attention(*qkv, is_causal=True))
    )(query, key, value)
    np.testing.assert_allclose(attended, expected, atol=2e-6)


def test_grouped_query_attention_equals_repeated_key_value_heads():
    grouped = initial(QWEN)
    full = initial(dataclasses.replace(QWEN, num_kv_heads=QWEN.num_heads), seed=1)
    flat = parameters(grouped)
    for path in flat:
        if "k_proj" in path or "v_proj" in path:
            heads = flat[path].reshape(*flat[path].shape[:-1], QWEN.num_kv_heads, QWEN.head_dim)
            repeated = jnp.repeat(heads, QWEN.num_heads // QWEN.num_kv_heads, axis=-2)
            flat[path] = repeated.reshape(*flat[path].shape[:-1], -1)
    np.testing.assert_allclose(
        forward(with_parameters(full, flat), TOKENS), forward(grouped, TOKENS), atol=1e-6
    )


def test_rotary_scores_depend_on_relative_position_only():
    query, key = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, 8))

    def score(query_position, key_position):
        positions = jnp.array([query_position, key_position])
        cosines, sines = rotary_tables(positions, 8, 10_000.0)
        turned = apply_rotary(jnp.concatenate([query, key], axis=1), cosines, sines)
        return jnp.vdot(turned[0, 0], turned[0, 1])

    np.testing.assert_allclose(score(5, 2), score(905, 902), rtol=1e-4)
    np.testing.assert_allclose(score(3, 3), jnp.vdot(query, key), rtol=1e-5)
    assert abs(score(5, 2) - score(5, 1)) > 1e-2


def test_parameter_paths_and_shapes_are_as_documented():
    shapes = {path: leaf.shape for path, leaf in parameters(initial(CONFIG)).items()}
    assert shapes == {
        "embed_tokens/embedding": (32, 16),
        "layers/input_norm/scale": (3, 16),
        "layers/attention/q_proj/kernel": (3, 16, 16),
        "layers/attention/k_proj/kernel": (3, 16, 8),
        "layers/attention/v_proj/kernel": (3, 16, 8),
        "layers/attention/o_proj/kernel": (3, 16, 16),
        "layers/post_attention_norm/scale": (3, 16),
        "layers/mlp/gate_proj/kernel": (3, 16, 24),
        "layers/mlp/up_proj/kernel": (3, 16, 24),
        "layers/mlp/down_proj/kernel": (3, 24, 16),
        "norm/scale": (16,),
        "lm_head/kernel": (16, 32),
    }


def test_tied_model_has_no_head_and_qkv_bias_adds_three_biases():
    plain = parameters(initial(CONFIG)).keys()
    qwen = parameters(initial(QWEN)).keys()
    assert plain - qwen == {"lm_head/kernel"}
    assert qwen - plain == {f"layers/attention/{p}_proj/bias" for p in "qkv"}


def test_tied_head_is_the_transposed_embedding():
    untied = initial(CONFIG)
    flat = parameters(untied)
    flat["lm_head/kernel"] = flat["embed_tokens/embedding"].T
    expected = forward(with_parameters(untied, flat), TOKENS)
    del flat["lm_head/kernel"]
    tied = initial(dataclasses.replace(CONFIG, tie_embeddings=True), seed=1)
    np.testing.assert_allclose(forward(with_parameters(tied, flat), TOKENS), expected, atol=1e-6)


def test_initial_scales_are_as_documented():
    config = LlamaConfig(64, hidden_size=64, intermediate_size=64, num_layers=3, num_heads=4)
    for path, leaf in parameters(initial(config)).items():
        if path.endswith("scale"):
            np.testing.assert_array_equal(leaf, 1.0)
        else:
            residual = "o_proj" in path or "down_proj" in path
            expected = 0.02 / (2 * config.num_layers) ** 0.5 if residual else 0.02
            assert float(jnp.std(leaf)) == pytest.approx(expected, rel=0.08), path


def test_layers_start_different_from_each_other():
    kernel = initial(CONFIG).layers.mlp.up_proj.kernel[...]
    assert not jnp.any(kernel[0] == kernel[1])


def test_scan_equals_a_loop_over_the_layers():
    model = initial(QWEN)
    tables = rotary_tables(jnp.arange(TOKENS.shape[1]), QWEN.head_dim, QWEN.rope_theta)

    @nnx.jit
    def looped(model):
        structure, stacked = nnx.split(model.layers)
        x = model.embed_tokens(TOKENS)
        for layer in range(QWEN.num_layers):
            block = nnx.merge(structure, jax.tree.map(lambda leaf, i=layer: leaf[i], stacked))
            x = block(x, *tables)
        return model.norm(x) @ model.embed_tokens.embedding[...].T

    np.testing.assert_allclose(forward(model, TOKENS), looped(model), atol=1e-6)


def test_compiled_program_does_not_grow_with_depth():
    def program_size(num_layers):
        structure, state = abstract(dataclasses.replace(CONFIG, num_layers=num_layers))
        gradient = jax.jit(jax.grad(loss, argnums=1), static_argnums=0)
        return len(gradient.lower(structure, state, TOKENS).as_text().splitlines())

    assert program_size(2) == program_size(7)


def test_remat_gives_equal_gradients_and_stores_no_products():
    value, gradients = loss_and_gradients(CONFIG)
    remat = dataclasses.replace(CONFIG, remat=True)
    remat_value, remat_gradients = loss_and_gradients(remat)
    np.testing.assert_allclose(value, remat_value, rtol=1e-6)
    for path, leaf in remat_gradients.items():
        np.testing.assert_allclose(leaf, gradients[path], rtol=1e-4, atol=1e-7)
    assert stored_floats(remat) < stored_floats(CONFIG)


def stored_floats(config):
    """Numbers kept from the forward pass for the backward pass."""
    structure, state = abstract(config)
    _, backward = jax.eval_shape(lambda s: jax.vjp(lambda t: loss(structure, t, TOKENS), s), state)
    return sum(leaf.size for leaf in jax.tree.leaves(backward))


@pytest.mark.product(every=2)
@pytest.mark.parametrize("config", [CONFIG, QWEN], ids=["llama", "qwen2"])
def test_bfloat16_compute_keeps_float32_logits_and_gradients(config):
    half = dataclasses.replace(config, dtype="bfloat16")
    logits = forward(initial(half), TOKENS)
    assert logits.dtype == jnp.float32
    exact = forward(initial(config), TOKENS)
    np.testing.assert_allclose(logits, exact, atol=0.02 * float(jnp.abs(exact).max()))
    assert not jnp.array_equal(logits, exact)
    structure, state = abstract(half)
    gradients = jax.eval_shape(
        lambda state: jax.grad(loss, argnums=1)(structure, state, TOKENS), state
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(gradients)} == {jnp.dtype("float32")}


def test_parameters_take_the_parameter_dtype():
    structure, state = abstract(dataclasses.replace(QWEN, param_dtype="bfloat16"))
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype("bfloat16")}
    logits = jax.eval_shape(lambda state: nnx.merge(structure, state)(TOKENS), state)
    assert logits.dtype == jnp.float32


def test_matrix_dimension_numbers_mark_exactly_the_stacked_kernels():
    params = nnx.to_pure_dict(abstract(dataclasses.replace(CONFIG, qkv_bias=True))[1])
    kernel = optax.contrib.MuonDimensionNumbers(reduction_axis=1, output_axis=2)
    numbers = flatten_dict(matrix_dimension_numbers(params), sep="/")
    assert numbers.keys() == flatten_dict(params, sep="/").keys()
    marked = {path: leaf for path, leaf in numbers.items() if leaf is not None}
    names = [f"attention/{p}_proj" for p in "qkvo"] + [
        f"mlp/{p}_proj" for p in ("gate", "up", "down")
    ]
    assert marked == {f"layers/{name}/kernel": kernel for name in names}


def test_matrix_dimension_numbers_drive_optax_muon():
    params = nnx.to_pure_dict(abstract(CONFIG)[1])
    optimizer = optax.contrib.muon(0.02, muon_weight_dimension_numbers=matrix_dimension_numbers)
    state = jax.eval_shape(optimizer.init, params)
    updates, _ = jax.eval_shape(optimizer.update, params, state, params)
    assert jax.tree.map(jnp.shape, updates) == jax.tree.map(jnp.shape, params)


def test_too_long_a_sequence_names_the_limit():
    with pytest.raises(ValueError, match="129 tokens exceeds max_position=128; shorten it"):
        initial(CONFIG)(jnp.zeros((1, 129), jnp.int32))


@pytest.mark.parametrize(
    "tokens", [jnp.zeros(4, jnp.int32), jnp.zeros((1, 4))], ids=["1d", "float"]
)
def test_tokens_of_the_wrong_kind_are_refused(tokens):
    with pytest.raises(ValueError, match=r"tokens must be an integer array \(batch, time\), got"):
        initial(CONFIG)(tokens)
