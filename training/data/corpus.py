"""The tokens of a run: sources tokenised now, or the arrays of `train.py prepare` mapped."""

import hashlib
import json
import math
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grain
import numpy as np
from rich.console import Console

from training.config.pretraining import CorpusOptions
from training.config.resolved import BatchShape
from training.data.batches import endless_batches, evenly_spread_batches, windows_of
from training.data.changes import DATA_FILE
from training.data.tables import HUB_PREFIX
from training.data.token_arrays import describe_manifest, is_prepared, open_token_arrays
from training.data.tokenization import make_plan, text_stream, write_tokens
from training.data.tokenizers import Tokenizer, stored_tokenizer
from training.errors import DataError
from training.files import is_disk_full, write_json

# A data set by name can be larger than any memory; up to here it is read all the same.
_MOST_STREAMED_BYTES = 2**30
_SET_NAME = re.compile(r"[\w.-]+")


@dataclass(frozen=True)
class Tokens:
    """The tokens of one source."""

    name: str  # the source, as it was given
    training: np.ndarray  # (tokens,) unsigned integers, in memory or mapped
    validation: np.ndarray  # (tokens,) unsigned integers
    tokenizer: Tokenizer  # that they were made with
    manifest: Mapping[str, Any]  # what `training.data.token_arrays` says of them
    checksums: Mapping[str, str]  # of every file, or array file, by name

    def num_bytes(self, split: str) -> int:
        """Of the text that the tokens of a split stand for."""
        return self.manifest[split]["text_bytes"]


@dataclass(frozen=True)
class Corpus:
    """What a run of pretraining reads; a `training.runs.folder.RunData`."""

    sources: tuple[Tokens, ...]  # one or more, of one tokenizer
    # shares of the sources in every batch; none: every window is seen equally often
    weights: tuple[float, ...] = ()
    # texts that are validated on besides, by their names
    others: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def tokenizer(self) -> Tokenizer:
        """Of all sources."""
        return self.sources[0].tokenizer

    @property
    def training(self) -> list[np.ndarray]:
        """The training tokens of every source."""
        return [source.training for source in self.sources]

    @property
    def validation(self) -> list[np.ndarray]:
        """The validation tokens of every source."""
        return [source.validation for source in self.sources]

    @property
    def checksums(self) -> Mapping[str, str]:
        """Of every file; with the source's name where there are several."""
        if len(self.sources) == 1:
            return self.sources[0].checksums
        named = ((source.name, source.checksums.items()) for source in self.sources)
        return {f"{name}: {file}": checksum for name, files in named for file, checksum in files}

    @property
    def checksum(self) -> str:
        """SHA-256 of the checksums."""
        content = json.dumps(sorted(self.checksums.items()))
        return hashlib.sha256(content.encode()).hexdigest()

    @property
    def description(self) -> str:
        """Names, weights and sizes, for people: a line a source, or another set."""
        weights = [f" (weight {weight:g})" for weight in self.weights] or [""] * len(self.sources)
        lines = [
            f"{source.name}{weight}: {describe_manifest(source.manifest)}"
            for source, weight in zip(self.sources, weights, strict=True)
        ]
        others = self.others.items()
        lines += [f"{name}: {len(tokens):,} tokens to validate on" for name, tokens in others]
        return "\n".join(lines)

    def bits_per_byte(self, val_loss: float) -> float:
        """The validation loss, in nats per token, on a scale that does not depend on the tokenizer.

        Bytes per token are those of the whole validation text in UTF-8, which evaluation batches
        are spread over evenly; the cost of ends of texts is borne by the bytes.
        """
        num_bytes = sum(source.num_bytes("validation") for source in self.sources)
        return val_loss * sum(map(len, self.validation)) / (math.log(2) * num_bytes)

    def train_batches(
        self, batch: BatchShape, seed: int, shard_index: int = 0, shard_count: int = 1
    ) -> grain.DatasetIterator:
        """What `endless_batches` gives of the training tokens, as int32 (rows, seq_len + 1)."""
        windows = windows_of(self.training, batch.seq_len, batch.batch_size, "training")
        for source, rows in zip(self.sources, windows, strict=True):
            if not len(rows):
                raise DataError(
                    f"{source.name}: its {len(source.training)} tokens to train on are no row of "
                    f"seq_len {batch.seq_len}. Leave it out, or reduce seq_len."
                )
        size = batch.batch_size
        return endless_batches(windows, size, seed, shard_index, shard_count, self.weights)

    def validation_batches(self, batch: BatchShape) -> dict[str, list[np.ndarray]]:
        """Metric -> at most `eval_batches` batches int32 (batch, seq_len + 1), always the same."""
        shape = (batch.batch_size, batch.seq_len, batch.eval_batches)
        batches = {"val_loss": list(evenly_spread_batches(self.validation, *shape))}
        for name, tokens in self.others.items():
            others = evenly_spread_batches([tokens], *shape, f"--validation-sets {name}")
            batches[f"val_loss/{name}"] = list(others)
        return batches

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
    """Reads, splits and tokenises every source of `config.data`, or maps what `train.py prepare`
    has made of it.

    Each source is split by itself. All have one tokenizer: that of the run whose folder is resumed,
    or of the first source, on whose text a BPE is trained.
    """
    if not config.data:
        raise DataError("--data names nothing: give a file, a folder, a glob, hf:NAME or stdlib")
    tokenizer = None
    if resumed and (resumed / DATA_FILE).exists():
        tokenizer = stored_tokenizer(resumed, config.tokenizer)
    sources: list[Tokens] = []
    for data in config.data:
        sources.append(_load(data, config, tokenizer, console, first=not sources))
        tokenizer = sources[0].tokenizer
    others = _other_sets(config, sources[0].tokenizer)
    return Corpus(tuple(sources), config.data_weights, others)


