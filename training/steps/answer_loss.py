"""The loss on the answers only: the objective of fine-tuning."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from models.cross_entropy import next_token_losses
from training.config.resolved import BatchShape
from training.steps.objective import Objective

TOKENS = "tokens"  # int32 (rows, time + 1)
WEIGHTS = "weights"  # float32 (rows, time), of tokens[:, 1:] in the loss
SEGMENTS = "segments"  # int32 (rows, time), of tokens[:, :-1]; only where examples share rows


def answer_loss(graphdef: nnx.GraphDef, params: Any, batch: dict[str, jax.Array]) -> jax.Array:
    """Sum of the weighted cross entropies, in nats, of tokens[:, 1:] given what precedes each.

    Where rows have several segments, what precedes a token is of its own segment only.

    Args:
        graphdef: the model's static part.
        params: its parameters, a pure dict.
        batch: as named above.
    """
    losses = next_token_losses(nnx.merge(graphdef, params), batch[TOKENS], batch.get(SEGMENTS))
    return jnp.sum(losses * batch[WEIGHTS])


def shares(batch: dict[str, jax.Array], parts: int) -> dict[str, jax.Array]:
    """Scales the weights so that the mean over micro-batches is the mean over the whole batch.

    Every answer token of the batch then counts the same, however the answers fall into
    micro-batches.

    Args:
        batch: the whole batch, over all devices.
        parts: number of micro-batches.
    """
    weights = batch[WEIGHTS]
    return batch | {WEIGHTS: weights * (parts / jnp.sum(weights))}


def answers_only(*, packing: bool) -> Objective:
    """The objective of fine-tuning: mean cross entropy over the answers' tokens.

    Args:
        packing: whether the rows of a batch have segments.
    """

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
