"""Parquet files: the `text` column, read batch by batch. Needs pyarrow (the extra `data`)."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from training.data.reading import DataError
from training.extras import import_extra

_SUFFIX = ".parquet"
_COLUMN = "text"
_ROWS_AT_A_TIME = 1024
_MAX_COLUMNS_SHOWN = 8


def is_parquet(path: Path) -> bool:
    """Returns whether a file is read as Parquet, by its name."""
    return path.name.lower().endswith(_SUFFIX)


def read_parquet(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yields (row number from 1, UTF-8 text) of every row.

    Row groups are read one after the other and never held together, so that a file may be larger
    than the memory.

    Args:
        path: a Parquet file with a column "text" of strings.

    Raises:
        DataError: pyarrow is not installed, the file is not Parquet or is damaged, it has no
            column "text" of strings, or a row has no text.
    """
    pyarrow = import_extra("pyarrow", f"{path}: Parquet files", extra="data")
    parquet = importlib.import_module("pyarrow.parquet")
    try:
        with parquet.ParquetFile(path, page_checksum_verification=True) as file:
            _check_column(path, file.schema_arrow, pyarrow)
            first_row = 1
            for batch in file.iter_batches(_ROWS_AT_A_TIME, columns=[_COLUMN]):
                texts = batch.column(0).cast(pyarrow.large_binary()).to_pylist()
                for number, text in enumerate(texts, first_row):
                    yield number, _checked(path, number, text)
                first_row += len(texts)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(
            f"{path}: cannot be read as Parquet: {str(error).splitlines()[0]}. "
            "Download or copy it again, or leave it out."
        ) from error


def _check_column(path: Path, schema: object, pyarrow: ModuleType) -> None:
    names = schema.names
    if _COLUMN not in names:
        found = ", ".join(map(repr, names[:_MAX_COLUMNS_SHOWN])) or "none"
        raise DataError(
            f'{path}: there is no column "{_COLUMN}" (its columns: {found}). '
            f'Rename the column that holds the text to "{_COLUMN}".'
        )
    kind = schema.field(_COLUMN).type
    strings = (pyarrow.types.is_string, pyarrow.types.is_large_string)
    if not any(is_kind(kind) for is_kind in strings):
        raise DataError(
            f'{path}: the column "{_COLUMN}" is of type {kind}, but must be of type string.'
        )


def _checked(path: Path, number: int, text: bytes | None) -> bytes:
    """Returns the text of a row, or raises DataError where it is missing or not UTF-8."""
    where = f"{path}, row {number}"
    if text is None:
        raise DataError(f'{where}: the column "{_COLUMN}" is null. Remove the row.')
    try:
        text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where}: not UTF-8: byte 0x{text[error.start]:02x} (byte {error.start} of the text). "
            "Repair or remove the row."
        ) from error
    return text
