"""The tokens of a run: documents read, split by file and tokenised, or prepared arrays mapped."""

import dataclasses
import json
import math
import operator
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from training.config.pretraining import PretrainConfig, TrainingConfig
from training.data.batches import (
    BatchIterator,
    Tokens,
    checked_windows,
    describe,
    endless_batches,
    load_documents,
    split_documents,
    tokenize,
    validation_batches,
)
from training.data.bpe import is_bpe, trained_tokenizer
from training.data.documents import SPLIT_SEED, Documents, describe_size
from training.data.reading import DataError
from training.data.token_arrays import (
    MANIFEST_FILE,
    TokenArrays,
    file_checksum,
    is_prepared,
    open_token_arrays,
    write_json,
)
from training.data.tokenizers import Tokenizer, get_tokenizer, stored_tokenizer
from training.errors import UserError, as_user_error

# In a run's folder: the checksum of every file that its tokens came from.
DATA_FILE = "data.json"
_MAX_FILES_SHOWN = 5


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Training and validation tokens.

    Attributes:
        training: (tokens,) unsigned integers, in memory or mapped.
        validation: (tokens,) unsigned integers.
        tokenizer: that they were made with.
        checksum: SHA-256 of all documents, or of the manifest of prepared arrays.
        checksums: of every file, or array file, by name.
        training_bytes: of the text that the training tokens stand for.
        validation_bytes: of the text that the validation tokens stand for.
        description: sizes, for people.
    """

    training: Tokens
    validation: Tokens
    tokenizer: Tokenizer
    checksum: str
    checksums: Mapping[str, str]
    training_bytes: int
    validation_bytes: int
    description: str

    @property
    def vocab_size(self) -> int:
        """Of the tokenizer."""
        return self.tokenizer.vocab_size

    def bits_per_byte(self, val_loss: float) -> float:
        """The validation loss on a scale that does not depend on the tokenizer.

        Args:
            val_loss: in nats per token. Bytes per token are those of the whole validation text,
                which evaluation batches are spread over evenly.

        Returns:
            Bits per byte of UTF-8 text; the cost of ends of texts is borne by the bytes.
        """
        return val_loss * len(self.validation) / (math.log(2) * self.validation_bytes)

    def train_batches(
        self, config: TrainingConfig, seed: int, shard_index: int, shard_count: int
    ) -> BatchIterator:
        """What `train_loader` gives of the training tokens: int32 (rows, seq_len + 1).

        Args:
            config: its batch size and length.
            seed: of the order.
            shard_index: which part of every batch.
            shard_count: number of parts.

        Raises:
            DataError: too few tokens.
        """
        windows = checked_windows(self.training, config.batch_size, config.seq_len, "training")
        batches = endless_batches(
            windows, config.batch_size, seed, shard_index=shard_index, shard_count=shard_count
        )
        return iter(batches.map(operator.itemgetter("tokens")))

    def validation_batches(self, config: TrainingConfig) -> list[np.ndarray]:
        """At most `eval_batches` batches int32 (batch, seq_len + 1), the same in every run.

        Raises:
            DataError: too few tokens.
        """
        return list(
            validation_batches(
                self.validation, config.batch_size, config.seq_len, config.eval_batches
            )
        )

    def validation_metrics(self, val_loss: float) -> dict[str, float]:
        """What metrics.jsonl says of a validation loss, besides."""
        return {"val_bits_per_byte": self.bits_per_byte(val_loss)}

    def save_to_run(self, folder: Path) -> None:
        """Writes the tokenizer, and data.json, by which a resumed run knows a file that changed.

        Args:
            folder: of the run; exists.
        """
        self.tokenizer.save(folder)
        write_json(folder / DATA_FILE, dict(self.checksums))


def load_corpus(config: TrainingConfig) -> Corpus:
    """Reads, splits and tokenises `config.data`, or maps it if `train.py prepare` has done that.

    Raises:
        UserError: for an unknown tokenizer or data that cannot be used, naming file and line; and
            for data of a resumed run that are not what they were, unless the configuration allows
            changed data.
    """
    resumed = isinstance(config, PretrainConfig) and config.resume
    with as_user_error():
        if is_prepared(config.data):
            corpus = _map_arrays(config)
        else:
            corpus = _read_text(config, config.out if resumed else None)
    if resumed and not config.allow_changed_data:
        check_unchanged(config.out, corpus.checksums)
    return corpus


def check_unchanged(
    folder: Path,
    checksums: Mapping[str, str],
    remedy: str = "go on with the data as they are by --allow-changed-data",
) -> None:
    """Checks that the files of a run's data are those that it was started with.

    Args:
        folder: of the run; nothing is checked if it has no data.json.
        checksums: of the files now.
        remedy: what can be done besides restoring them.

    Raises:
        UserError: naming the files that vanished, changed or are new.
    """
    path = folder / DATA_FILE
    if not path.exists():
        return
    before = json.loads(path.read_text())
    differences = [f"  {name} has vanished" for name in before if name not in checksums]
    differences += [
        f"  {name} has changed" if name in before else f"  {name} is new"
        for name, checksum in checksums.items()
        if before.get(name) != checksum
    ]
    if differences:
        more = len(differences) - _MAX_FILES_SHOWN
        shown = differences[:_MAX_FILES_SHOWN] + ([f"  and {more} more"] if more > 0 else [])
        raise UserError(
            f"cannot resume {folder}: its data are not what they were:\n"
            + "\n".join(shown)
            + f"\nRestore the files, or {remedy}."
        )


def _read_text(config: TrainingConfig, resumed: Path | None) -> Corpus:
    tokenizer = None if is_bpe(config.tokenizer) else get_tokenizer(config.tokenizer)
    documents = load_documents(config.data)
    training, validation = split_documents(documents, config.validation_fraction, SPLIT_SEED)
    if tokenizer is None and resumed and (resumed / DATA_FILE).exists():
        # Changed data would train another one, and give every token another meaning.
        tokenizer = stored_tokenizer(resumed, config.tokenizer)
    elif tokenizer is None:
        tokenizer = _trained(config, documents, training)
    return Corpus(
        training=tokenize(training, tokenizer),
        validation=tokenize(validation, tokenizer),
        tokenizer=tokenizer,
        checksum=documents.checksum,
        checksums=documents.checksums,
        training_bytes=training.num_bytes,
        validation_bytes=validation.num_bytes,
        description=f"{describe(training)} to train on, {describe(validation)} held out",
    )


def _trained(config: TrainingConfig, documents: Documents, training: Documents) -> Tokenizer:
    texts = (document.text for document in training.documents)
    return trained_tokenizer(
        config.tokenizer, texts, documents.checksums, config.validation_fraction
    )


def _map_arrays(config: TrainingConfig) -> Corpus:
    folder = Path(config.data).expanduser()
    arrays = open_token_arrays(folder, verify=config.verify)
    _check_tokenizer(config, arrays)
    manifest = arrays.manifest
    training, validation = manifest["training"], manifest["validation"]
    return Corpus(
        training=arrays.training,
        validation=arrays.validation,
        tokenizer=arrays.tokenizer,
        checksum=file_checksum(folder / MANIFEST_FILE),
        checksums=arrays.checksums,
        training_bytes=training["text_bytes"],
        validation_bytes=validation["text_bytes"],
        description=f"{_describe(training)} to train on, {_describe(validation)} held out",
    )


def _describe(split: dict[str, int]) -> str:
    size = describe_size(split["text_bytes"])
    return f"{split['tokens']:,} tokens ({size}, {split['documents']:,} documents)"


def _check_tokenizer(config: TrainingConfig, arrays: TokenArrays) -> None:
    """Refuses prepared data of another tokenizer than the one that is asked for."""
    prepared = arrays.tokenizer
    if config.tokenizer == prepared.name:
        return
    # The same file may be found by another path now.
    if not is_bpe(name := config.tokenizer) and get_tokenizer(name).checksum == prepared.checksum:
        return
    raise DataError(
        f"{config.data}: these data were prepared with the tokenizer {prepared.name}, and "
        f"--tokenizer is {config.tokenizer}. Give --tokenizer {prepared.name}, or prepare the data "
        "again with the other one."
    )
