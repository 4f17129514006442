"""Documents: text read from files and split into training and validation parts.

Text files become one document each; JSON-lines files (`.jsonl`, and `.jsonl.gz` or `.json.gz` as
the C4 shards are named) one per line, its `text` field. Any other `.gz` is a compressed text file.
All text must be UTF-8. Empty documents are left out.
"""

import contextlib
import functools
import hashlib
from dataclasses import dataclass, replace
from typing import NamedTuple

from training.reading import (
    DataError,
    find_files,
    find_stdlib_files,
    is_binary,
    is_json_lines,
    read_json_lines,
    read_text,
)

STDLIB = "stdlib"


class Document(NamedTuple):
    """One text.

    Attributes:
        name: path relative to the corpus, with ":line" for a line of a JSON-lines file.
        text: valid UTF-8.
    """

    name: str
    text: bytes


@dataclass(frozen=True)
class Documents:
    """The documents of a corpus, in a fixed order.

    Attributes:
        source: where they come from, as the user gave it.
        documents: never empty, and none of them is empty.
        unit: what one of them is, in the plural: "files" or "documents".
        num_skipped: files of a folder that were left out because they are binary.
    """

    source: str
    documents: tuple[Document, ...]
    unit: str = "files"
    num_skipped: int = 0

    def __len__(self) -> int:
        return len(self.documents)

    @functools.cached_property
    def num_bytes(self) -> int:
        """Bytes of text."""
        return sum(len(document.text) for document in self.documents)

    @functools.cached_property
    def checksum(self) -> str:
        """SHA-256 over all names and texts, in order, as 64 hexadecimal digits."""
        digest = hashlib.sha256()
        for document in self.documents:
            for field in (document.name.encode("utf-8", "surrogateescape"), document.text):
                # The length first: two corpora that differ only in where a field ends differ.
                digest.update(len(field).to_bytes(8, "big"))
                digest.update(field)
        return digest.hexdigest()


def load_documents(data: str) -> Documents:
    """Reads a corpus.

    A folder is read with its subfolders, hidden files and binary files (those with a NUL byte)
    left out. Names are relative to the folder, or to the part of a glob before its first
    wildcard, so that the same files in another place are the same corpus.

    Args:
        data: "stdlib" for the Python source of the running interpreter's standard library (the
            generated tables in `encodings` left out), or the path of a file or
            folder, or a glob such as "texts/**/*.txt".

    Returns:
        The documents, ordered by file name.

    Raises:
        DataError: a path does not exist, cannot be read, or holds no text, or text that is not
            UTF-8 or not valid JSON-lines. The message names the file and the line.
    """
    if data == STDLIB:
        return Documents(data, _read_stdlib())
    files = find_files(data)
    documents: list[Document] = []
    num_skipped = 0
    for name, path in files.paths:
        if is_json_lines(path):
            lines = read_json_lines(path)
            documents += [Document(f"{name}:{number}", text) for number, text in lines if text]
        elif files.from_folder and is_binary(path):
            num_skipped += 1
        elif text := read_text(path):
            documents.append(Document(name, text))
    if not documents:
        num_empty = len(files.paths) - num_skipped
        raise DataError(
            f"{data}: there is no text in it (empty files: {num_empty}, binary files: "
            f'{num_skipped}). Give a file, folder or glob that holds text, or "stdlib".'
        )
    any_lines = any(is_json_lines(path) for _, path in files.paths)
    unit = "documents" if any_lines else "files"
    return Documents(data, tuple(documents), unit, num_skipped)


def _read_stdlib() -> tuple[Document, ...]:
    """Returns the standard library's files; those that cannot be read as UTF-8 are left out."""
    documents = []
    for name, path in find_stdlib_files():
        with contextlib.suppress(DataError):
            documents.append(Document(name, read_text(path)))
    return tuple(document for document in documents if document.text)


def split_documents(
    documents: Documents, validation_fraction: float, seed: int
) -> tuple[Documents, Documents]:
    """Splits a corpus into training and validation documents.

    Documents are taken for validation in the order of a hash of seed and name, as long as they
    fit into the given fraction of all bytes; so neither the order of the files nor the machine
    matters, and a file is never in both parts. If none fits, the smallest is taken. A corpus
    of one single document is cut instead: its tail is the validation part.

    Args:
        documents: what to split.
        validation_fraction: fraction of the bytes for validation, between 0 and 1.
        seed: another seed gives another split.

    Returns:
        Training and validation documents, both not empty, in the order of `documents`.

    Raises:
        DataError: `validation_fraction` is not between 0 and 1, or the only document is a single
            character.
    """
    if not 0 < validation_fraction < 1:
        raise DataError(
            f"validation_fraction must be between 0 and 1, got {validation_fraction}: "
            "0.05 keeps one byte in twenty for validation."
        )
    if len(documents) == 1:
        return _split_in_two(documents, validation_fraction)
    room = validation_fraction * documents.num_bytes
    chosen = set()
    for document in sorted(documents.documents, key=lambda document: _rank(document.name, seed)):
        if len(document.text) <= room:
            chosen.add(document.name)
            room -= len(document.text)
    if not chosen:
        chosen = {min(documents.documents, key=lambda document: len(document.text)).name}
    training = tuple(d for d in documents.documents if d.name not in chosen)
    validation = tuple(d for d in documents.documents if d.name in chosen)
    return replace(documents, documents=training), replace(documents, documents=validation)


def _rank(name: str, seed: int) -> bytes:
    """Returns a position for a document that depends on nothing but its name and the seed."""
    return hashlib.sha256(f"split {seed} {name}".encode("utf-8", "surrogateescape")).digest()


def _split_in_two(documents: Documents, validation_fraction: float) -> tuple[Documents, Documents]:
    """Splits the only document; the parts are named like slices, "book.txt[:950]"."""
    (document,) = documents.documents
    name, text = document
    cut = len(text) - max(1, round(validation_fraction * len(text)))
    # Bytes 10xxxxxx continue a UTF-8 character: cut before the character, not inside it.
    while cut > 0 and text[cut] & 0b1100_0000 == 0b1000_0000:
        cut -= 1
    if cut == 0:
        raise DataError(
            f"{name}: {len(text)} bytes are too few to be split into training and validation "
            "data. Give more text."
        )
    head, tail = Document(f"{name}[:{cut}]", text[:cut]), Document(f"{name}[{cut}:]", text[cut:])
    return replace(documents, documents=(head,)), replace(documents, documents=(tail,))


def describe(documents: Documents) -> str:
    """Returns the size of a corpus for people, such as "1 632 files, 28.9 MB"."""
    count = f"{len(documents):,}".replace(",", " ")
    unit = documents.unit.removesuffix("s") if len(documents) == 1 else documents.unit
    line = f"{count} {unit}, {_readable_size(documents.num_bytes)}"
    if documents.num_skipped:
        line += f" ({documents.num_skipped} binary left out)"
    return line


def _readable_size(num_bytes: int) -> str:
    """Returns a size in decimal units: 28 900 000 -> "28.9 MB"."""
    for factor, unit in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if num_bytes >= factor:
            return f"{num_bytes / factor:.1f} {unit}"
    return f"{num_bytes} bytes"
