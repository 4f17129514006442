"""Tables of texts: JSON lines, Parquet and data sets by name, streamed by `datasets`.

    hf:NAME[:CONFIG[:SPLIT]]        all documents of a split (default: train)
    hf:NAME[:CONFIG[:SPLIT]][:N]    its first N documents; these brackets are part of the name

for example "hf:allenai/c4:en" or "hf:allenai/c4:en:train[:100000]". NAME may be a local folder.
"""

import functools
import glob
import importlib
import re
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from training.data.files import PARQUET, has_suffix
from training.data.json_lines import read_json_objects, string_field
from training.errors import DataError

HUB_PREFIX = "hf:"
_HUB_NAME = re.compile(
    r"hf:(?P<name>[^:\[\]]+)(:(?P<config>[^:\[\]]*))?(:(?P<split>[^:\[\]]+))?(\[:(?P<limit>\d+)\])?"
)
_ROWS_AT_A_TIME = 1000
_MAX_FIELDS_SHOWN = 8


class HubName(NamedTuple):
    """A data set, as parsed from "hf:NAME:CONFIG:SPLIT[:LIMIT]".

    Attributes:
        name: on the hub, or a local folder.
        config: or None for the only one.
        split: "train" if none is named.
        limit: at most so many documents, or None for all.
    """

    name: str
    config: str | None
    split: str
    limit: int | None


@functools.cache
def import_datasets() -> ModuleType:
    """Imports `datasets`, which takes more than a second, and makes it silent: errors are ours.

    Nor does it report what is read: it would ask the network even for a local file of JSON lines.
    """
    with warnings.catch_warnings():
        # Of tqdm in a notebook without widgets: there are no bars of its here.
        warnings.filterwarnings("ignore", message="IProgress not found")
        datasets = importlib.import_module("datasets")
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    datasets.disable_progress_bars()
    return datasets


def parse_hub_name(data: str) -> HubName:
    """Returns the parts of a name.

    Raises:
        DataError: it is not of the form "hf:NAME[:CONFIG[:SPLIT]]", with "[:N]" or without.

    Example:
        >>> parse_hub_name("hf:allenai/c4:en[:1000]")
        HubName(name='allenai/c4', config='en', split='train', limit=1000)
    """
    match = _HUB_NAME.fullmatch(data)
    if match is None or match["limit"] == "0":
        raise DataError(
            f"{data!r}: not the name of a data set. Write hf:NAME:CONFIG:SPLIT, of which :CONFIG "
            "and :SPLIT may be left out, and [:N] behind it for the first N documents only, e.g. "
            "hf:allenai/c4:en:train[:100000]."
        )
    limit = int(match["limit"]) if match["limit"] else None
    return HubName(match["name"], match["config"] or None, match["split"] or "train", limit)


def file_texts(path: Path, cache: str) -> Iterator[str]:
    """Yields the texts of a JSON-lines or Parquet file, empty ones too.

    Args:
        path: of the file.
        cache: folder for what `datasets` keeps.

    Raises:
        DataError: the file cannot be read, or has no field `text` of strings; with the line of a
            JSON-lines file.
    """
    kind, options = "json", {}
    if has_suffix(path, PARQUET):
        pyarrow_dataset = importlib.import_module("pyarrow.dataset")
        scan = pyarrow_dataset.ParquetFragmentScanOptions(page_checksum_verification=True)
        kind, options = "parquet", {"fragment_scan_options": scan}
    try:
        if path.stat().st_size == 0 and kind == "json":
            return
        rows = import_datasets().load_dataset(
            kind,
            data_files=glob.escape(str(path.absolute())),
            split="train",
            streaming=True,
            cache_dir=cache,
            **options,
        )
        yield from _column(str(path), rows)
    # `datasets` lets through whatever its readers raise, and does not say where.
    except Exception as error:
        if kind == "json" and not _has_lines(path):
            return
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{path}: cannot be read as {kind.capitalize()}: {_reason(error)}. "
            "Download or copy it again, or leave it out."
        ) from error


def _has_lines(path: Path) -> bool:
    """Whether a JSON-lines file has any; raises DataError for the first that is wrong."""
    found = False
    for number, record in read_json_objects(path, '{"text": "..."}'):
        string_field(f"{path}, line {number}", record, "text")
        found = True
    return found


def hub_texts(hub: HubName, shard: int, shards: int, cache: str) -> Iterator[str]:
    """Yields the texts of one shard of a data set, empty ones too.

    Args:
        hub: the data set.
        shard: which one, 0 ... shards - 1.
        shards: what `count_shards` returned.
        cache: folder for what `datasets` keeps.

    Raises:
        DataError: it cannot be found or read, or has no column `text` of strings.
    """
    stream = _open_hub(hub, cache)
    if shards > 1:
        stream = stream.shard(num_shards=shards, index=shard)
    if hub.limit is not None:
        stream = stream.take(hub.limit)
    try:
        yield from _column(f"{HUB_PREFIX}{hub.name}", stream)
    except DataError:
        raise
    except Exception as error:
        raise _unreadable(hub, error) from error


def count_shards(hub: HubName) -> int:
    """Returns how many shards can be streamed independently; 1 where there is a limit.

    Raises:
        DataError: the data set cannot be found.
    """
    if hub.limit is not None:
        return 1
    with tempfile.TemporaryDirectory() as cache:
        return _open_hub(hub, cache).num_shards


def _open_hub(hub: HubName, cache: str) -> Any:
    """Returns the split as a `datasets.IterableDataset`."""
    try:
        return import_datasets().load_dataset(
            hub.name, hub.config, split=hub.split, streaming=True, cache_dir=cache
        )
    # No data set, configuration, split, network or file that can be read: each its own class.
    except Exception as error:
        raise _unreadable(hub, error) from error


def _unreadable(hub: HubName, error: Exception) -> DataError:
    return DataError(
        f"{HUB_PREFIX}{hub.name}: cannot be read: {_reason(error)}. Check the name, the "
        f"configuration ({hub.config or 'default'}), the split ({hub.split}) and the network; "
        "files that are on this machine can be given by their path."
    )


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def _column(where: str, stream: Any) -> Iterator[str]:
    """Yields the column `text` of an `IterableDataset`.

    Raises:
        DataError: there is no such column of strings, or a row has none.
    """
    row = 1
    for table in stream.with_format("arrow").iter(batch_size=_ROWS_AT_A_TIME):
        if "text" not in table.column_names:
            found = ", ".join(map(repr, table.column_names[:_MAX_FIELDS_SHOWN]))
            raise DataError(
                f'{where}: there is no field "text" (its fields: {found}). Rename the one that '
                'holds the text to "text".'
            )
        column = table["text"]
        if str(column.type) not in ("string", "large_string"):
            raise DataError(
                f'{where}: the field "text" is of type {column.type}, but must be of type string.'
            )
        for text in column.to_pylist():
            if text is None:
                raise DataError(f'{where}, row {row}: the field "text" is null. Remove the row.')
            yield text
            row += 1
