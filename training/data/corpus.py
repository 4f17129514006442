"""The tokens of a run: a corpus tokenised now, or the arrays of `train.py prepare` mapped."""

import dataclasses
import hashlib
import json
import math
import operator
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from training.config.pretraining import CorpusOptions
from training.config.resolved import BatchShape
from training.data.batches import (
    BatchIterator,
    checked_windows,
    endless_batches,
    validation_batches,
)
from training.data.bpe import is_bpe
from training.data.documents import describe_size
from training.data.plan import make_plan
from training.data.tables import HUB_PREFIX
from training.data.token_arrays import (
    MANIFEST_FILE,
    TokenArrays,
    file_checksum,
    is_prepared,
    open_token_arrays,
)
from training.data.tokenization import write_tokens
from training.data.tokenizers import Tokenizer, get_tokenizer, stored_tokenizer
from training.errors import DataError
from training.json_files import write_json

# In a run's folder: the checksum of every file that its tokens came from.
DATA_FILE = "data.json"
_MAX_FILES_SHOWN = 5
# A data set by name can be larger than any memory; up to here it is read all the same.
_MOST_STREAMED_BYTES = 2**30


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Training and validation tokens.

    Attributes:
        training: (tokens,) unsigned integers, in memory or mapped.
        validation: (tokens,) unsigned integers.
        tokenizer: that they were made with.
        checksum: SHA-256 of the checksums, or of the manifest of prepared arrays.
        checksums: of every file, or array file, by name.
        training_bytes: of the text that the training tokens stand for.
        validation_bytes: of the text that the validation tokens stand for.
        description: sizes, for people.
    """

    training: np.ndarray
    validation: np.ndarray
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
        self, batch: BatchShape, seed: int, shard_index: int, shard_count: int
    ) -> BatchIterator:
        """What `train_loader` gives of the training tokens: int32 (rows, seq_len + 1).

        Args:
            batch: its size and length.
            seed: of the order.
            shard_index: which part of every batch.
            shard_count: number of parts.

        Raises:
            DataError: too few tokens.
        """
        windows = checked_windows(self.training, batch.batch_size, batch.seq_len, "training")
        batches = endless_batches(
            windows, batch.batch_size, seed, shard_index=shard_index, shard_count=shard_count
        )
        return iter(batches.map(operator.itemgetter("tokens")))

    def validation_batches(self, batch: BatchShape) -> list[np.ndarray]:
        """At most `eval_batches` batches int32 (batch, seq_len + 1), the same in every run.

        Raises:
            DataError: too few tokens.
        """
        return list(
            validation_batches(self.validation, batch.batch_size, batch.seq_len, batch.eval_batches)
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


def load_corpus(config: CorpusOptions, resumed: Path | None = None) -> Corpus:
    """Reads, splits and tokenises `config.data`, or maps it if `train.py prepare` has done that.

    Args:
        config: the data and their tokenizer.
        resumed: folder of the run that is resumed, if one is, for the tokenizer that it trained.

    Raises:
        UserError: for an unknown tokenizer or data that cannot be used, naming the file.
    """
    return _map_arrays(config) if is_prepared(config.data) else _tokenise(config, resumed)


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
        DataError: naming the files that vanished, changed or are new.
    """
    path = folder / DATA_FILE
    if not path.exists():
        return
    differences = describe_differences(json.loads(path.read_text()), checksums)
    if differences:
        raise DataError(
            f"cannot resume {folder}: its data are not what they were:\n{differences}\n"
            f"Restore the files, or {remedy}."
        )


def describe_differences(before: Mapping[str, str | None], now: Mapping[str, str | None]) -> str:
    """Lines that name the first files that vanished, changed or are new; "" for none."""
    differences = [f"  {name} has vanished" for name in before if name not in now]
    differences += [
        f"  {name} has changed" if name in before else f"  {name} is new"
        for name, checksum in now.items()
        if name not in before or before[name] != checksum
    ]
    more = len(differences) - _MAX_FILES_SHOWN
    shown = differences[:_MAX_FILES_SHOWN] + ([f"  and {more} more"] if more > 0 else [])
    return "\n".join(shown)


def _tokenise(config: CorpusOptions, resumed: Path | None) -> Corpus:
    stored = None
    if is_bpe(config.tokenizer) and resumed and (resumed / DATA_FILE).exists():
        stored = stored_tokenizer(resumed, config.tokenizer)
    plan = make_plan(config.data, config.tokenizer, config.validation_fraction, stored)
    most_bytes = _MOST_STREAMED_BYTES if config.data.startswith(HUB_PREFIX) else None
    with tempfile.TemporaryDirectory(prefix="lowrank_optax-") as folder:
        write_tokens(plan, Path(folder), most_bytes=most_bytes)
        arrays = open_token_arrays(Path(folder), mapped=False)
    checksums = arrays.manifest["checksums"]
    digest = hashlib.sha256(json.dumps(sorted(checksums.items())).encode())
    return _corpus(arrays, digest.hexdigest(), checksums)


def _map_arrays(config: CorpusOptions) -> Corpus:
    folder = Path(config.data).expanduser()
    arrays = open_token_arrays(folder, verify=config.verify)
    _check_tokenizer(config, arrays)
    return _corpus(arrays, file_checksum(folder / MANIFEST_FILE), arrays.checksums)


def _corpus(arrays: TokenArrays, checksum: str, checksums: Mapping[str, str]) -> Corpus:
    manifest = arrays.manifest
    num_binary = manifest["binary_left_out"]
    left_out = f" ({num_binary} binary files left out)" if num_binary else ""
    sizes = [describe_split(manifest[split]) for split in ("training", "validation")]
    return Corpus(
        training=arrays.training,
        validation=arrays.validation,
        tokenizer=arrays.tokenizer,
        checksum=checksum,
        checksums=checksums,
        training_bytes=manifest["training"]["text_bytes"],
        validation_bytes=manifest["validation"]["text_bytes"],
        description=f"{sizes[0]} to train on, {sizes[1]} held out{left_out}",
    )


def describe_split(split: Mapping[str, int]) -> str:
    """The size of a part of a corpus for people: "1,632 documents, 28.9 MB, 7,200,000 tokens"."""
    count = split["documents"]
    documents = f"{count:,} document" + ("" if count == 1 else "s")
    return f"{documents}, {describe_size(split['text_bytes'])}, {split['tokens']:,} tokens"


def _check_tokenizer(config: CorpusOptions, arrays: TokenArrays) -> None:
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
