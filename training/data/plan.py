"""What decides the tokens of a corpus: its sources, the tokenizer and the split."""

import contextlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from training.data.bpe import is_bpe, parse_size
from training.data.documents import Source, find_sources
from training.data.json_lines import read_error
from training.data.token_arrays import file_checksum
from training.data.tokenizers import Tokenizer, get_tokenizer
from training.errors import DataError


@dataclass(frozen=True)
class Plan:
    """What decides the arrays.

    Attributes:
        data: what the user gave.
        sources: ordered by name.
        checksums: SHA-256 of every file by its name; None for what is not on this machine.
        stamps: size and time of every file before its checksum was taken.
        num_binary: files of a folder that were left out.
        tokenizer_name: as the user gave it.
        tokenizer: or None if it is to be trained on the training documents.
        validation_fraction: share of the documents that is held out.
    """

    data: str
    sources: tuple[Source, ...]
    checksums: Mapping[str, str | None]
    stamps: list[tuple[int, int]]
    num_binary: int
    tokenizer_name: str
    tokenizer: Tokenizer | None
    validation_fraction: float

    def choices(self) -> dict[str, Any]:
        """The options as JSON, for the manifest."""
        return {
            "tokenizer": self.tokenizer_name,
            "tokenizer_sha256": self.tokenizer and self.tokenizer.checksum,
            "validation_fraction": self.validation_fraction,
        }

    @property
    def num_bytes(self) -> int:
        """Of the files, as they are on disk."""
        return sum(size for size, _ in self.stamps)

    @property
    def is_stale(self) -> bool:
        """Whether a file has been written to since its checksum was taken."""
        return _stamps(self.sources) != self.stamps


def make_plan(
    data: str, tokenizer: str, validation_fraction: float, stored: Tokenizer | None = None
) -> Plan:
    """Checks the options, finds the sources and takes their checksums.

    Args:
        data: as for `training.data.documents.find_sources`.
        tokenizer: as for `training.data.tokenizers.get_tokenizer`, or "bpe:SIZE".
        validation_fraction: share of the documents that is held out.
        stored: the trained tokenizer of a run that is resumed: changed data would train another
            one, and give every token another meaning.

    Raises:
        DataError: naming the option or the file.
    """
    if not 0 < validation_fraction < 1:
        raise DataError(
            f"validation_fraction must be between 0 and 1, got {validation_fraction}: "
            "0.05 keeps one document in twenty for validation."
        )
    if not is_bpe(tokenizer):
        stored = get_tokenizer(tokenizer)
    else:
        parse_size(tokenizer)
    sources, num_binary = find_sources(data)
    stamps = _stamps(sources)
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        checksums = list(threads.map(_checksum, sources))
    return Plan(
        data=data,
        sources=tuple(sources),
        checksums={source.name: sum for source, sum in zip(sources, checksums, strict=True)},
        stamps=stamps,
        num_binary=num_binary,
        tokenizer_name=tokenizer,
        tokenizer=stored,
        validation_fraction=validation_fraction,
    )


def _stamps(sources: Sequence[Source]) -> list[tuple[int, int]]:
    """Size and time of every file: what changes when it is written to. Nothing of a gone one."""
    stamps = []
    for source in sources:
        with contextlib.suppress(OSError):
            if source.path is not None:
                status = source.path.stat()
                stamps.append((status.st_size, status.st_mtime_ns))
    return stamps


def _checksum(source: Source) -> str | None:
    try:
        return None if source.path is None else file_checksum(source.path)
    except OSError as error:
        raise read_error(source.path, error) from error
