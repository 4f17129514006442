"""Tables with texts in their rows: JSON lines, and Parquet and data sets by name by `datasets`.

    hf:NAME[:CONFIG[:SPLIT]]        all rows of a split (default: train)
    hf:NAME[:CONFIG[:SPLIT]][:N]    its first N rows; these brackets are part of the name

for example "hf:allenai/c4:en" or "hf:allenai/c4:en:train[:100000]". NAME may be a local folder.
"""

import contextlib
import functools
import glob
import gzip
import importlib
import itertools
import json
import re
import warnings
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO, NamedTuple

from training.errors import DataError

HUB_PREFIX = "hf:"
_HUB_NAME = re.compile(
    r"hf:(?P<name>[^:\[\]]+)(:(?P<config>[^:\[\]]*))?(:(?P<split>[^:\[\]]+))?(\[:(?P<limit>\d+)\])?"
)
_JSON_LINES = (".jsonl", ".jsonl.gz", ".json.gz")
_PARQUET = ".parquet"
_ROWS_AT_A_TIME = 1000
_MAX_FIELDS_SHOWN = 8


class HubName(NamedTuple):
    """A data set: its name or local folder, its configuration, split and at most so many rows."""

    name: str
    config: str | None
    split: str
    limit: int | None


def parse_hub_name(data: str) -> HubName:
    """The parts of a name of the form "hf:NAME[:CONFIG[:SPLIT]]", with "[:N]" or without.

    >>> parse_hub_name("hf:allenai/c4:en[:1000]")
    HubName(name='allenai/c4', config='en', split='train', limit=1000)
    """
    match = _HUB_NAME.fullmatch(data)
    if match is None or match["limit"] == "0":
        raise DataError(
            f"{data!r}: not the name of a data set. Write hf:NAME:CONFIG:SPLIT, of which :CONFIG "
            "and :SPLIT may be left out, and [:N] behind it for the first N rows only, e.g. "
            "hf:allenai/c4:en:train[:100000]."
        )
    limit = int(match["limit"]) if match["limit"] else None
    return HubName(match["name"], match["config"] or None, match["split"] or "train", limit)


def is_json_lines(path: Path) -> bool:
    """Whether a file is JSON lines, by its name."""
    return path.name.lower().endswith(_JSON_LINES)


def is_table(path: Path) -> bool:
    """Whether a file has one document a row, by its name."""
    return is_json_lines(path) or path.name.lower().endswith(_PARQUET)


