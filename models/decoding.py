"""Running a model token by token, with the keys and values of earlier tokens kept.

``prefill`` reads the prompts in one pass; every ``decode`` then adds one token to each row. Rows
may have any lengths: a token's slot in the cache is its position in its own row.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from models.attention import cached_attention
from models.llama import Llama, check_tokens


class KeyValueCache(NamedTuple):
    """The turned keys and the values of the tokens that a model has read.

    Slots from a row's length onwards hold something finite that no token attends to.
    """

    keys: Float[Array, "layers batch kv_heads capacity head_dim"]
    values: Float[Array, "layers batch kv_heads capacity head_dim"]
    lengths: Int[Array, " batch"]  # tokens read so far, of every row


def prefill(
    model: Llama, tokens: Int[Array, "batch time"], lengths: Int[Array, " batch"], capacity: int
) -> tuple[Float[Array, "batch vocab"], KeyValueCache]:
    """Reads the prompts.

    Args:
      model: the model.
      tokens: the prompts, each from column 0 on; what follows a row's length is not looked at.
      lengths: of the prompts, at least 1.
      capacity: number of tokens that a row of the cache can hold, at least ``time``.

    Returns:
      The logits of the token after each prompt, as of ``model(tokens)``, and the cache.

    Raises:
      ValueError: tokens that the model refuses, or more of them than the capacity.

    Example:
      >>> from models.configs import get_config
      >>> model = Llama(get_config("small", num_layers=1), rngs=nnx.Rngs(0))
      >>> logits, cache = prefill(model, jnp.array([[5, 6, 0], [7, 8, 9]]), jnp.array([2, 3]), 10)
      >>> logits, cache = decode(model, jnp.argmax(logits, axis=-1), cache)
      >>> logits.shape, cache.lengths.tolist()
      ((2, 264), [3, 4])
    """
    time = tokens.shape[1]
    check_tokens(tokens, model.config.max_position)
    if time > capacity:
        raise ValueError(f"a cache with capacity={capacity} cannot hold prompts of {time} tokens")
    tables = model.rotary_tables(jnp.arange(time))
    structure, stacked = nnx.split(model.layers)

    def apply_block(x: Array, parameters: Any) -> tuple[Array, tuple[Array, Array]]:
        x, key, value = nnx.merge(structure, parameters).with_keys_and_values(x, *tables)
        return x, (_with_capacity(key, capacity), _with_capacity(value, capacity))

    x, (keys, values) = jax.lax.scan(apply_block, model.embed_tokens(tokens), stacked)
    last = x[jnp.arange(x.shape[0]), lengths - 1]
    return model.logits(last), KeyValueCache(keys, values, lengths)


def decode(
    model: Llama, tokens: Int[Array, " batch"], cache: KeyValueCache
) -> tuple[Float[Array, "batch vocab"], KeyValueCache]:
    """Reads one more token of every row.

    Args:
      model: the model.
      tokens: the next token of each row.
      cache: of the tokens before; every row has room for another one.

    Returns:
      The logits of the token after, and the cache with the tokens added.
    """
    rows, positions = jnp.arange(tokens.shape[0]), cache.lengths
    tables = model.rotary_tables(positions[:, None])
    structure, stacked = nnx.split(model.layers)

    # The whole cache is carried, not scanned over, so that XLA writes the new entries in place.
    def apply_block(carry: Any, layer_and_parameters: Any) -> tuple[Any, None]:
        x, keys, values = carry
        layer, parameters = layer_and_parameters
        block = nnx.merge(structure, parameters)
        query, key, value = block.attention.project(block.input_norm(x), *tables)
        keys = keys.at[layer, rows, :, positions].set(key[:, 0])
        values = values.at[layer, rows, :, positions].set(value[:, 0])
        attended = cached_attention(query[:, 0], keys[layer], values[layer], positions)
        return (block.finish(x, attended[:, None]), keys, values), None

    x = model.embed_tokens(tokens)[:, None]
    layers = jnp.arange(model.config.num_layers)
    (x, keys, values), _ = jax.lax.scan(
        apply_block, (x, cache.keys, cache.values), (layers, stacked)
    )
    return model.logits(x[:, 0]), KeyValueCache(keys, values, positions + 1)


def _with_capacity(
    x: Float[Array, "batch time kv_heads head_dim"], capacity: int
) -> Float[Array, "batch kv_heads capacity head_dim"]:
    """One layer's keys or values in the order of the cache, the free slots zero."""
    free = capacity - x.shape[1]
    return jnp.pad(x.transpose(0, 2, 1, 3), ((0, 0), (0, 0), (0, free), (0, 0)))
