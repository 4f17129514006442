"""Sources: the files, or the shards of a streamed data set, that a corpus is read from."""

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from training.data.hub import HubName, count_shards, is_hub_name, parse_hub_name, stream_texts
from training.data.parquet import is_parquet, read_parquet
from training.data.reading import (
    DataError,
    find_files,
    find_stdlib_files,
    is_binary,
    is_json_lines,
    read_error,
    read_json_lines,
    read_text,
)

STDLIB = "stdlib"


class Document(NamedTuple):
    """One text.

    Attributes:
        name: path relative to the corpus, with ":line" for a line of a JSON-lines file and ":row"
            for a row of a Parquet file.
        text: valid UTF-8.
    """

    name: str
    text: bytes


class Stamp(NamedTuple):
    """What changes when a file is written to.

    Attributes:
        num_bytes: size of the file.
        modified: time of its last change in nanoseconds.
    """

    num_bytes: int
    modified: int


@dataclass(frozen=True)
class FileSource:
    """A file.

    Attributes:
        name: path relative to the corpus.
        path: where it is.
        from_folder: found by walking a folder: left out if it is binary.
        lenient: left out, too, if it is not UTF-8 (the standard library has such test files).
    """

    name: str
    path: Path
    from_folder: bool = False
    lenient: bool = False

    @property
    def many(self) -> bool:
        """Whether it holds one document a line or row rather than one in all."""
        return is_json_lines(self.path) or is_parquet(self.path)

    def is_left_out(self) -> bool:
        """Returns whether it is a binary file among the texts of a folder."""
        return self.from_folder and not self.many and is_binary(self.path)

    def documents(self) -> Iterator[Document]:
        """Yields its documents that are not empty.

        Raises:
            DataError: it cannot be read, or a document is not text; with the line or row.
        """
        if self.many:
            read = read_parquet if is_parquet(self.path) else read_json_lines
            for number, text in read(self.path):
                if text:
                    yield Document(f"{self.name}:{number}", text)
            return
        with contextlib.suppress(DataError) if self.lenient else contextlib.nullcontext():
            if text := read_text(self.path):
                yield Document(self.name, text)

    def stamp(self) -> Stamp:
        """Returns its size and time.

        Raises:
            DataError: it is not there any more.
        """
        try:
            status = self.path.stat()
        except OSError as error:
            raise read_error(self.path, error) from error
        return Stamp(status.st_size, status.st_mtime_ns)


@dataclass(frozen=True)
class HubSource:
    """One shard of a data set that is streamed by name.

    Attributes:
        name: of the shard.
        hub: the data set.
        index: of the shard, 0 ... count - 1.
        count: number of shards.
    """

    name: str
    hub: HubName
    index: int
    count: int
    many = True

    def is_left_out(self) -> bool:
        """Returns False: a data set holds no binary files."""
        return False

    def documents(self) -> Iterator[Document]:
        """Yields its documents that are not empty.

        Raises:
            DataError: see `training.data.hub.stream_texts`.
        """
        for number, text in stream_texts(self.hub, self.index, self.count):
            if text:
                yield Document(f"{self.name}:{number}", text)

    def stamp(self) -> Stamp:
        """Returns a constant: nothing short of reading tells whether a remote shard changed."""
        return Stamp(0, 0)


Source = FileSource | HubSource


def find_sources(data: str) -> list[Source]:
    """Returns what a corpus is read from, ordered by name.

    Args:
        data: as for `training.data.documents.load_documents`.

    Raises:
        DataError: nothing is there, or it cannot be read.
    """
    if data == STDLIB:
        return [FileSource(name, path, lenient=True) for name, path in find_stdlib_files()]
    if is_hub_name(data):
        hub = parse_hub_name(data)
        count = count_shards(hub)
        stem = ":".join(part for part in (hub.name, hub.config, hub.split) if part)
        return [HubSource(f"{stem}/{index:05d}", hub, index, count) for index in range(count)]
    files = find_files(data)
    return [FileSource(name, path, files.from_folder) for name, path in files.paths]


def update_digest(digest: "hashlib._Hash", document: Document) -> None:
    """Adds the name and text of a document to a checksum."""
    for field in (document.name.encode("utf-8", "surrogateescape"), document.text):
        # The length first: two corpora that differ only in where a field ends differ.
        digest.update(len(field).to_bytes(8, "big"))
        digest.update(field)
