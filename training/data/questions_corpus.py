"""The rows of a fine-tuning run: examples read, split, put into prompts and tokenised."""

import dataclasses
import functools
import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from training.checkpoints.pretrained import PretrainedModel
from training.config.finetuning import QuestionOptions
from training.config.resolved import BatchShape
from training.data.answer_rows import AnswerRows, answer_batches
from training.data.batches import BatchIterator, endless_batches
from training.data.corpus import DATA_FILE
from training.data.prompts import EncodedExample, Prompt
from training.data.questions import Example, read_examples
from training.data.token_arrays import file_checksum
from training.errors import UserError
from training.json_files import write_json

# Rows of --packing without --seq-len hold so many of the longest example: few gaps are left.
PACKED_EXAMPLES = 4


@dataclasses.dataclass(frozen=True)
class FinetuneData:
    """Rows to train and to validate on; what `training.runs.loop` needs of a run's data.

    Attributes:
        training: rows.
        validation: rows.
        prompt: that the questions are put in.
        checksums: of the files, by name.
        skipped: number of examples that were left out because they are too long.
    """

    training: AnswerRows
    validation: AnswerRows
    prompt: Prompt
    checksums: Mapping[str, str]
    skipped: int

    @functools.cached_property
    def checksum(self) -> str:
        """SHA-256 of the files' checksums and of the tokens that were made of them."""
        digest = hashlib.sha256("".join(sorted(self.checksums.values())).encode())
        for rows in (self.training, self.validation):
            for example in rows.examples:
                digest.update(example.tokens.tobytes())
        return digest.hexdigest()

    @property
    def seq_len(self) -> int:
        """Number of predicted tokens in a row."""
        return self.training.seq_len

    def train_batches(
        self, batch: BatchShape, seed: int, shard_index: int, shard_count: int
    ) -> BatchIterator:
        """Endless batches of the arrays of `training.steps.answer_loss`, shuffled by the seed."""
        batches = endless_batches(
            self.training,
            batch.batch_size,
            seed,
            shard_index=shard_index,
            shard_count=shard_count,
        )
        return iter(batches)

    def validation_batches(self, batch: BatchShape) -> list[dict[str, np.ndarray]]:
        """At most `eval_batches` batches, the same in every run."""
        return answer_batches(self.validation, batch.batch_size, batch.eval_batches)

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


def load_finetune_data(config: QuestionOptions, model: PretrainedModel) -> FinetuneData:
    """Reads and tokenises the data of a run.

    Raises:
        UserError: for a template, file, line or length that cannot be used.
    """
    prompt = model.prompt
    if config.template is not None:
        prompt = Prompt.of_option(config.template, prompt.prefix_ids)
    path = Path(config.data).expanduser()
    training = read_examples(path)
    paths = [path]
    if config.validation is None:
        training, validation = split_examples(training, config.validation_fraction)
    else:
        paths.append(config.validation.expanduser())
        validation = read_examples(paths[1])
    names = [path.name for path in paths]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    checksums = {name: file_checksum(path) for name, path in zip(names, paths, strict=True)}
    encoded = [prompt.encode_examples(part, model.tokenizer) for part in (training, validation)]
    seq_len = _row_length(config, model, [*encoded[0], *encoded[1]])
    kept = [_fitting(part, seq_len) for part in encoded]
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


def split_examples(
    examples: Sequence[Example], validation_fraction: float
) -> tuple[list[Example], list[Example]]:
    """Splits examples for training and for validation, by a hash of their questions.

    Neither the order of the lines nor the machine matters, and a question is never in both parts.

    Raises:
        UserError: there are fewer than two different questions.
    """
    ranks = {_rank(example): None for example in examples}
    count = min(max(1, round(validation_fraction * len(ranks))), len(ranks) - 1)
    if count < 1:
        raise UserError(
            f"{examples[0].where}: a single question cannot be both trained and validated on: give "
            "more, or a file with --validation"
        )
    held_out = set(sorted(ranks)[:count])
    training = [example for example in examples if _rank(example) not in held_out]
    return training, [example for example in examples if _rank(example) in held_out]


def _rank(example: Example) -> bytes:
    return hashlib.sha256(example.question.encode()).digest()


def _row_length(
    config: QuestionOptions, model: PretrainedModel, encoded: Sequence[EncodedExample]
) -> int:
    """`--seq-len`, by default what the longest example takes; checked against the examples."""
    max_position = model.config.max_position
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
            f"{longest.where}: prompt and answer take {seq_len} tokens, and {model.folder} takes "
            f"at most {max_position}: leave such examples out with --skip-long"
        )
    if seq_len > max_position:
        raise UserError(f"--seq-len {seq_len} is longer than {model.folder} takes ({max_position})")
    too_long = sum(len(example.tokens) - 1 > seq_len for example in encoded)
    if too_long and not config.skip_long:
        raise UserError(
            f"{too_long:,} of {len(encoded):,} examples are longer than --seq-len {seq_len}; the "
            f"longest, {longest.where}, takes {needed}: give --seq-len {needed}, or leave them out "
            "with --skip-long"
        )
    return seq_len


def _fitting(encoded: Sequence[EncodedExample], seq_len: int) -> list[EncodedExample]:
    return [example for example in encoded if len(example.tokens) <= seq_len + 1]


def steps_of(epochs: float, num_rows: int, batch_size: int) -> int:
    """Steps of so many passes over the rows."""
    return max(1, math.ceil(epochs * num_rows / batch_size))
