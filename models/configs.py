"""Model shapes: the checked configuration and the presets of the low-rank optimizer papers.

Parameters in millions, all of them and without embedding and output head:

=========== ====== ===== ====== ====== ===== ======= ========= ========== ======
preset      layers width ffn    heads  kv    vocab   all       in layers  source
=========== ====== ===== ====== ====== ===== ======= ========= ========== ======
small            4   128    352      4     2     264      0.81       0.74 here
9m               4   128    352      4     4   32000      9.00       0.80 GaLore
20m              4   256    688      4     4   32000     19.55       3.16 GaLore
30m              6   640   1792      5     5   32000     71.44      30.48 QuEST
35m              6   384   1024      8     8   32000     35.20      10.62 GaLore
60m              8   512   1376      8     8   32000     58.07      25.31 GaLore
130m            12   768   2048     12    12   32000    134.11      84.95 GaLore
350m            24  1024   2736     16    16   32000    367.97     302.43 GaLore
800m            16  2048   5632     16    16   32000    953.22     822.15 QuEST
1b (1.3b)       24  2048   5461     32    32   32000   1339.08    1208.01 GaLore
7b              32  4096  11008     32    32   32000   6738.42    6476.27 GaLore
qwen2.5-7b      28  3584  18944     28     4  152064   7615.62    6525.62 Qwen
=========== ====== ===== ====== ====== ===== ======= ========= ========== ======

"GaLore" sizes are the published ``configs/llama_*.json`` of that method (arXiv 2403.03507), the
common yardstick of later low-rank optimizers; their names count all parameters. They have no
30m and 800m: these follow the Llama pre-training scripts of QuEST (arXiv 2502.05003), whose
names count the parameters in the layers only. "small" is ours, for CPUs and the byte tokenizer
(257 ids, rounded up to a multiple of 8).
"""

import dataclasses
import difflib
from typing import Any

import jax.numpy as jnp

from models.rope_scaling import RopeScaling


@dataclasses.dataclass(frozen=True)
class LlamaConfig:
    """Shape and numerics of a model. All sizes are counts; every field is checked on creation.

    Attributes:
      vocab_size: number of token ids.
      hidden_size: width of the residual stream.
      intermediate_size: width of the SwiGLU feed-forward layer.
      num_layers: number of transformer blocks.
      num_heads: number of query heads.
      num_kv_heads: number of key and value heads; ``None`` means ``num_heads``.
      head_dim: width of one head, even; ``None`` means ``hidden_size // num_heads``.
      max_position: longest token sequence accepted.
      rope_theta: base of the rotary wavelengths.
      rope_scaling: how the rotary frequencies are stretched; ``None``: not at all.
      norm_eps: added to the mean square in RMSNorm.
      qkv_bias: whether the query, key and value projections have a bias (Qwen2).
      tie_embeddings: whether the output head is the transposed token embedding.
      dtype: floating dtype of activations and matrix products. Norms, softmax and logits are
        computed in float32 at least.
      param_dtype: floating dtype in which parameters are stored.
      remat: recompute each whole block in the backward pass, keeping only its input. Without it the
        products with the kernels are kept too; attention scores never are.

    Raises:
      ValueError: naming the field, its value and the remedy.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    # Numbers as soon as a configuration is created.
    num_kv_heads: int = None  # type: ignore[assignment]
    head_dim: int = None  # type: ignore[assignment]
    max_position: int = 1024
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    norm_eps: float = 1e-6
    qkv_bias: bool = False
    tie_embeddings: bool = False
    dtype: str = "float32"
    param_dtype: str = "float32"
    remat: bool = False

    def __post_init__(self) -> None:
        if self.num_kv_heads is None:
            object.__setattr__(self, "num_kv_heads", self.num_heads)
        _check_sizes(self)
        if self.head_dim is None:
            object.__setattr__(self, "head_dim", _default_head_dim(self))
        _check_heads(self)
        for name in ("dtype", "param_dtype"):
            _check_floating(name, getattr(self, name))


def _check_sizes(config: LlamaConfig) -> None:
    """Every count and scale must be positive."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if isinstance(value, int | float) and not isinstance(value, bool) and value <= 0:
            raise ValueError(f"{field.name}={value} must be positive")


def _default_head_dim(config: LlamaConfig) -> int:
    if config.hidden_size % config.num_heads:
        raise ValueError(
            f"hidden_size={config.hidden_size} is not divisible by num_heads={config.num_heads}; "
            "change one of them, or give head_dim"
        )
    return config.hidden_size // config.num_heads


