"""What a run minimises: a loss of batches, pytrees of arrays whose first axes are their rows."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from models.cross_entropy import next_token_losses
from training.config.resolved import BatchShape
from training.data.answer_batches import SEGMENTS, TOKENS, WEIGHTS, shares


@dataclasses.dataclass(frozen=True)
class Objective:
    """A loss, and the batches that it is of.

    The loss of a batch is the mean of the losses of its micro-batches, of equally many rows each,
    once `balance` has seen the whole batch.
    """

    # their size -> pytree of `jax.ShapeDtypeStruct`, over all processes
    batch_shapes: Callable[[BatchShape], Any]
    # (batch, number of micro-batches) -> batch, before it is split
    balance: Callable[[Any, int], Any]
    # (the model's static part, its parameters, micro-batch) -> scalar
    loss: Callable[[nnx.GraphDef, Any, Any], jax.Array]


def next_token_loss(
    graphdef: nnx.GraphDef, params: Any, tokens: jax.Array, end_of_text: int | None = None
) -> jax.Array:
    """Mean cross entropy in nats of tokens[:, 1:] given what precedes each, for int32 (batch, time
    + 1).

    With `end_of_text`, the token between documents, what precedes a token is of its own document
    only; that token is then the document's first.
    """
    segments = None
    if end_of_text is not None:
        segments = jnp.cumsum(tokens[:, :-1] == end_of_text, axis=1)
    return next_token_losses(nnx.merge(graphdef, params), tokens, segments).mean()


def next_token(end_of_text: int | None = None) -> Objective:
    """The objective of pretraining; see `next_token_loss`."""
    rows = lambda batch: jax.ShapeDtypeStruct((batch.batch_size, batch.seq_len + 1), jnp.int32)
    # Every token counts the same, so micro-batches are balanced as they are.
    loss = functools.partial(next_token_loss, end_of_text=end_of_text)
    return Objective(rows, lambda tokens, parts: tokens, loss)


def answer_loss(graphdef: nnx.GraphDef, params: Any, batch: dict[str, jax.Array]) -> jax.Array:
    """Sum of the weighted cross entropies, in nats, of tokens[:, 1:] given what precedes each.

    Where rows have several segments, what precedes a token is of its own segment only. A batch has
    the arrays of `training.data.answer_batches`.
    """
    losses = next_token_losses(nnx.merge(graphdef, params), batch[TOKENS], batch.get(SEGMENTS))
    return jnp.sum(losses * batch[WEIGHTS])


def answers_only(*, packing: bool) -> Objective:
    """The objective of fine-tuning: mean cross entropy over the answers' tokens. With `packing`,
    rows have segments."""

    def batch_shapes(batch: BatchShape) -> dict[str, jax.ShapeDtypeStruct]:
        rows, time = batch.batch_size, batch.seq_len
        shapes = {
            TOKENS: jax.ShapeDtypeStruct((rows, time + 1), jnp.int32),
            WEIGHTS: jax.ShapeDtypeStruct((rows, time), jnp.float32),
        }
        if packing:
            shapes[SEGMENTS] = jax.ShapeDtypeStruct((rows, time), jnp.int32)
        return shapes

    return Objective(batch_shapes, shares, answer_loss)
