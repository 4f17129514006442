"""From sources to token arrays in a folder: for the user's own one, and for a run's temporary one.

    sources -> texts, in one file -> which are held out -> tokenizer -> train.bin, validation.bin

The texts are read once, whatever they come from; they need not fit into memory. All cores tokenise
them, by the threads of the `tokenizers` library: no other process is started, whose library would
have to be imported and whose parent may die.
"""

import hashlib
import itertools
from array import array
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.filesize import decimal
from rich.progress import track

from training.data.bpe import trained_tokenizer
from training.data.documents import Sources, find_sources, read_documents
from training.data.token_arrays import file_checksum, write_arrays
from training.data.tokenizers import Tokenizer, get_tokenizer, is_bpe, parse_size
from training.errors import DataError

# Which documents are held out does not depend on a run's seed: validation losses of different
# seeds are of the same text.
_SPLIT_SEED = 0
# Text that a tokenizer gets at once: enough for all its threads, and little memory.
_BATCH_CHARACTERS = 2**22


@dataclass(frozen=True)
class Plan:
    """What decides the tokens of a corpus."""

    sources: Sources  # of the texts
    # sizes and times of the files, from before their checksums were taken
    stamps: list[tuple[int, int]]
    checksums: Mapping[str, str]  # SHA-256 of every file by its name; none of a data set by name
    tokenizer_name: str  # as the user gave it
    tokenizer: Tokenizer | None  # or None if it is to be trained on the training documents
    validation_fraction: float  # share of the documents that is held out

    def choices(self) -> dict[str, Any]:
        """The options as JSON, for the manifest."""
        return {
            "data": None if self.sources.files else self.sources.data,
            "tokenizer": self.tokenizer_name,
            "tokenizer_sha256": self.tokenizer and self.tokenizer.checksum,
            "validation_fraction": self.validation_fraction,
        }


def make_plan(
    data: str, tokenizer: str, validation_fraction: float, stored: Tokenizer | None = None
) -> Plan:
    """Checks the options, finds the sources and takes their checksums.

    Args:
        data: as for `training.data.documents.find_sources`.
        tokenizer: as for `training.data.tokenizers.get_tokenizer`, or "bpe:SIZE".
        stored: the tokenizer of a run that is resumed: another one would give every token another
            meaning.
    """
    if is_bpe(tokenizer):
        parse_size(tokenizer)
    elif stored is None:
        stored = get_tokenizer(tokenizer)
    sources = find_sources(data)
    stamps = _stamps(sources)
    with ThreadPoolExecutor() as threads:
        checksums = threads.map(file_checksum, [path for _, path in sources.files])
        named = {name: sum for (name, _), sum in zip(sources.files, checksums, strict=True)}
    return Plan(sources, stamps, named, tokenizer, stored, validation_fraction)


def _stamps(sources: Sources) -> list[tuple[int, int]]:
    statuses = [path.stat() for _, path in sources.files]
    return [(status.st_size, status.st_mtime_ns) for status in statuses]


def write_tokens(
    plan: Plan, folder: Path, *, most_bytes: int | None = None, console: Console | None = None
) -> Tokenizer:
    """Reads, splits and tokenises a corpus into the files that `open_token_arrays` opens, and
    returns the tokenizer. More text than `most_bytes` is refused."""
    console = console or Console(quiet=True)
    texts, ranks = _read(plan, folder / "texts", most_bytes, console)
    if _stamps(plan.sources) != plan.stamps:
        raise DataError(
            f"{plan.sources.data}: a file has changed while it was read. Start again when no other "
            "program writes to it."
        )
    checksums = plan.checksums or {plan.sources.data: texts.checksum()}
    texts, held_out = _split(texts, ranks, plan)
    tokenizer = plan.tokenizer
    if tokenizer is None:
        console.print(f"training {plan.tokenizer_name}", highlight=False)
        tokenizer = trained_tokenizer(
            plan.tokenizer_name,
            itertools.compress(texts, ~held_out),
            checksums,
            plan.validation_fraction,
        )
    facts: dict[str, Any] = {
        "plan": plan.choices(),
        "sources": plan.checksums,
        "checksums": checksums,
        "binary_left_out": plan.sources.num_binary,
    }
    for name, mask in (("training", ~held_out), ("validation", held_out)):
        facts[name] = {"documents": int(mask.sum()), "text_bytes": int(texts.sizes[mask].sum())}
    tokens = _tokens(_watched(texts, "tokenising", console, len(held_out)), tokenizer)
    write_arrays(folder, zip(held_out.tolist(), tokens, strict=True), tokenizer, facts)
    texts.path.unlink()
    return tokenizer