def _check_heads(config: LlamaConfig) -> None:
    if config.num_heads % config.num_kv_heads:
        raise ValueError(
            f"num_heads={config.num_heads} is not divisible by num_kv_heads="
            f"{config.num_kv_heads}; every key/value head must serve equally many query heads"
        )
    if config.head_dim % 2:
        raise ValueError(
            f"head_dim={config.head_dim} is odd; rotary positions turn pairs of features, "
            "so choose an even head_dim (or hidden_size / num_heads)"
        )


def _check_floating(name: str, dtype: str) -> None:
    try:
        floating = jnp.issubdtype(jnp.dtype(dtype), jnp.floating)
    except TypeError:
        floating = False
    if not floating:
        raise ValueError(
            f"{name}={dtype!r} is not a floating dtype; use 'float32', 'bfloat16', 'float16' "
            "or 'float64'"
        )


def _llama(hidden_size: int, intermediate_size: int, **fields: Any) -> LlamaConfig:
    """A Llama of the papers: the 32,000 pieces of the Llama tokenizer, full attention."""
    return LlamaConfig(32_000, hidden_size, intermediate_size, **fields)


PRESETS: dict[str, LlamaConfig] = {
    "small": LlamaConfig(264, 128, 352, num_layers=4, num_heads=4, num_kv_heads=2),
    "9m": _llama(128, 352, num_layers=4, num_heads=4),
    "20m": _llama(256, 688, num_layers=4, num_heads=4),
    "30m": _llama(640, 1792, num_layers=6, num_heads=5),
    "35m": _llama(384, 1024, num_layers=6, num_heads=8),
    "60m": _llama(512, 1376, num_layers=8, num_heads=8),
    "130m": _llama(768, 2048, num_layers=12, num_heads=12),
    "350m": _llama(1024, 2736, num_layers=24, num_heads=16),
    "800m": _llama(2048, 5632, num_layers=16, num_heads=16),
    "1b": _llama(2048, 5461, num_layers=24, num_heads=32),
    "7b": _llama(4096, 11008, num_layers=32, num_heads=32, max_position=2048),
    "qwen2.5-7b": LlamaConfig(
        vocab_size=152_064,
        hidden_size=3584,
        intermediate_size=18_944,
        num_layers=28,
        num_heads=28,
        num_kv_heads=4,
        max_position=131_072,
        rope_theta=1_000_000.0,
        qkv_bias=True,
    ),
}

ALIASES = {"1.3b": "1b"}


def get_config(name: str, **overrides: Any) -> LlamaConfig:
    """The preset called ``name``, with fields replaced.

    Args:
      name: a key of ``PRESETS`` or ``ALIASES``, in any case.
      **overrides: fields of ``LlamaConfig``. Where the width or the number of heads changes and
        ``head_dim`` is not given, it follows them again.

    Raises:
      ValueError: unknown name or field, with the nearest known one; or a shape that does not fit.

    Example:
      >>> get_config("60m", vocab_size=264, remat=True).hidden_size
      512
    """
    key = ALIASES.get(name.lower(), name.lower())
    _check_known("preset", key, [*PRESETS, *ALIASES])
    fields = [field.name for field in dataclasses.fields(LlamaConfig)]
    for field in overrides:
        _check_known("model option", field, fields)
    if {"hidden_size", "num_heads"} & overrides.keys():
        overrides = {"head_dim": None} | overrides
    return dataclasses.replace(PRESETS[key], **overrides)


def parameter_count(config: LlamaConfig, *, embeddings: bool = True) -> int:
    """Number of parameters of a model, in closed form.

    Args:
      config: the model's shape.
      embeddings: whether to count the token embedding and the output head.
    """
    hidden = config.hidden_size
    query_size = config.num_heads * config.head_dim
    qkv_size = query_size + 2 * config.num_kv_heads * config.head_dim
    attention = hidden * qkv_size + query_size * hidden + config.qkv_bias * qkv_size
    mlp = 3 * hidden * config.intermediate_size
    norms = 2 * hidden
    tables = 0
    if embeddings:
        tables = config.vocab_size * hidden * (1 if config.tie_embeddings else 2)
    return tables + config.num_layers * (attention + mlp + norms) + hidden


def _check_known(kind: str, name: str, known: list[str]) -> None:
    if name not in known:
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
        raise ValueError(
            f"unknown {kind} {name!r}; did you mean {nearest!r}? Known: {', '.join(known)}"
        )
