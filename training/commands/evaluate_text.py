"""`train.py evaluate` on text: a model's loss, perplexity and bits per byte."""

import functools
import math
import time
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from rich.console import Console

from models.llama import Llama
from training.checkpoints.pretrained import PretrainedModel
from training.data.token_arrays import is_prepared
from training.data.tokenization import text_stream
from training.errors import DataError
from training.runs.metrics import perplexity
from training.steps.answer_loss import SEGMENTS, TOKENS, WEIGHTS, answer_loss
from training.steps.mesh import batch_sharding

LONGEST_WINDOW = 1024


def evaluate_text(
    data: str,
    source: PretrainedModel,
    model: Llama,
    mesh: Mesh,
    *,
    batch_size: int,
    seq_len: int | None,
    console: Console,
) -> dict[str, Any]:
    """Measures a model on all of a text.

    Every token but the first is predicted once, from those before it in its window; from those of
    its own document only, if the model was trained so.

    Args:
        data: as for `train.py pretrain`.
        source: of the model, for its tokenizer.
        model: its parameters are on the mesh.
        mesh: that batches are split over.
        batch_size: windows at a time.
        seq_len: tokens of a window; None for as many as the model takes, at most 1024.
        console: for the result.

    Returns:
        tokens, bytes, nats per token (`loss`), `perplexity`, `bits_per_byte`, `seq_len`, `seconds`.

    Raises:
        DataError: the data cannot be read, or are less than two tokens.
    """
    if is_prepared(data):
        raise DataError(f"{data} is prepared already: give the text itself.")
    seq_len = seq_len or min(LONGEST_WINDOW, source.config.max_position)
    start = time.perf_counter()
    tokens, num_bytes = text_stream(data, source.tokenizer)
    if len(tokens) < 2:
        raise DataError(f"{data}: {len(tokens)} token(s) are too few to predict one. Give more.")
    end_of_text = source.tokenizer.eos_id if source.document_mask else None
    loss = _mean_loss(model, tokens, seq_len, batch_size, mesh, end_of_text)
    bits = loss * len(tokens) / (math.log(2) * num_bytes)
    console.print(
        f"loss {loss:.4f}, perplexity {perplexity(loss):.2f}, {bits:.4f} bits per byte: "
        f"{len(tokens):,} tokens of {data} in windows of {seq_len}",
        highlight=False,
        markup=False,
    )
    return {
        "tokens": len(tokens),
        "bytes": num_bytes,
        "loss": loss,
        "perplexity": perplexity(loss),
        "bits_per_byte": bits,
        "seq_len": seq_len,
        "seconds": round(time.perf_counter() - start, 3),
    }


def _mean_loss(
    model: Llama,
    tokens: np.ndarray,
    seq_len: int,
    batch_size: int,
    mesh: Mesh,
    end_of_text: int | None,
) -> float:
    """Nats per predicted token."""
    count = len(tokens) - 1
    rows = -(-count // (seq_len * batch_size)) * batch_size
    padded = np.zeros(rows * seq_len + 1, np.int32)
    padded[: len(tokens)] = tokens
    weights = (np.arange(rows * seq_len) < count).astype(np.float32).reshape(rows, seq_len)
    structure, params = nnx.split(model)
    loss = jax.jit(functools.partial(answer_loss, structure))
    total = 0.0
    for first in range(0, rows, batch_size):
        window = (first + np.arange(batch_size))[:, None] * seq_len + np.arange(seq_len + 1)
        batch = {TOKENS: padded[window], WEIGHTS: weights[first : first + batch_size]}
        if end_of_text is not None:
            batch[SEGMENTS] = np.cumsum(batch[TOKENS][:, :-1] == end_of_text, axis=1)
        with jax.set_mesh(mesh):
            total += float(loss(params, jax.device_put(batch, batch_sharding(mesh))))
    return total / count
