"""The rows of a fine-tuning run: examples in rows of equal length, padded or packed."""

import dataclasses
import functools
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import grain
import numpy as np

from training.config.finetuning import QuestionOptions
from training.config.resolved import BatchShape
from training.data.answer_batches import SEGMENTS, TOKENS, WEIGHTS, answer_batches
from training.data.batches import endless_batches
from training.data.changes import DATA_FILE
from training.data.prompts import EncodedExample, Prompt, prompt_for
from training.data.questions import read_examples, split_examples
from training.data.token_arrays import file_checksum
from training.data.tokenizers import Tokenizer
from training.errors import UserError
from training.files import write_json

# Rows of --packing without --seq-len hold so many of the longest example: few gaps are left.
PACKED_EXAMPLES = 4
PADDING = 0  # token id; its weight is zero, so that any id would do


class AnswerRows:
    """Rows of `seq_len` inputs and their next tokens, weighted 1 in answers: a Grain source.

    No example has more than seq_len + 1 tokens. With `packing` several are in a row where they fit;
    which share a row depends on the examples only.
    """

    def __init__(self, examples: Sequence[EncodedExample], seq_len: int, *, packing: bool = False):
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
        """Returns the arrays named in `training.data.answer_batches`, without their first axis."""
        tokens = np.full(self.seq_len + 1, PADDING, np.int32)
        weights = np.zeros(self.seq_len + 1, np.float32)
        segments = np.zeros(self.seq_len + 1, np.int32)
        start = 0
        for number, i in enumerate(self.packs[index], 1):
            example = self.examples[i]
            stop = start + len(example.tokens)
            tokens[start:stop] = example.tokens
            weights[start:stop] = example.learnt
            segments[start:stop] = number
            start = stop
        row = {TOKENS: tokens, WEIGHTS: weights[1:]}
        return row | {SEGMENTS: segments[:-1]} if self.packing else row


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Puts things of some lengths into few boxes: the longest first, each where least room is left.

    No length is above the capacity of a box. A box is a list of indices.

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


@dataclasses.dataclass(frozen=True)
class FinetuneData:
    """Rows to train and to validate on; a `training.runs.folder.RunData`."""

    training: AnswerRows
    validation: AnswerRows
    prompt: Prompt  # that the questions are put in
    checksums: Mapping[str, str]  # of the files, by name
    skipped: int  # number of examples that were left out because they are too long

    @functools.cached_property
    def checksum(self) -> str:
        """SHA-256 of the files' checksums and of the tokens that were made of them."""
        digest = hashlib.sha256("".join(sorted(self.checksums.values())).encode())
        for rows in (self.training, self.validation):
            for example in rows.examples:
                digest.update(example.tokens.tobytes())
        return digest.hexdigest()

    def train_batches(
        self, batch: BatchShape, seed: int, shard_index: int, shard_count: int
    ) -> grain.DatasetIterator:
        """Endless batches of the arrays of `training.data.answer_batches`, shuffled by the seed."""
        return endless_batches([self.training], batch.batch_size, seed, shard_index, shard_count)

    def validation_batches(self, batch: BatchShape) -> dict[str, list[dict[str, np.ndarray]]]:
        """Metric -> at most `eval_batches` batches, the same in every run."""
        return {"val_loss": answer_batches(self.validation, batch.batch_size, batch.eval_batches)}

    def validation_metrics(self, val_loss: float) -> dict[str, float]:
        """Nothing: answers have no common measure beside the loss of their tokens."""
        del val_loss
        return {}

    def save_to_run(self, folder: Path) -> None:
        """Writes data.json, by which a resumed run knows a file that changed."""
        write_json(folder / DATA_FILE, dict(self.checksums))

    @property
    def description(self) -> str:
        """Sizes, for people."""
        rows = self.training
        tokens = sum(len(example.tokens) for example in rows.examples)
        filled = tokens / (len(rows) * (rows.seq_len + 1))
        skipped = f", {self.skipped:,} too long and left out" if self.skipped else ""
        return (
            f"{len(rows.examples):,} examples to train on in {len(rows):,} rows of {rows.seq_len} "
            f"tokens ({filled:.0%} filled), {len(self.validation.examples):,} held out{skipped}"
        )


def load_finetune_data(
    config: QuestionOptions, tokenizer: Tokenizer, prompt: Prompt, max_position: int
) -> FinetuneData:
    """Reads and tokenises the data of a run of a model that takes rows of `max_position` tokens."""
    path = Path(config.data).expanduser()
    prompt = prompt_for(path, config.template, prompt)
    training = read_examples(path)
    paths = [path]
    if config.validation is None:
        training, validation = split_examples(training, config.validation_fraction)
    else:
        paths.append(config.validation)
        validation = read_examples(paths[1])
    names = [path.name for path in paths]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    checksums = {name: file_checksum(path) for name, path in zip(names, paths, strict=True)}
    encoded = [prompt.encode_examples(part, tokenizer) for part in (training, validation)]
    seq_len = _row_length(config, max_position, [*encoded[0], *encoded[1]])
    kept = [[x for x in part if len(x.tokens) <= seq_len + 1] for part in encoded]
    if not all(kept):
        raise UserError(
            f"no example of {path if not kept[0] else paths[-1]} fits --seq-len {seq_len}: give a "
            "larger one"
        )
    return FinetuneData(
        training=AnswerRows(kept[0], seq_len, packing=config.packing),
        validation=AnswerRows(kept[1], seq_len, packing=config.packing),
        prompt=prompt,
        checksums=checksums,
        skipped=sum(map(len, encoded)) - sum(map(len, kept)),
    )


def _row_length(
    config: QuestionOptions, max_position: int, encoded: Sequence[EncodedExample]
) -> int:
    """`--seq-len`, by default what the longest example takes; checked against the examples."""
    longest = max(encoded, key=lambda example: len(example.tokens))
    needed = len(longest.tokens) - 1
    seq_len = config.seq_len
    if seq_len is None:
        seq_len = needed
        if config.packing:
            seq_len = max(needed, min(PACKED_EXAMPLES * needed, max_position))
        if config.skip_long:
            seq_len = min(seq_len, max_position)
    if seq_len > max_position and config.seq_len is None:
        raise UserError(
            f"{longest.where}: prompt and answer take {seq_len} tokens, and --model takes at most "
            f"{max_position}: leave such examples out with --skip-long"
        )
    if seq_len > max_position:
        raise UserError(f"--seq-len {seq_len} is longer than --model takes ({max_position})")
    too_long = sum(len(example.tokens) - 1 > seq_len for example in encoded)
    if too_long and not config.skip_long:
        raise UserError(
            f"{too_long:,} of {len(encoded):,} examples are longer than --seq-len {seq_len}; the "
            f"longest, {longest.where}, takes {needed}: give --seq-len {needed}, or leave them out "
            "with --skip-long"
        )
    return seq_len
