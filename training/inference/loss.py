"""A model's loss on weighted batches, and all of a text as such batches."""

import functools
from collections.abc import Iterable, Iterator

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from models.llama import Llama
from training.data.answer_batches import SEGMENTS, TOKENS, WEIGHTS
from training.steps.mesh import batch_sharding
from training.steps.objective import answer_loss


def mean_loss(model: Llama, batches: Iterable[dict[str, np.ndarray]], mesh: Mesh) -> float:
    """Nats per token, over all tokens that count in the batches.

    Args:
        model: its parameters are on the mesh.
        batches: of the arrays of `training.data.answer_batches`, all of the same shapes.
    """
    structure, params = nnx.split(model)
    loss = jax.jit(functools.partial(answer_loss, structure))
    total = weight = 0.0
    for batch in batches:
        with jax.set_mesh(mesh):
            total += float(loss(params, jax.device_put(batch, batch_sharding(mesh))))
        weight += float(batch[WEIGHTS].sum())
    return total / weight


def text_batches(
    tokens: np.ndarray, batch_size: int, seq_len: int, end_of_text: int | None = None
) -> Iterator[dict[str, np.ndarray]]:
    """Batches in which every token but the first is predicted once, from those before it in its
    window; with `end_of_text`, from none before that one."""
    count = len(tokens) - 1
    rows = -(-count // (seq_len * batch_size)) * batch_size
    padded = np.zeros(rows * seq_len + 1, np.int32)
    padded[: len(tokens)] = tokens
    weights = (np.arange(rows * seq_len) < count).astype(np.float32).reshape(rows, seq_len)
    for first in range(0, rows, batch_size):
        window = (first + np.arange(batch_size))[:, None] * seq_len + np.arange(seq_len + 1)
        batch = {TOKENS: padded[window], WEIGHTS: weights[first : first + batch_size]}
        if end_of_text is not None:
            batch[SEGMENTS] = np.cumsum(batch[TOKENS][:, :-1] == end_of_text, axis=1)
        yield batch