def _other_sets(config: CorpusOptions, tokenizer: Tokenizer) -> dict[str, np.ndarray]:
    """The tokens of `--validation-sets` by name: of a text all, of prepared data the held out."""
    sets: dict[str, np.ndarray] = {}
    for option in config.validation_sets:
        name, _, data = option.partition("=")
        if not _SET_NAME.fullmatch(name) or not data or name in sets:
            raise DataError(
                f"--validation-sets {option}: expected NAME=DATA, another NAME of letters, digits "
                'and ". _ -" for each, e.g. code=src/**/*.py'
            )
        sets[name], _ = read_to_validate(data, tokenizer, verify=config.verify)
    return sets


def read_to_validate(
    data: str, tokenizer: Tokenizer, *, verify: bool = False
) -> tuple[np.ndarray, int]:
    """The tokens of a source, of prepared data those held out, and the bytes of their text."""
    if not is_prepared(data):
        return text_stream(data, tokenizer)
    tokens = open_tokens(Path(data), verify=verify)
    _check_tokenizer(data, tokens, tokenizer)
    return tokens.validation, tokens.num_bytes("validation")


def _load(
    data: str,
    config: CorpusOptions,
    tokenizer: Tokenizer | None,
    console: Console | None,
    *,
    first: bool = False,
) -> Tokens:
    """The tokens of a source, made with this tokenizer if there is one already; that of the first
    source is the one that `--tokenizer` names."""
    if not is_prepared(data):
        return _tokenise(data, config, tokenizer, console)
    tokens = open_tokens(Path(data), verify=config.verify)
    if first and config.tokenizer != tokens.tokenizer.name:
        raise DataError(
            f"{data}: these data were prepared with the tokenizer {tokens.tokenizer.name}, and "
            f"--tokenizer is {config.tokenizer}. Give --tokenizer {tokens.tokenizer.name}, or "
            "prepare the data again with the other one."
        )
    if tokenizer is not None:
        _check_tokenizer(data, tokens, tokenizer)
    return tokens


def _check_tokenizer(data: str, tokens: Tokens, tokenizer: Tokenizer) -> None:
    if tokenizer.checksum != tokens.tokenizer.checksum:
        raise DataError(
            f"{data}: these data were prepared with another tokenizer than that of the model, of "
            "the first of --data, or of the run that is resumed. Prepare them again with "
            "--tokenizer FOLDER, the folder that has its tokenizer.json."
        )


def open_tokens(folder: Path, *, verify: bool = False) -> Tokens:
    """Maps a prepared folder; see `open_token_arrays`."""
    manifest, arrays = open_token_arrays(folder.expanduser(), verify=verify)
    tokenizer = stored_tokenizer(folder.expanduser(), manifest["tokenizer"]["name"])
    if tokenizer.checksum != manifest["tokenizer"]["sha256"]:
        raise DataError(
            f"{folder}: the tokenizer's file in this folder has changed since the data were "
            "prepared with it. Restore it, or prepare the data again into another folder."
        )
    checksums = {manifest[split]["file"]: manifest[split]["sha256"] for split in arrays}
    return Tokens(
        str(folder), **arrays, tokenizer=tokenizer, manifest=manifest, checksums=checksums
    )


def _tokenise(
    data: str, config: CorpusOptions, tokenizer: Tokenizer | None, console: Console | None
) -> Tokens:
    plan = make_plan(data, config.tokenizer, config.validation_fraction, tokenizer)
    most_bytes = _MOST_STREAMED_BYTES if data.startswith(HUB_PREFIX) else None
    try:
        with tempfile.TemporaryDirectory(prefix="lowrank_optax-") as folder:
            tokenizer = write_tokens(plan, Path(folder), most_bytes=most_bytes, console=console)
            manifest, arrays = open_token_arrays(Path(folder), mapped=False)
    except OSError as error:
        if not is_disk_full(error):
            raise
        raise DataError(
            f"{data}: no space left for its tokens in {tempfile.gettempdir()}: free some, "
            "or name another folder in the environment variable TMPDIR."
        ) from error
    checksums = manifest["checksums"]
    return Tokens(data, **arrays, tokenizer=tokenizer, manifest=manifest, checksums=checksums)
