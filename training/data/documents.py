"""Documents: the texts of files and data sets as rows of a `datasets` generator.

Text files are one document each. JSON-lines files (`.jsonl`, and `.jsonl.gz` or `.json.gz` as the
C4 shards are named), Parquet files and data sets by name are read by `datasets.load_dataset`, one
document a row, its field or column `text`. Any other `.gz` is a compressed text file. All text must
be UTF-8. Empty documents are left out.
"""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from training.data.files import JSON_LINES, PARQUET, STDLIB, find_files, has_suffix
from training.data.json_lines import READ_ERRORS, open_file, read_error, utf8_error
from training.data.split import document_rank
from training.data.tables import (
    HUB_PREFIX,
    HubName,
    count_shards,
    file_texts,
    hub_texts,
    parse_hub_name,
)
from training.errors import DataError

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Source(NamedTuple):
    """A file, or one shard of a data set by name.

    Attributes:
        name: relative to the corpus.
        path: of a file.
        lenient: left out if it is not UTF-8 (the standard library has such test files).
        hub: the data set, and then which shard of how many.
        shard: 0 ... shards - 1.
        shards: number of them.
    """

    name: str
    path: Any = None  # a Path
    lenient: bool = False
    hub: HubName | None = None
    shard: int = 0
    shards: int = 1


def find_sources(data: str) -> tuple[list[Source], int]:
    """Returns what a corpus is read from, ordered by name, and how many binary files were left out.

    Args:
        data: as for `training.data.files.find_files`, or the name of a data set.

    Raises:
        DataError: nothing is there, or it cannot be read.
    """
    if not data.startswith(HUB_PREFIX):
        paths, num_binary = find_files(data)
        return [Source(name, path, lenient=data == STDLIB) for name, path in paths], num_binary
    hub = parse_hub_name(data)
    count = count_shards(hub)
    stem = ":".join(part for part in (hub.name, hub.config, hub.split) if part)
    return [Source(f"{stem}/{i:05d}", hub=hub, shard=i, shards=count) for i in range(count)], 0


def read_documents(
    sources: Sequence[Source], cache: str, failure: str, most_bytes: int | None = None
) -> Iterator[dict[str, Any]]:
    """Yields {"rank": hash of the document's name, "text": not empty}: for `from_generator`.

    Args:
        sources: what to read, in this order.
        cache: folder for what `datasets` keeps.
        failure: file for the message of a DataError. `datasets` loses the error itself on its way
            from another process; and the other processes stop where they find the file.
        most_bytes: of a data set by name; more text is refused. None = any.

    Raises:
        DataError: a source cannot be read, or a document is not text; it names the source.
    """
    count, num_bytes = 0, 0
    try:
        for source in sources:
            if Path(failure).exists():
                return
            for row, text in enumerate(_texts(source, cache), 1):
                num_bytes += len(text)
                if source.hub and most_bytes is not None and num_bytes > most_bytes:
                    raise _too_much(source.hub, count, most_bytes)
                count += 1
                if text:
                    name = source.name if _is_text_file(source) else f"{source.name}:{row}"
                    yield {"rank": document_rank(name), "text": text}
    except DataError as error:
        Path(failure).write_text(str(error), "utf-8")
        raise


def _is_text_file(source: Source) -> bool:
    return source.hub is None and not has_suffix(source.path, JSON_LINES + PARQUET)


def _texts(source: Source, cache: str) -> Iterator[str]:
    if source.hub is not None:
        yield from hub_texts(source.hub, source.shard, source.shards, cache)
    elif _is_text_file(source):
        with contextlib.suppress(DataError) if source.lenient else contextlib.nullcontext():
            yield _read_text(source.path)
    else:
        yield from file_texts(source.path, cache)


def _read_text(path: Path) -> str:
    """Reads a file as it is: the text builder of `datasets` would rewrite its ends of lines."""
    try:
        with open_file(path) as file:
            data = file.read()
    except READ_ERRORS as error:
        raise read_error(path, error) from error
    try:
        text = data.removeprefix(_BYTE_ORDER_MARK).decode("utf-8")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise utf8_error(path, line, error.start, error.object[error.start]) from error
    position = data.find(b"\0")
    if position >= 0:
        line = data.count(b"\n", 0, position) + 1
        raise DataError(
            f"{path}, line {line}: NUL byte (byte {position} of the file): it is binary or "
            "UTF-16. Leave it out, or convert it to UTF-8."
        )
    return text


def _too_much(hub: HubName, count: int, most_bytes: int) -> DataError:
    name = f"{HUB_PREFIX}{hub.name}:{hub.config or ''}:{hub.split}[:{count}]"
    return DataError(
        f"{HUB_PREFIX}{hub.name}: more than {describe_size(most_bytes)} of text, too much to be "
        f"held in memory. Name its first documents only, as in {name}, or tokenise it once with "
        "`train.py prepare`."
    )


def describe_size(num_bytes: int) -> str:
    """A size in decimal units: 28 900 000 -> "28.9 MB"."""
    for factor, unit in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if num_bytes >= factor:
            return f"{num_bytes / factor:.1f} {unit}"
    return f"{num_bytes} bytes"
