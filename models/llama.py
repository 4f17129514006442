"""Llama and Qwen2: decoder-only transformers with stacked, scanned layers.

One block (RMSNorm, grouped-query attention with rotary positions, RMSNorm, SwiGLU) is compiled
once and scanned over a leading layer axis that every per-layer parameter carries, so compile
time does not grow with depth and an optimizer sees one batch of matrices per kernel.

Qwen2 is the same code with ``qkv_bias=True`` (and, for its small sizes, ``tie_embeddings=True``).
Parameter names follow the Hugging Face ones: ``model.layers.3.self_attn.q_proj.weight`` (out, in)
is ``layers/attention/q_proj/kernel[3]`` (in, out), transposed.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, Int, PyTree

from models.attention import (
    apply_rotary,
    at_least_float32,
    causal_attention,
    rotary_tables,
    segment_positions,
)
from models.configs import LlamaConfig
from models.linear import KERNEL_PRODUCT, Linear, kernel_product

INITIAL_STDDEV = 0.02


class RMSNorm(nnx.Module):
    """x / sqrt(mean(x**2) + eps) * scale over the last axis, in float32 (arXiv 1910.07467)."""

    def __init__(self, config: LlamaConfig):
        self.eps = config.norm_eps
        self.dtype = config.dtype
        self.scale = nnx.Param(jnp.ones(config.hidden_size, config.param_dtype))

    def __call__(self, x: Float[Array, "*batch hidden"]) -> Float[Array, "*batch hidden"]:
        wide = x.astype(at_least_float32(x.dtype))
        inverse = jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + self.eps)
        return (wide * inverse * self.scale[...].astype(wide.dtype)).astype(self.dtype)


class Attention(nnx.Module):
    """Causal grouped-query attention with rotary positions (arXiv 2305.13245)."""

    def __init__(self, config: LlamaConfig, *, rngs: nnx.Rngs):
        self.head_dim = config.head_dim
        query_size = config.num_heads * config.head_dim
        kv_size = config.num_kv_heads * config.head_dim
        bias = config.qkv_bias
        self.q_proj = _linear(config, config.hidden_size, query_size, rngs, use_bias=bias)
        self.k_proj = _linear(config, config.hidden_size, kv_size, rngs, use_bias=bias)
        self.v_proj = _linear(config, config.hidden_size, kv_size, rngs, use_bias=bias)
        self.o_proj = _linear(config, query_size, config.hidden_size, rngs, residual=True)

    def project(self, x: Array, cosines: Array, sines: Array) -> tuple[Array, Array, Array]:
        """Turned queries and keys, and values, each (batch, time, its heads, head_dim)."""
        heads = (*x.shape[:-1], -1, self.head_dim)
        query = apply_rotary(self.q_proj(x).reshape(heads), cosines, sines)
        key = apply_rotary(self.k_proj(x).reshape(heads), cosines, sines)
        value = self.v_proj(x).reshape(heads)
        return query, key, value

    def output(self, attended: Array) -> Array:
        """What (batch, time, heads, head_dim) adds to the residual stream."""
        return self.o_proj(attended.reshape(*attended.shape[:-2], -1))


class MLP(nnx.Module):
    """SwiGLU feed-forward layer: down(silu(gate(x)) * up(x)) (arXiv 2002.05202)."""

    def __init__(self, config: LlamaConfig, *, rngs: nnx.Rngs):
        hidden, intermediate = config.hidden_size, config.intermediate_size
        self.gate_proj = _linear(config, hidden, intermediate, rngs)
        self.up_proj = _linear(config, hidden, intermediate, rngs)
        self.down_proj = _linear(config, intermediate, hidden, rngs, residual=True)

    def __call__(self, x: Float[Array, "*batch hidden"]) -> Float[Array, "*batch hidden"]:
        return self.down_proj(nnx.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nnx.Module):
    """One pre-norm transformer layer."""

    def __init__(self, config: LlamaConfig, *, rngs: nnx.Rngs):
        self.input_norm = RMSNorm(config)
        self.attention = Attention(config, rngs=rngs)
        self.post_attention_norm = RMSNorm(config)
        self.mlp = MLP(config, rngs=rngs)

    def __call__(
        self, x: Array, cosines: Array, sines: Array, segments: Array | None = None
    ) -> Array:
        return self.with_keys_and_values(x, cosines, sines, segments)[0]

    def with_keys_and_values(
        self, x: Array, cosines: Array, sines: Array, segments: Array | None = None
    ) -> tuple[Array, Array, Array]:
        """The layer's output, and the keys and values that a cache keeps of its input."""
        query, key, value = self.attention.project(self.input_norm(x), cosines, sines)
        return self.finish(x, causal_attention(query, key, value, segments)), key, value

    def finish(self, x: Array, attended: Array) -> Array:
        """The layer's output from its input and what each head attended to."""
        x = x + self.attention.output(attended)
        return x + self.mlp(self.post_attention_norm(x))


