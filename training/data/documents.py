"""Documents: text read from files and split into training and validation parts.

Text files become one document each; JSON-lines files (`.jsonl`, and `.jsonl.gz` or `.json.gz` as
the C4 shards are named) one per line, its `text` field; Parquet files one per row, its `text`
column. Any other `.gz` is a compressed text file. All text must be UTF-8. Empty documents are left
out.
"""

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from training.data.hub import is_hub_name
from training.data.reading import DataError
from training.data.sources import STDLIB, Document, find_sources, update_digest

__all__ = [
    "SPLIT_SEED",
    "STDLIB",
    "DataError",
    "Document",
    "Documents",
    "check_fraction",
    "choose_validation",
    "describe",
    "describe_size",
    "document_rank",
    "load_documents",
    "no_text",
    "split_documents",
    "split_in_two",
]

# Which documents are held out does not depend on a run's seed: validation losses of different
# seeds are of the same text.
SPLIT_SEED = 0

# A data set by name can be larger than any memory; up to here it is read all the same.
_MAX_STREAMED_BYTES = 2**30


@dataclass(frozen=True)
class Documents:
    """The documents of a corpus, in a fixed order.

    Attributes:
        source: where they come from, as the user gave it.
        documents: never empty, and none of them is empty.
        unit: what one of them is, in the plural: "files" or "documents".
        num_skipped: files of a folder that were left out because they are binary.
        checksums: of every file, name -> SHA-256 over its documents' names and texts.
    """

    source: str
    documents: tuple[Document, ...]
    unit: str = "files"
    num_skipped: int = 0
    checksums: Mapping[str, str] = field(default_factory=dict, compare=False)

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
            update_digest(digest, document)
        return digest.hexdigest()


def load_documents(data: str) -> Documents:
    """Reads a corpus.

    A folder is read with its subfolders, hidden files and binary files (those with a NUL byte)
    left out. Names are relative to the folder, or to the part of a glob before its first
    wildcard, so that the same files in another place are the same corpus.

    Args:
        data: "stdlib" for the Python source of the running interpreter's standard library (the
            generated tables in `encodings` left out), the path of a file or folder, a glob such as
            "texts/**/*.txt", or the name of a data set as in `training.data.hub`.

    Returns:
        The documents, ordered by file name.

    Raises:
        DataError: a path does not exist, cannot be read, or holds no text, or text that is not
            UTF-8 or not valid JSON-lines or Parquet. The message names the file and the line. Or a
            data set by name has more than 1 GiB of text.
    """
    sources = find_sources(data)
    documents: list[Document] = []
    checksums: dict[str, str] = {}
    num_skipped = 0
    num_bytes = 0
    for source in sources:
        if source.is_left_out():
            num_skipped += 1
            continue
        digest = hashlib.sha256()
        for document in source.documents():
            documents.append(document)
            update_digest(digest, document)
            num_bytes += len(document.text)
            if num_bytes > _MAX_STREAMED_BYTES and is_hub_name(data):
                raise DataError(
                    f"{data}: more than {describe_size(_MAX_STREAMED_BYTES)} of text, too much to "
                    "be held in memory. Name its first documents only, as in "
                    f"{data.partition('[')[0]}[:{len(documents)}], or tokenise it once with "
                    "`train.py prepare`."
                )
        checksums[source.name] = digest.hexdigest()
    if not documents:
        raise no_text(data, len(sources) - num_skipped, num_skipped)
    unit = "documents" if any(source.many for source in sources) else "files"
    return Documents(data, tuple(documents), unit, num_skipped, checksums)


def no_text(data: str, num_empty: int, num_binary: int) -> DataError:
    """Returns the error of a corpus without a single document."""
    return DataError(
        f"{data}: there is no text in it (empty files: {num_empty}, binary files: "
        f'{num_binary}). Give a file, folder or glob that holds text, or "stdlib".'
    )


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
    if len(documents) == 1:
        check_fraction(validation_fraction)
        return split_in_two(documents, validation_fraction)
    ranks = np.array([document_rank(d.name, seed) for d in documents.documents], np.uint64)
    sizes = np.array([len(d.text) for d in documents.documents])
    chosen = choose_validation(ranks, sizes, validation_fraction)
    pairs = list(zip(documents.documents, chosen, strict=True))
    training = tuple(document for document, held_out in pairs if not held_out)
    validation = tuple(document for document, held_out in pairs if held_out)
    return replace(documents, documents=training), replace(documents, documents=validation)


def check_fraction(validation_fraction: float) -> None:
    """Raises DataError unless the fraction is between 0 and 1."""
    if not 0 < validation_fraction < 1:
        raise DataError(
            f"validation_fraction must be between 0 and 1, got {validation_fraction}: "
            "0.05 keeps one byte in twenty for validation."
        )


def document_rank(name: str, seed: int) -> int:
    """Returns a position for a document that depends on nothing but its name and the seed.

    Returns:
        0 ... 2**64 - 1: the first eight bytes of a hash.
    """
    text = f"split {seed} {name}".encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big")


def choose_validation(ranks: np.ndarray, sizes: np.ndarray, fraction: float) -> np.ndarray:
    """Chooses the documents that are held out; see `split_documents`.

    Args:
        ranks: uint64 (documents,), of `document_rank`; two documents at least.
        sizes: integers (documents,), bytes of text.
        fraction: of the bytes for validation.

    Returns:
        bool (documents,): True for validation. At least one is True and one is False.

    Raises:
        DataError: `fraction` is not between 0 and 1.
    """
    check_fraction(fraction)
    room = fraction * int(sizes.sum())
    smallest = int(sizes.min())
    chosen = np.zeros(len(sizes), bool)
    for index in np.argsort(ranks, kind="stable"):
        if room < smallest:
            break
        size = int(sizes[index])
        if size <= room:
            chosen[index] = True
            room -= size
    if not chosen.any():
        chosen[np.argmin(sizes)] = True
    return chosen


def split_in_two(documents: Documents, validation_fraction: float) -> tuple[Documents, Documents]:
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
    line = f"{count} {unit}, {describe_size(documents.num_bytes)}"
    if documents.num_skipped:
        line += f" ({documents.num_skipped} binary left out)"
    return line


def describe_size(num_bytes: int) -> str:
    """Returns a size in decimal units: 28 900 000 -> "28.9 MB"."""
    for factor, unit in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if num_bytes >= factor:
            return f"{num_bytes / factor:.1f} {unit}"
    return f"{num_bytes} bytes"
