"""Generation: the continuation of a batch of prompts, token by token."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Int, PRNGKeyArray
from numpy.typing import ArrayLike

from models.configs import LlamaConfig
from models.decoding import decode, prefill
from models.llama import Llama, check_tokens

_NO_EOS = -1  # no token has this id

# How a token is drawn, or None for the most likely one: what the logits are divided by, and of
# the most likely tokens, the fewest that have this probability together.
Sampling = tuple[float, float] | None


def continue_prompts(
    model: Llama,
    tokens: Int[Array, "batch time"],
    max_new_tokens: int,
    *,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    mask: ArrayLike | None = None,
    eos_id: int | None = None,
) -> Int[Array, "batch max_new_tokens"]:
    """Continues every prompt token by token: with the most likely one, or with one that is drawn.

    The prompts are read in one pass; then one compiled loop adds a token to every row at a time,
    with the keys and values of earlier tokens kept. One program is compiled for every shape of
    `tokens` and every `max_new_tokens`: batches padded to a few lengths are quickest. What does not
    fit is a `ValueError` that names the value.

    Args:
        model: its parameters may be sharded.
        tokens: integer prompts, padded on the left or on the right where they are not equally long.
        max_new_tokens: how many tokens to add to each row: all that is returned, int32.
        temperature: that the logits are divided by before a token is drawn: below 1 likely tokens
            become likelier. At 0 the most likely one is taken, the lowest id of several.
        top_p: draw from the fewest most likely tokens that have this probability together.
        seed: of the draws.
        mask: (batch, time), True at the tokens of the prompts, False at the padding; None if there
            is none.
        eos_id: the token that ends a text: what follows it in a row is `eos_id` again, and once
            every row has ended, the loop stops. None: no token does.

    >>> from models import get_config
    >>> model = Llama(get_config("small", num_layers=1), rngs=nnx.Rngs(0))
    >>> prompts = jnp.array([[0, 0, 72, 105], [66, 121, 101, 33]])
    >>> mask = [[0, 0, 1, 1], [1, 1, 1, 1]]
    >>> continue_prompts(model, prompts, 5, mask=mask, eos_id=256).shape
    (2, 5)
    """
    tokens = jnp.asarray(tokens)
    check_tokens(tokens, model.config.max_position)
    starts, lengths = _spans(mask, tokens.shape)
    _check_numbers(model.config, int(lengths.max()), max_new_tokens, temperature, top_p, eos_id)
    structure, parameters = nnx.split(model)
    numbers = (tokens, starts, lengths, _NO_EOS if eos_id is None else eos_id)
    arrays = (jnp.asarray(number, jnp.int32) for number in numbers)
    sampling = (float(temperature), float(top_p)) if temperature else None
    key = jax.random.key(seed)
    return _generate(structure, max_new_tokens, sampling, parameters, *arrays, key)


def greedy(
    model: Llama,
    tokens: Int[Array, "batch time"],
    max_new_tokens: int,
    *,
    mask: ArrayLike | None = None,
    eos_id: int | None = None,
) -> Int[Array, "batch max_new_tokens"]:
    """`continue_prompts` with the most likely tokens, by its arguments."""
    return continue_prompts(model, tokens, max_new_tokens, mask=mask, eos_id=eos_id)


def _check_numbers(
    config: LlamaConfig,
    longest: int,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    eos_id: int | None,
) -> None:
    read, most = longest + max_new_tokens - 1, config.max_position
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens={max_new_tokens} must be at least 1")
    if read > most:
        raise ValueError(
            f"a prompt of {longest} tokens and max_new_tokens={max_new_tokens} make the model read "
            f"{read} tokens, which exceeds max_position={most}; shorten the prompt or generate less"
        )
    if not temperature >= 0:
        raise ValueError(f"temperature={temperature} must be 0 or more")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p={top_p} must be in (0, 1]")
    if eos_id is not None and not 0 <= eos_id < config.vocab_size:
        raise ValueError(
            f"eos_id={eos_id} is not a token of this model: ids are 0 ... {config.vocab_size - 1}"
        )


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _generate(
    structure: nnx.GraphDef,
    max_new_tokens: int,
    sampling: Sampling,
    parameters: Any,
    tokens: Int[Array, "batch time"],
    starts: Int[Array, " batch"],
    lengths: Int[Array, " batch"],
    eos_id: Int[Array, ""],
    key: PRNGKeyArray,
) -> Int[Array, "batch max_new_tokens"]:
    """Continues prompts that occupy the columns from `starts` on."""
    model = nnx.merge(structure, parameters)
    batch, time = tokens.shape
    columns = (starts[:, None] + jnp.arange(time)) % time
    prompts = jnp.take_along_axis(tokens, columns, axis=1)
    # The last new token is never read.
    logits, cache = prefill(model, prompts, lengths, time + max_new_tokens - 1)
    first = _chosen(logits, sampling, jax.random.fold_in(key, 0))
    generated = jnp.full((batch, max_new_tokens), eos_id).at[:, 0].set(first)

    def unfinished(state: Any) -> jax.Array:
        count, _, ended, _, _ = state
        return (count < max_new_tokens) & ~jnp.all(ended)

    def add_token(state: Any) -> Any:
        count, token, ended, cache, generated = state
        logits, cache = decode(model, token, cache)
        token = jnp.where(ended, eos_id, _chosen(logits, sampling, jax.random.fold_in(key, count)))
        generated = generated.at[:, count].set(token)
        return count + 1, token, ended | (token == eos_id), cache, generated

    state = (jnp.int32(1), first, first == eos_id, cache, generated)
    return jax.lax.while_loop(unfinished, add_token, state)[-1]


def _chosen(logits: jax.Array, sampling: Sampling, key: PRNGKeyArray) -> jax.Array:
    """The next token of every row, int32 (batch,): the most likely one, or one that is drawn."""
    if sampling is None:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    temperature, top_p = sampling
    logits = logits.astype(jnp.float32) / temperature
    # The most likely tokens first; one is kept if those before it do not have top_p together.
    order = jnp.argsort(-logits, axis=-1)
    ranked = jnp.take_along_axis(logits, order, axis=-1)
    probabilities = jax.nn.softmax(ranked)
    before = jnp.cumsum(probabilities, axis=-1) - probabilities
    place = jax.random.categorical(key, jnp.where(before < top_p, ranked, -jnp.inf))
    return jnp.take_along_axis(order, place[:, None], axis=-1)[:, 0].astype(jnp.int32)


def _spans(mask: ArrayLike | None, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """First column and number of tokens of every prompt, which must be one run of columns."""
    if 0 in shape:
        raise ValueError(f"there are no prompts: tokens has shape {shape}")
    real = np.ones(shape, bool) if mask is None else np.asarray(mask).astype(bool)
    if real.shape != shape:
        raise ValueError(f"mask has shape {real.shape}, the tokens have {shape}; make them equal")
    starts, lengths = real.argmax(axis=1), real.sum(axis=1)
    columns = np.arange(shape[1])
    run = (columns >= starts[:, None]) & (columns < (starts + lengths)[:, None])
    wrong = np.flatnonzero((real != run).any(axis=1) | (lengths == 0))
    if wrong.size:
        what = "is padding only" if lengths[wrong[0]] == 0 else "has padding between its tokens"
        raise ValueError(
            f"row {wrong[0]} of the mask {what}; a prompt is at least one token, in one piece, "
            "with padding on its left or its right"
        )
    return starts, lengths