class Llama(nnx.Module):
    """Decoder-only language model: token ids to next-token logits.

    Kernels and embeddings start from normal(0.02), those that write to the residual stream
    (``o_proj``, ``down_proj``) from normal(0.02 / sqrt(2 * num_layers)) so that the stream's
    variance does not grow with depth; biases start at zero, norms at one.

    Args:
      config: shape and numerics.
      rngs: source of the initial parameters (its ``params`` stream).

    Example:
      >>> config = LlamaConfig(
      ...     vocab_size=32, hidden_size=16, intermediate_size=32, num_layers=2, num_heads=4
      ... )
      >>> model = Llama(config, rngs=nnx.Rngs(0))
      >>> model(jnp.zeros((1, 5), jnp.int32)).shape
      (1, 5, 32)
      >>> model.layers.attention.q_proj.kernel.shape
      (2, 16, 16)
    """

    def __init__(self, config: LlamaConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.embed_tokens = nnx.Embed(
            config.vocab_size,
            config.hidden_size,
            embedding_init=nnx.initializers.normal(INITIAL_STDDEV),
            dtype=config.dtype,
            param_dtype=config.param_dtype,
            rngs=rngs,
        )
        self.layers = _stacked_blocks(config, rngs)
        self.norm = RMSNorm(config)
        if not config.tie_embeddings:
            self.lm_head = _linear(config, config.hidden_size, config.vocab_size, rngs)

    def __call__(
        self, tokens: Int[Array, "batch time"], segments: Int[Array, "batch time"] | None = None
    ) -> Float[Array, "batch time vocab"]:
        """Next-token logits, in float32 (float64 if that is the computation's dtype).

        Args:
          tokens: token ids.
          segments: where several texts share a row, the number of each token's text, the same for
            all tokens of a text and another one than its neighbours'. Every text gets the logits
            that it has alone: positions count from its start, and it attends to itself only.

        Raises:
          ValueError: if ``tokens`` is not a (batch, time) array of integers, or is longer than
            ``max_position``; or if ``segments`` has another shape.
        """
        return self.logits(self.last_layer(tokens, segments))

    def last_layer(
        self, tokens: Int[Array, "batch time"], segments: Int[Array, "batch time"] | None = None
    ) -> Float[Array, "batch time hidden"]:
        """What ``logits`` makes logits of; arguments and errors are those of a call."""
        check_tokens(tokens, self.config.max_position)
        if segments is None:
            positions = jnp.arange(tokens.shape[1])
        elif segments.shape != tokens.shape:
            raise ValueError(
                f"segments has shape {segments.shape}, the tokens have {tokens.shape}; number "
                "every token"
            )
        else:
            positions = segment_positions(segments)
        tables = self.rotary_tables(positions)
        return self._apply_layers(self.embed_tokens(tokens), tables, segments)

    def rotary_tables(self, positions: Array) -> tuple[Array, Array]:
        """Cosines and sines of the configured rotary angles, of positions (..., time)."""
        config = self.config
        return rotary_tables(positions, config.head_dim, config.rope_theta, config.rope_scaling)

    def logits(self, x: Float[Array, "*batch hidden"]) -> Float[Array, "*batch vocab"]:
        """Final norm and output head of the last layer's output."""
        return self.project(self.norm(x), self.head())

    def head(self) -> Float[Array, "hidden vocab"]:
        """The output head: the embedding's transpose where they are tied."""
        if self.config.tie_embeddings:
            return self.embed_tokens.embedding[...].T
        return self.lm_head.kernel[...]

    def project(
        self, x: Float[Array, "*batch hidden"], head: Float[Array, "hidden vocab"]
    ) -> Float[Array, "*batch vocab"]:
        """Logits of what the final norm gave."""
        dtype = self.config.dtype
        return kernel_product(x, head.astype(dtype), at_least_float32(dtype))

    def _apply_layers(self, x: Array, tables: tuple[Array, Array], segments: Array | None) -> Array:
        structure, stacked = nnx.split(self.layers)

        def apply_block(x: Array, parameters: Any) -> tuple[Array, None]:
            return nnx.merge(structure, parameters)(x, *tables, segments), None

        # Without remat the products with the kernels are kept; the attention scores and the
        # element-wise results, which cost more to store than to compute, never are.
        policy = jax.checkpoint_policies.save_only_these_names(KERNEL_PRODUCT)
        apply_block = jax.checkpoint(
            apply_block, prevent_cse=False, policy=None if self.config.remat else policy
        )
        return jax.lax.scan(apply_block, x, stacked)[0]


def matrix_dimension_numbers(params: PyTree) -> PyTree:
    """Which parameters are matrices, for ``optax.contrib.muon`` and the optimizers here.

    Args:
      params: the model's parameters, ``nnx.to_pure_dict(nnx.state(model, nnx.Param))``, or a
        tree of the same paths (gradients, shapes).

    Returns:
      The same tree with ``MuonDimensionNumbers(reduction_axis=1, output_axis=2)`` at the stacked
      kernels (layers, in, out) and ``None`` at the embedding, head, norms and biases.
    """

    def dimension_numbers(path: Any, _: Any) -> optax.contrib.MuonDimensionNumbers | None:
        names = [getattr(entry, "key", None) for entry in path]
        if "layers" in names and names[-1] == "kernel":
            return optax.contrib.MuonDimensionNumbers(reduction_axis=1, output_axis=2)
        return None

    return jax.tree_util.tree_map_with_path(dimension_numbers, params)


def _stacked_blocks(config: LlamaConfig, rngs: nnx.Rngs) -> Block:
    """All blocks as one, every parameter with a leading layer axis."""

    @nnx.split_rngs(splits=config.num_layers)
    @nnx.vmap
    def create(rngs: nnx.Rngs) -> Block:
        return Block(config, rngs=rngs)

    return create(rngs)


def _linear(
    config: LlamaConfig,
    in_features: int,
    out_features: int,
    rngs: nnx.Rngs,
    *,
    use_bias: bool = False,
    residual: bool = False,
) -> Linear:
    stddev = INITIAL_STDDEV / (2 * config.num_layers) ** 0.5 if residual else INITIAL_STDDEV
    return Linear(
        in_features,
        out_features,
        use_bias=use_bias,
        kernel_init=nnx.initializers.normal(stddev),
        dtype=config.dtype,
        param_dtype=config.param_dtype,
        rngs=rngs,
    )


def check_tokens(tokens: Array, max_position: int) -> None:
    """Refuses what is not (batch, time) token ids of at most ``max_position`` positions."""
    if tokens.ndim != 2 or not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise ValueError(
            f"tokens must be an integer array (batch, time), got {tokens.dtype}{tokens.shape}"
        )
    if tokens.shape[1] > max_position:
        raise ValueError(
            f"a sequence of {tokens.shape[1]} tokens exceeds max_position={max_position}; "
            "shorten it, or build the model with a larger max_position"
        )
