"""Batches of tokens: streams cut into windows, mixed, shuffled and batched by Grain.

tokens (tokens,) -> windows (seq_len + 1,) -> batches
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import grain
import numpy as np

from training.errors import DataError


class Windows:
    """A stream of tokens as windows of `seq_len` inputs and their next tokens: a Grain source.

    Window i is tokens[i * seq_len : (i + 1) * seq_len + 1], of tokens of any integer type, in
    memory or memory-mapped. Windows overlap by one token, so that every token but the first is
    predicted exactly once; a last incomplete window is left out. Documents are packed: a window may
    hold the end of one and the start of the next.
    """

    def __init__(self, tokens: np.ndarray, seq_len: int):
        self.tokens = tokens
        self.seq_len = seq_len

    def __len__(self) -> int:
        return max(0, len(self.tokens) - 1) // self.seq_len

    def __getitem__(self, index: int) -> np.ndarray:
        """Returns int32 (seq_len + 1,)."""
        start = index * self.seq_len
        return self.tokens[start : start + self.seq_len + 1].astype(np.int32)


def windows_of(
    streams: Sequence[np.ndarray], seq_len: int, batch_size: int, split: str
) -> list[Windows]:
    """The windows of one or more streams (tokens,).

    A `DataError`, which calls the streams by their split, if they have fewer than `batch_size`.
    """
    windows = [Windows(tokens, seq_len) for tokens in streams]
    num_windows = sum(map(len, windows))
    if num_windows < batch_size:
        raise DataError(
            f"the {split} data are too small: {sum(map(len, streams))} tokens give {num_windows} "
            f"windows of seq_len {seq_len}, and one batch takes {batch_size} "
            f"({batch_size * seq_len + 1} tokens). Give more data, or reduce batch_size or seq_len."
        )
    return windows


def endless_batches(
    sources: Sequence[Any],
    batch_size: int,
    seed: int,
    shard_index: int = 0,
    shard_count: int = 1,
    weights: Sequence[float] = (),
) -> grain.DatasetIterator:
    """Batches of rows without end.

    All rows are shuffled anew in every epoch, and every row is seen exactly once per epoch; a batch
    may hold the end of one epoch and the start of the next. With weights every source has epochs of
    its own, and every batch holds the sources closely in these proportions. The order depends on
    the numbers of rows, the weights and the seed only: with several shards, the k-th batches of all
    shards hold together the rows of the k-th batch of a single loader.

    The iterator's `get_state()` is a small JSON-able dictionary; `set_state` on a loader built with
    the same arguments, in any process, continues with exactly the batches that would have come. The
    state is the same for all shards, and `shard_count` may change in between.

    No thread or process is started: cutting windows out of an array costs far less than a training
    step.

    Args:
        sources: random access (len, []) to rows: arrays, or dictionaries of arrays, of equal
            shapes.
        batch_size: rows in a batch, over all shards together.
        shard_count: number of shards; must divide `batch_size`.
        weights: above 0, of the sources; none: all their rows are alike.

    Raises:
        ValueError: `shard_count` does not divide `batch_size`, or a weighted source has no rows.
    """
    if batch_size % shard_count:
        raise ValueError(
            f"batch_size {batch_size} is not divisible by the {shard_count} shards that load it: "
            f"use a multiple of {shard_count}."
        )
    # Grain shuffles epoch e with seed + e: hashing keeps runs with the seeds 0, 1, 2 from sharing
    # each other's epochs.
    hashed = int.from_bytes(hashlib.sha256(f"shuffle {seed}".encode()).digest()[:4], "big")
    parts = [grain.MapDataset.source(source) for source in sources]
    if weights:
        rows = grain.MapDataset.mix([part.shuffle(seed=hashed).repeat() for part in parts], weights)
    else:
        rows = grain.MapDataset.concatenate(parts).shuffle(seed=hashed).repeat()
    dataset = (
        rows.slice(slice(shard_index, None, shard_count))
        # drop_remainder drops nothing of an endless stream: it keeps Grain from computing the
        # number of batches in floating point, which overflows for batches of one.
        .batch(batch_size // shard_count, drop_remainder=True)
    )
    return iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)))


def evenly_spread_batches(
    streams: Sequence[np.ndarray],
    batch_size: int,
    seq_len: int,
    max_batches: int,
    split: str = "validation",
) -> np.ndarray:
    """The validation batches, the same in every run: int32 (batches, batch_size, seq_len + 1).

    They are at least one and at most `max_batches`, evenly spread over the streams (tokens,), of
    any integer type, in memory or memory-mapped; no window occurs twice. Raises as `windows_of`.
    """
    windows = windows_of(streams, seq_len, batch_size, split)
    rows = grain.MapDataset.concatenate([grain.MapDataset.source(part) for part in windows])
    num_batches = min(len(rows) // batch_size, max_batches)
    num_chosen = num_batches * batch_size
    indices = np.arange(num_chosen) * len(rows) // num_chosen
    chosen = np.stack([rows[int(index)] for index in indices])
    return chosen.reshape(num_batches, batch_size, seq_len + 1)
