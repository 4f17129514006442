"""The loss on the answers only: the objective of fine-tuning."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from models.cross_entropy import next_token_losses
from training.config.resolved import BatchShape
from training.data.answer_batches import SEGMENTS, TOKENS, WEIGHTS, shares
from training.steps.objective import Objective


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
