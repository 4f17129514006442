"""Batches whose tokens are weighted: their arrays, and the mean over all that count in them.

Neither a reader nor a model: those that make such batches and those that learn from them meet here.
"""

from typing import Any

import numpy as np

TOKENS = "tokens"  # int32 (rows, time + 1)
WEIGHTS = "weights"  # float32 (rows, time), of tokens[:, 1:] in the loss
SEGMENTS = "segments"  # int32 (rows, time), of tokens[:, :-1]; only where examples share rows


def shares(batch: dict[str, Any], parts: int) -> dict[str, Any]:
    """Scales the weights so that the mean of the parts' weighted sums is the mean over the batch.

    Every token that counts then counts the same, however these fall into parts, of equally many
    rows each. The batch is that of all devices; its arrays are of JAX or NumPy.
    """
    weights = batch[WEIGHTS]
    return batch | {WEIGHTS: weights * (parts / weights.sum())}


def answer_batches(rows: Any, batch_size: int, most: int) -> list[dict[str, np.ndarray]]:
    """Batches whose losses have the mean over all answer tokens in them as their plain mean.

    The rows, random access (len, []), are one or more; where they are more than `most` batches
    hold, evenly spread ones are taken. The last batch is filled with rows of no weight.
    """
    count = min(len(rows), batch_size * most)
    chosen = [rows[i * len(rows) // count] for i in range(count)]
    num_batches = -(-count // batch_size)
    empty = {name: np.zeros_like(value) for name, value in chosen[0].items()}
    filled = chosen + [empty] * (num_batches * batch_size - count)
    whole = shares({name: np.stack([row[name] for row in filled]) for name in empty}, num_batches)
    return [
        {name: value[start : start + batch_size] for name, value in whole.items()}
        for start in range(0, len(filled), batch_size)
    ]
