"""The work of `train.py prepare`: parts of a corpus, scanned and tokenised one by one.

Everything here runs in worker processes. A part is scanned (names, sizes, checksums), and, once
all scans have decided which documents are held out, tokenised. Either leaves one small file when
it is done, which is how a killed preparation knows what it need not do again.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from training.data.documents import Documents, document_rank, split_in_two
from training.data.reading import DataError
from training.data.sources import Document, HubSource, Source, Stamp, update_digest
from training.data.token_arrays import SPLITS, TokenArrayWriter, write_json
from training.data.tokenizers import Tokenizer

# Texts given to a tokenizer at a time: enough for its threads, little enough for the memory.
_BATCH_BYTES = 2**22


@dataclass(frozen=True)
class Part:
    """Consecutive sources that become one training array and one validation array.

    Attributes:
        index: number of the part.
        sources: at least one.
    """

    index: int
    sources: tuple[Source, ...]

    def stamps(self) -> list[Stamp]:
        """Returns the sizes and times of the sources.

        Raises:
            DataError: a file is not there any more.
        """
        return [source.stamp() for source in self.sources]


def group_sources(sources: list[Source], part_bytes: int) -> list[list[Source]]:
    """Groups sources, in order, until a group has `part_bytes` bytes on disk or more.

    A source is never divided, and a shard of a streamed data set is a group of its own.
    """
    groups: list[list[Source]] = [[]]
    size = 0
    for source in sources:
        if size >= part_bytes:
            groups.append([])
            size = 0
        groups[-1].append(source)
        size += part_bytes if isinstance(source, HubSource) else source.stamp().num_bytes
    return groups


def make_parts(sources: list[Source], names: list[list[str]]) -> list[Part]:
    """Groups sources by their names, as a plan has them."""
    by_name = {source.name: source for source in sources}
    return [
        Part(index, tuple(by_name[name] for name in group)) for index, group in enumerate(names)
    ]


@dataclass(frozen=True)
class Scan:
    """What is known of a part before it is tokenised.

    Attributes:
        ranks: uint64 (documents,), of `document_rank`.
        sizes: int64 (documents,), bytes of text.
        sources: name, checksum, number of documents and bytes of text of each source, and whether
            it was left out.
        stamps: of the sources when they were scanned.
    """

    ranks: np.ndarray
    sizes: np.ndarray
    sources: list[dict[str, Any]]
    stamps: list[Stamp]


def _scan_path(folder: Path, index: int) -> Path:
    return folder / f"scan-{index:05d}.npz"


def part_record_path(folder: Path, index: int) -> Path:
    """Returns the file that says that a part is tokenised."""
    return folder / f"part-{index:05d}.json"


def scan_part(part: Part, folder: Path, split_seed: int) -> int:
    """Reads a part and writes its scan.

    Returns:
        Bytes of text in it.

    Raises:
        DataError: a source cannot be read.
    """
    scan = _scan(part, split_seed)
    _write_scan(_scan_path(folder, part.index), scan)
    return int(scan.sizes.sum())


def _scan(part: Part, split_seed: int) -> Scan:
    ranks, sizes, sources = [], [], []
    stamps = part.stamps()
    for source in part.sources:
        digest = hashlib.sha256()
        first = len(sizes)
        left_out = source.is_left_out()
        for document in () if left_out else source.documents():
            update_digest(digest, document)
            ranks.append(document_rank(document.name, split_seed))
            sizes.append(len(document.text))
        sources.append(
            {
                "name": source.name,
                "sha256": digest.hexdigest(),
                "documents": len(sizes) - first,
                "text_bytes": sum(sizes[first:]),
                "left_out": left_out,
            }
        )
    return Scan(np.array(ranks, np.uint64), np.array(sizes, np.int64), sources, stamps)


def _write_scan(path: Path, scan: Scan) -> None:
    temporary = path.with_suffix(".tmp")
    record = json.dumps({"sources": scan.sources, "stamps": scan.stamps})
    with temporary.open("wb") as file:
        np.savez(file, ranks=scan.ranks, sizes=scan.sizes, json=np.array(record))
    temporary.replace(path)


def read_scan(part: Part, folder: Path) -> Scan | None:
    """Returns the scan of a part, or None if there is none yet."""
    path = _scan_path(folder, part.index)
    if not path.exists():
        return None
    with np.load(path) as file:
        record = json.loads(str(file["json"]))
        stamps = [Stamp(*stamp) for stamp in record["stamps"]]
        return Scan(file["ranks"], file["sizes"], record["sources"], stamps)


def check_unchanged(part: Part, folder: Path, split_seed: int) -> None:
    """Checks that the files of a scanned part are still those of the scan.

    Where a size or time differs, the part is scanned again and the checksums are compared.

    Raises:
        DataError: naming the file that differs.
    """
    before = read_scan(part, folder)
    if before is None or before.stamps == part.stamps():
        return
    after = _scan(part, split_seed)
    for old, new in zip(before.sources, after.sources, strict=True):
        if old != new:
            raise changed_error(old["name"], folder)
    _write_scan(_scan_path(folder, part.index), after)


def changed_error(name: str, folder: Path) -> DataError:
    """Returns the error of a file that changed while its corpus was prepared."""
    return DataError(
        f"{name}: this file has changed since the preparation in {folder} began. Restore it, or "
        f"remove {folder} and start again."
    )


@dataclass(frozen=True)
class TokenizeTask:
    """What a worker needs to tokenise a part.

    Attributes:
        part: which one.
        folder: to write to.
        tokenizer: to use.
        dtype: of the arrays.
        held_out: bool (documents,), True for validation; None for the only document of a corpus,
            whose tail is held out.
        validation_fraction: of that document.
        first: the splits whose first document is in this part: no separator goes before it.
        checksums: of the sources, when they were scanned.
    """

    part: Part
    folder: Path
    tokenizer: Tokenizer
    dtype: np.dtype
    held_out: np.ndarray | None
    validation_fraction: float
    first: tuple[str, ...]
    checksums: tuple[str, ...]


def split_part(task: TokenizeTask) -> Iterator[tuple[int, str, Document]]:
    """Yields (number of the source, split, document) of a part's documents, in order.

    Raises:
        DataError: a source differs from its scan, or cannot be read.
    """
    position = 0
    for number, source in enumerate(task.part.sources):
        digest = hashlib.sha256()
        for document in () if source.is_left_out() else source.documents():
            update_digest(digest, document)
            if task.held_out is None:
                whole = Documents(source.name, (document,))
                halves = split_in_two(whole, task.validation_fraction)
                for split, half in zip(SPLITS, halves, strict=True):
                    yield number, split, half.documents[0]
                continue
            if position == len(task.held_out):
                raise changed_error(source.name, task.folder)
            yield number, "validation" if task.held_out[position] else "training", document
            position += 1
        if digest.hexdigest() != task.checksums[number]:
            raise changed_error(source.name, task.folder)


def tokenize_part(task: TokenizeTask) -> int:
    """Tokenises a part into its arrays, then writes its record.

    Returns:
        Tokens written.

    Raises:
        DataError: see `split_part`.
    """
    source_tokens = [0] * len(task.part.sources)
    counts = {split: {"documents": 0, "text_bytes": 0} for split in SPLITS}
    separator = np.array([task.tokenizer.eos_id], task.dtype)
    with contextlib.ExitStack() as undo:
        writers = {}
        for split, prefix in SPLITS.items():
            path = task.folder / f"{prefix}-{task.part.index:05d}.npy"
            writers[split] = TokenArrayWriter(path, task.dtype)
            undo.callback(writers[split].discard)
        for batch in _batches(split_part(task)):
            encoded = task.tokenizer.encode_batch([document.text for _, _, document in batch])
            for (number, split, document), tokens in zip(batch, encoded, strict=True):
                count = counts[split]
                if count["documents"] or split not in task.first:
                    writers[split].append(separator)
                writers[split].append(tokens)
                count["documents"] += 1
                count["text_bytes"] += len(document.text)
                source_tokens[number] += len(tokens)
        arrays = {split: writer.finish() for split, writer in writers.items()}
        undo.pop_all()
    record = {
        "tokenizer": task.tokenizer.checksum,
        "source_tokens": source_tokens,
        **{split: counts[split] | {"array": arrays[split]} for split in SPLITS},
    }
    write_json(part_record_path(task.folder, task.part.index), record)
    return sum(writer.num_tokens for writer in writers.values())


def _batches(
    documents: Iterator[tuple[int, str, Document]],
) -> Iterator[list[tuple[int, str, Document]]]:
    batch: list[tuple[int, str, Document]] = []
    size = 0
    for item in documents:
        batch.append(item)
        size += len(item[2].text)
        if size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
