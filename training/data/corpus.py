"""The tokens of a run: a corpus tokenised now, or the arrays of `train.py prepare` mapped."""

import hashlib
import json
import math
import operator
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from training.config.pretraining import CorpusOptions
from training.config.resolved import BatchShape
from training.data.batches import BatchIterator, Windows, endless_batches, validation_batches
from training.data.tables import HUB_PREFIX
from training.data.token_arrays import describe_manifest, is_prepared, open_token_arrays
from training.data.tokenization import make_plan, write_tokens
from training.data.tokenizers import Tokenizer, stored_tokenizer
from training.errors import DataError
from training.files import is_disk_full, write_json

# In a run's folder: the checksum of every file that its tokens came from.
DATA_FILE = "data.json"
_MAX_FILES_SHOWN = 5
# A data set by name can be larger than any memory; up to here it is read all the same.
_MOST_STREAMED_BYTES = 2**30


@dataclass(frozen=True)
class Corpus:
    """Training and validation tokens.

    Attributes:
        training: (tokens,) unsigned integers, in memory or mapped.
        validation: (tokens,) unsigned integers.
        tokenizer: that they were made with.
        manifest: what `training.data.token_arrays` says of them.
        checksums: of every file, or array file, by name.
    """

    training: np.ndarray
    validation: np.ndarray
    tokenizer: Tokenizer
    manifest: Mapping[str, Any]
    checksums: Mapping[str, str]

    @property
    def vocab_size(self) -> int:
        """Of the tokenizer."""
        return self.tokenizer.vocab_size

    @property
    def checksum(self) -> str:
        """SHA-256 of the checksums."""
        content = json.dumps(sorted(self.checksums.items()))
        return hashlib.sha256(content.encode()).hexdigest()

    @property
    def training_bytes(self) -> int:
        """Of the text that the training tokens stand for."""
        return self.manifest["training"]["text_bytes"]

    @property
    def validation_bytes(self) -> int:
        """Of the text that the validation tokens stand for."""
        return self.manifest["validation"]["text_bytes"]

    @property
    def description(self) -> str:
        """Sizes, for people."""
        return describe_manifest(self.manifest)

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
        """What `train_loader` gives of the training tokens, as int32 (rows, seq_len + 1)."""
        windows = Windows(self.training, batch.seq_len, batch.batch_size, "training")
        batches = endless_batches(windows, batch.batch_size, seed, shard_index, shard_count)
        return iter(batches.map(operator.itemgetter("tokens")))

    def validation_batches(self, batch: BatchShape) -> list[np.ndarray]:
        """At most `eval_batches` batches int32 (batch, seq_len + 1), the same in every run."""
        size, length = batch.batch_size, batch.seq_len
        return list(validation_batches(self.validation, size, length, batch.eval_batches))

    def validation_metrics(self, val_loss: float) -> dict[str, float]:
        """What metrics.jsonl says of a validation loss, besides."""
        return {"val_bits_per_byte": self.bits_per_byte(val_loss)}

    def save_to_run(self, folder: Path) -> None:
        """Writes the tokenizer, and data.json, by which a resumed run knows a file that changed."""
        self.tokenizer.save(folder)
        write_json(folder / DATA_FILE, dict(self.checksums))


def load_corpus(
    config: CorpusOptions, resumed: Path | None = None, console: Console | None = None
) -> Corpus:
    """Reads, splits and tokenises `config.data`, or maps it if `train.py prepare` has done that.

    Args:
        config: the data and their tokenizer.
        resumed: folder of the run that is resumed, if one is, for its tokenizer.
        console: for progress.

    Raises:
        UserError: for an unknown tokenizer or data that cannot be used, naming the file.
    """
    if not is_prepared(config.data):
        return _tokenise(config, resumed, console)
    corpus = open_corpus(Path(config.data), verify=config.verify)
    if config.tokenizer != corpus.tokenizer.name:
        raise DataError(
            f"{config.data}: these data were prepared with the tokenizer "
            f"{corpus.tokenizer.name}, and --tokenizer is {config.tokenizer}. Give --tokenizer "
            f"{corpus.tokenizer.name}, or prepare the data again with the other one."
        )
    return corpus


def open_corpus(folder: Path, *, verify: bool = False) -> Corpus:
    """Maps a prepared folder; see `open_token_arrays`."""
    manifest, arrays = open_token_arrays(folder.expanduser(), verify=verify)
    tokenizer = stored_tokenizer(folder.expanduser(), manifest["tokenizer"]["name"])
    if tokenizer.checksum != manifest["tokenizer"]["sha256"]:
        raise DataError(
            f"{folder}: the tokenizer's file in this folder has changed since the data were "
            "prepared with it. Restore it, or prepare the data again into another folder."
        )
    checksums = {manifest[split]["file"]: manifest[split]["sha256"] for split in arrays}
    return Corpus(**arrays, tokenizer=tokenizer, manifest=manifest, checksums=checksums)


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


def describe_differences(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Lines that name the first files that vanished, changed or are new; "" for none."""
    differences = [f"  {name} has vanished" for name in before if name not in now]
    differences += [
        f"  {name} has changed" if name in before else f"  {name} is new"
        for name, checksum in now.items()
        if before.get(name) != checksum
    ]
    more = len(differences) - _MAX_FILES_SHOWN
    shown = differences[:_MAX_FILES_SHOWN] + ([f"  and {more} more"] if more > 0 else [])
    return "\n".join(shown)


def _tokenise(config: CorpusOptions, resumed: Path | None, console: Console | None) -> Corpus:
    stored = None
    if resumed and (resumed / DATA_FILE).exists():
        stored = stored_tokenizer(resumed, config.tokenizer)
    plan = make_plan(config.data, config.tokenizer, config.validation_fraction, stored)
    most_bytes = _MOST_STREAMED_BYTES if config.data.startswith(HUB_PREFIX) else None
    try:
        with tempfile.TemporaryDirectory(prefix="lowrank_optax-") as folder:
            tokenizer = write_tokens(plan, Path(folder), most_bytes=most_bytes, console=console)
            manifest, arrays = open_token_arrays(Path(folder), mapped=False)
    except OSError as error:
        if not is_disk_full(error):
            raise
        raise DataError(
            f"{config.data}: no space left for its tokens in {tempfile.gettempdir()}: free some, "
            "or name another folder in the environment variable TMPDIR."
        ) from error
    return Corpus(**arrays, tokenizer=tokenizer, manifest=manifest, checksums=manifest["checksums"])