@dataclass(frozen=True)
class _Texts:
    """Texts one behind the other in a file, and int64 (documents,): the bytes of each."""

    path: Path
    sizes: np.ndarray

    def __iter__(self) -> Iterator[str]:
        with self.path.open("rb") as file:
            for size in self.sizes:
                yield file.read(size).decode("utf-8")

    def checksum(self) -> str:
        content = file_checksum(self.path).encode() + self.sizes.tobytes()
        return hashlib.sha256(content).hexdigest()


def _read(
    plan: Plan, path: Path, most_bytes: int | None, console: Console
) -> tuple[_Texts, np.ndarray]:
    """All documents, and the ranks of their names."""
    data, sizes, ranks = plan.sources.data, array("q"), array("d")
    with path.open("wb") as file:
        for document in _watched(read_documents(plan.sources), "reading", console):
            text = document.text.encode("utf-8")
            if most_bytes is not None and file.tell() + len(text) > most_bytes:
                raise DataError(
                    f"{data}: more than {decimal(most_bytes)} of text, too much to be held in "
                    f"memory. Name its first documents only, as {data.partition('[')[0]}"
                    f"[:{len(sizes)}], or tokenise it once with `train.py prepare`."
                )
            file.write(text)
            sizes.append(len(text))
            ranks.append(document_rank(document.name))
    if not sizes:
        raise DataError(
            f"{data}: there is no text in it (empty files: {len(plan.sources.files)}, binary "
            f"files: {plan.sources.num_binary}). Give a file, folder or glob that holds text, or "
            '"stdlib".'
        )
    return _Texts(path, np.array(sizes)), np.array(ranks)


def _watched(items: Iterable[Any], what: str, console: Console, total: int | None = None) -> Any:
    """The items, with a bar on a terminal."""
    if console.quiet or not console.is_terminal:
        return items
    return track(items, what, total, console=console, transient=True)


def _split(texts: _Texts, ranks: np.ndarray, plan: Plan) -> tuple[_Texts, np.ndarray]:
    """The texts, and which of them are held out; the only text of a corpus is cut in two."""
    if len(ranks) > 1:
        return texts, choose_validation(ranks, plan.validation_fraction)
    text = next(iter(texts)).encode("utf-8")
    cut = cut_in_two(text, plan.sources.data, plan.validation_fraction)
    return _Texts(texts.path, np.array([cut, len(text) - cut])), np.array([False, True])


def document_rank(name: str) -> float:
    """Returns a number in [0, 1) that depends on nothing but the document's name: 53 hashed bits.

    Below the fraction for validation, the document is held out.
    """
    text = f"split {_SPLIT_SEED} {name}".encode("utf-8", "surrogateescape")
    return (int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 11) / 2**53


def choose_validation(ranks: np.ndarray, fraction: float) -> np.ndarray:
    """Which documents are held out, bool (documents,): those whose rank is below the fraction.

    So neither the order of the documents nor the other ones matter. One document at least is held
    out, and one of the two or more is not.
    """
    held_out = ranks < fraction
    if not held_out.any():
        held_out[np.argmin(ranks)] = True
    elif held_out.all():
        held_out[np.argmax(ranks)] = False
    return held_out


def cut_in_two(text: bytes, name: str, fraction: float) -> int:
    """Where the tail of a text begins that has the fraction of the bytes or more. A single
    character cannot be cut, and is a `DataError`."""
    cut = len(text) - max(1, round(fraction * len(text)))
    # Bytes 10xxxxxx continue a UTF-8 character: cut before the character, not inside it.
    while cut > 0 and text[cut] & 0b1100_0000 == 0b1000_0000:
        cut -= 1
    if cut == 0:
        raise DataError(
            f"{name}: {len(text)} bytes are too few to be split into training and validation "
            "data. Give more text."
        )
    return cut


def _tokens(texts: Iterable[str], tokenizer: Tokenizer) -> Iterator[np.ndarray]:
    """Yields the tokens of every text, the end of text the last one."""
    end = np.int32(tokenizer.eos_id)
    for batch in _batches(texts):
        yield from (np.append(ids, end) for ids in tokenizer.encode_batch(batch))


def text_stream(data: str, tokenizer: Tokenizer) -> tuple[np.ndarray, int]:
    """All of a source as one stream in memory, int32 (tokens,), at least two, with the end of text
    between documents; and the bytes of text."""
    texts = [document.text for document in read_documents(find_sources(data))]
    tokens = np.concatenate([np.array([], np.int32), *_tokens(texts, tokenizer)])[:-1]
    if len(tokens) < 2:
        raise DataError(f"{data}: {len(tokens)} token(s) are too few to predict one. Give more.")
    return tokens, sum(len(text.encode()) for text in texts)


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    room = _BATCH_CHARACTERS
    for text in texts:
        batch.append(text)
        room -= len(text)
        if room < 0:
            yield batch
            batch, room = [], _BATCH_CHARACTERS
    yield batch
