"""Generation: the continuation of a batch of prompts, token by token."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Int, PRNGKeyArray
from numpy.typing import ArrayLike

from models.decoding import decode, prefill
from models.llama import Llama, check_tokens

_NO_EOS = -1  # no token has this id

# How a token is drawn, or None for the most likely one: what the logits are divided by, and of
# the most likely tokens, the fewest that have this probability together.
Sampling = tuple[float, float] | None


def greedy(
    model: Llama,
    tokens: Int[Array, "batch time"],
    max_new_tokens: int,
    *,
    mask: ArrayLike | None = None,
    eos_id: int | None = None,
) -> Int[Array, "batch max_new_tokens"]:
    """Continues every prompt with its most likely next token, again and again.

    The prompts are read in one pass; then one compiled loop adds a token to every row at a time,
    with the keys and values of earlier tokens kept. One program is compiled for every shape of
    `tokens` and every `max_new_tokens`: batches padded to a few lengths are quickest.

    Args:
        model: the model; its parameters may be sharded.
        tokens: integer prompts, padded on the left or on the right where they are not equally long.
        max_new_tokens: how many tokens to add to each row.
        mask: (batch, time), True at the tokens of the prompts, False at the padding; None if there
            is none.
        eos_id: the token that ends a text: what follows it in a row is `eos_id` again, and once
            every row has ended, the loop stops. None: no token does.

    Returns:
        The new tokens only, int32. The lowest id wins a tie.

    Raises:
        ValueError: tokens, a mask, lengths or an `eos_id` that do not fit, naming the value.

    Example:
        >>> from models import get_config
        >>> model = Llama(get_config("small", num_layers=1), rngs=nnx.Rngs(0))
        >>> prompts = jnp.array([[0, 0, 72, 105], [66, 121, 101, 33]])
        >>> greedy(model, prompts, 5, mask=[[0, 0, 1, 1], [1, 1, 1, 1]], eos_id=256).shape
        (2, 5)
    """
    return _continue(model, tokens, max_new_tokens, mask, eos_id, None, jax.random.key(0))


def sample(
    model: Llama,
    tokens: Int[Array, "batch time"],
    max_new_tokens: int,
    *,
    key: PRNGKeyArray,
    temperature: float = 1.0,
    top_p: float = 1.0,
    mask: ArrayLike | None = None,
    eos_id: int | None = None,
) -> Int[Array, "batch max_new_tokens"]:
    """Continues every prompt with tokens drawn by their probability; otherwise like `greedy`.

    Args:
        model, tokens, max_new_tokens, mask, eos_id: as for `greedy`.
        key: of the draws.
        temperature: that the logits are divided by: below 1 likely tokens become likelier.
        top_p: draw from the fewest most likely tokens that have this probability together.

    Raises:
        ValueError: as `greedy`; or a temperature that is not above 0, or a top_p outside (0, 1].

    Example:
        >>> from models import get_config
        >>> model = Llama(get_config("small", num_layers=1), rngs=nnx.Rngs(0))
        >>> sample(model, jnp.array([[72, 105]]), 3, key=jax.random.key(0), top_p=0.9).shape
        (1, 3)
    """
    if not temperature > 0:
        raise ValueError(f"temperature={temperature} must be above 0; `greedy` is its limit")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p={top_p} must be in (0, 1]")
    sampling = (float(temperature), float(top_p))
    return _continue(model, tokens, max_new_tokens, mask, eos_id, sampling, key)


def _continue(
    model: Llama,
    tokens: Int[Array, "batch time"],
    max_new_tokens: int,
    mask: ArrayLike | None,
    eos_id: int | None,
    sampling: Sampling,
    key: PRNGKeyArray,
) -> Int[Array, "batch max_new_tokens"]:
    """Checks the arguments."""
    tokens, most = jnp.asarray(tokens), model.config.max_position
    check_tokens(tokens, most)
    if 0 in tokens.shape:
        raise ValueError(f"there are no prompts: tokens has shape {tokens.shape}")
    starts, lengths = _spans(mask, tokens.shape)
    longest = int(lengths.max())
    read = longest + max_new_tokens - 1
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens={max_new_tokens} must be at least 1")
    if read > most:
        raise ValueError(
            f"a prompt of {longest} tokens and max_new_tokens={max_new_tokens} make the model read "
            f"{read} tokens, which exceeds max_position={most}; shorten the prompt or generate less"
        )
    if eos_id is not None and not 0 <= eos_id < model.config.vocab_size:
        raise ValueError(
            f"eos_id={eos_id} is not a token of this model: ids are 0 ... "
            f"{model.config.vocab_size - 1}"
        )
    structure, parameters = nnx.split(model)
    numbers = (tokens, starts, lengths, _NO_EOS if eos_id is None else eos_id)
    arrays = (jnp.asarray(number, jnp.int32) for number in numbers)
    return _generate(structure, max_new_tokens, sampling, parameters, *arrays, key)


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
    """First column and number of tokens of every prompt.

    Raises:
        ValueError: a mask of another shape, or a row whose tokens are not one run of columns.
    """
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
