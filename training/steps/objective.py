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
