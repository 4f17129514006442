"""Examples as rows of equal length: one a row and padded, or several packed into a row."""

from collections.abc import Sequence

import numpy as np

from training.data.prompts import EncodedExample
from training.steps.answer_loss import SEGMENTS, TOKENS, WEIGHTS

PADDING = 0  # token id; its weight is zero, so that any id would do


class AnswerRows:
    """Rows of `seq_len` inputs and their next tokens, weighted 1 in answers: a Grain source.

    Args:
        examples: none of more than seq_len + 1 tokens.
        seq_len: number of predicted tokens in a row.
        packing: fill the rows with several examples where they fit. Which share a row depends on
            the examples only.

    Raises:
        ValueError: an example is too long.
    """

    def __init__(self, examples: Sequence[EncodedExample], seq_len: int, *, packing: bool = False):
        for example in examples:
            if len(example.tokens) > seq_len + 1:
                raise ValueError(
                    f"{example.where}: its {len(example.tokens)} tokens do not fit a row of "
                    f"{seq_len + 1}"
                )
        self.examples = examples
        self.seq_len = seq_len
        self.packing = packing
        self.packs = (
            pack([len(example.tokens) for example in examples], seq_len + 1)
            if packing
            else [[index] for index in range(len(examples))]
        )

    def __len__(self) -> int:
        return len(self.packs)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """Returns the arrays named in `training.steps.answer_loss`, without their first axis."""
        tokens = np.full(self.seq_len + 1, PADDING, np.int32)
        weights = np.zeros(self.seq_len + 1, np.float32)
        segments = np.zeros(self.seq_len + 1, np.int32)
        start = 0
        for number, i in enumerate(self.packs[index], 1):
            example = self.examples[i]
            stop = start + len(example.tokens)
            tokens[start:stop] = example.tokens
            weights[start + example.answer_start : stop] = 1
            segments[start:stop] = number
            start = stop
        row = {TOKENS: tokens, WEIGHTS: weights[1:]}
        return row | {SEGMENTS: segments[:-1]} if self.packing else row


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Puts things of some lengths into few boxes: the longest first, each where least room is left.

    Args:
        lengths: of the things, at most `capacity`.
        capacity: of a box.

    Returns:
        The boxes, each a list of indices.

    Example:
        >>> pack([2, 5, 3, 4], 7)
        [[1, 0], [3, 2]]
    """
    boxes: list[list[int]] = []
    with_room: list[list[int]] = [[] for _ in range(capacity + 1)]  # room left -> boxes
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        length = lengths[index]
        room = next((room for room in range(length, capacity) if with_room[room]), None)
        if room is None:
            box, room = len(boxes), capacity
            boxes.append([])
        else:
            box = with_room[room].pop()
        boxes[box].append(index)
        with_room[room - length].append(box)
    return boxes


def answer_batches(rows: AnswerRows, batch_size: int, most: int) -> list[dict[str, np.ndarray]]:
    """Batches whose losses have the mean over all answer tokens in them as their plain mean.

    Args:
        rows: one or more; where they are more than the batches hold, evenly spread ones are taken.
        batch_size: rows in a batch; the last one is filled with rows of no weight.
        most: number of batches at most.
    """
    count = min(len(rows), batch_size * most)
    chosen = [rows[i * len(rows) // count] for i in range(count)]
    num_batches = -(-count // batch_size)
    total = sum(float(row[WEIGHTS].sum()) for row in chosen)
    empty = {name: np.zeros_like(value) for name, value in chosen[0].items()}
    filled = chosen + [empty] * (num_batches * batch_size - count)
    arrays = {name: np.stack([row[name] for row in filled]) for name in empty}
    arrays[WEIGHTS] = arrays[WEIGHTS] * np.float32(num_batches / total)
    return [
        {name: value[start : start + batch_size] for name, value in arrays.items()}
        for start in range(0, len(filled), batch_size)
    ]