def read_table(path: Path, fields: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yields some fields of every row of a JSON-lines or Parquet file; a `DataError` if a row has
    no text in one of them."""
    if is_json_lines(path):
        return _json_texts(path, fields)
    return _texts(str(path), _parquet_tables(path), fields)


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields the rows of a JSON-lines or Parquet file, counted from 1, whatever is in them."""
    if is_json_lines(path):
        return json_rows(path)
    rows = (row for table in _parquet_tables(path) for row in table.to_pylist())
    return enumerate(rows, 1)


def field_names(path: Path) -> list[str]:
    """The fields of the first row of a JSON-lines or Parquet file; none of an empty one."""
    return next((list(record) for _, record in read_rows(path)), [])


def _json_texts(path: Path, fields: Sequence[str]) -> Iterator[tuple[str, ...]]:
    for row, record in json_rows(path):
        yield tuple(_text_of(record, field, f"{path}, row {row}") for field in fields)


def _text_of(record: dict[str, Any], field: str, where: str) -> str:
    text = record.get(field)
    if text is None:
        found = ", ".join(map(repr, itertools.islice(record, _MAX_FIELDS_SHOWN)))
        raise DataError(
            f'{where}: the field "{field}" is missing (its fields: {found}). Remove the row, or '
            f'rename the field that holds the text to "{field}".'
        )
    if not isinstance(text, str):
        raise DataError(
            f'{where}: the field "{field}" is of type {type(text).__name__}, but must be of type '
            "str."
        )
    return text


def json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields the objects of the lines that are not blank, counted from 1.

    Line by line, and not by `datasets`, which takes the fields of the first 10 MB for those of the
    whole file and refuses it where there are others later.
    """
    row = 0
    try:
        with reading(path), open_bytes(path) as file:
            for line in file:
                if line.strip():
                    row += 1
                    yield row, _json_object(line)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path}, row {row}: cannot be read: {error}. Repair or remove the row; JSON lines "
            "have one complete JSON object a line."
        ) from error


def _json_object(line: bytes) -> dict[str, Any]:
    record = json.loads(line.decode("utf-8").removeprefix("\ufeff"))
    if not isinstance(record, dict):
        raise ValueError(f"it is a {type(record).__name__} and not an object")
    for value in record.values():
        text = json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value
        if isinstance(text, str):
            text.encode("utf-8")  # half of a surrogate pair is no text
    return record


def open_bytes(path: Path) -> BinaryIO | gzip.GzipFile:
    """Opens a file, decompressed if its name ends in ".gz"."""
    return gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb")


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """A `DataError` for a file that cannot be opened, read or decompressed within."""
    try:
        yield
    except (OSError, EOFError, zlib.error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise DataError(
            f"{path}: cannot be read: {reason}. Check that it is there and complete, and its "
            "permissions."
        ) from error


def read_hub(hub: HubName, fields: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yields some fields of every row of a streamed data set by name; raises as `read_table`."""
    where = f"{HUB_PREFIX}{hub.name}"
    remedy = (
        f"Check the name, the configuration ({hub.config or 'default'}), the split ({hub.split}) "
        "and the network; files that are on this machine can be given by their path."
    )
    tables = _tables(where, remedy, hub.limit, hub.name, hub.config, split=hub.split)
    return _texts(where, tables, fields)


def _parquet_tables(path: Path) -> Iterator[Any]:
    scan = importlib.import_module("pyarrow.dataset").ParquetFragmentScanOptions
    return _tables(
        str(path),
        "Repair it, download or copy it again, or leave it out.",
        None,
        "parquet",
        data_files=glob.escape(str(path.absolute())),
        split="train",
        fragment_scan_options=scan(page_checksum_verification=True),
    )


def _tables(
    where: str, remedy: str, limit: int | None, *what: str | None, **options: Any
) -> Iterator[Any]:
    """Yields pyarrow tables of some rows each: `load_dataset(*what, **options)`, streamed."""
    load_dataset = _datasets().load_dataset
    try:
        rows = load_dataset(*what, **options, streaming=True)
        rows = rows if limit is None else rows.take(limit)
        for table in rows.with_format("arrow").iter(batch_size=_ROWS_AT_A_TIME):
            table.validate(full=True)  # Parquet's strings may be no UTF-8
            yield table
    # `datasets` lets through whatever its readers raise, and does not say where.
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise DataError(f"{where}: cannot be read: {reason}. {remedy}") from error


@functools.cache
def _datasets() -> ModuleType:
    """Imports `datasets`, which takes seconds, and makes it silent: errors are ours.

    Nor does it report what is read: it would ask the network even for a local file.
    """
    with warnings.catch_warnings():
        # Of tqdm in a notebook without widgets: there are no bars of its here.
        warnings.filterwarnings("ignore", message="IProgress not found")
        datasets = importlib.import_module("datasets")
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    datasets.disable_progress_bars()
    return datasets


def _texts(where: str, tables: Iterator[Any], fields: Sequence[str]) -> Iterator[tuple[str, ...]]:
    row = 0
    for table in tables:
        columns = [_column(where, table, field, row) for field in fields]
        yield from zip(*columns, strict=True)
        row += len(table)


def _column(where: str, table: Any, field: str, row: int) -> list[str]:
    """The texts of a field; `row` rows came before."""
    if field not in table.column_names:
        found = ", ".join(map(repr, table.column_names[:_MAX_FIELDS_SHOWN]))
        raise DataError(
            f'{where}: there is no field "{field}" (its fields: {found}). Rename the one that '
            f'holds the text to "{field}".'
        )
    column = table[field]
    if str(column.type) not in ("string", "large_string"):
        raise DataError(
            f'{where}: the field "{field}" is of type {column.type}, but must be of type string.'
        )
    texts = column.to_pylist()
    if None in texts:
        row += texts.index(None) + 1
        raise DataError(f'{where}, row {row}: the field "{field}" is missing. Remove the row.')
    return texts
