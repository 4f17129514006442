"""Data sets by name through Hugging Face `datasets`, streamed. Needs the extra `data`.

    hf:NAME[:CONFIG[:SPLIT]]        all documents of a split (default: train)
    hf:NAME[:CONFIG[:SPLIT]][:N]    its first N documents; these brackets are part of the name

for example "hf:allenai/c4:en" or "hf:allenai/c4:en:train[:100000]". NAME may be a local folder.
"""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from training.data.reading import DataError
from training.extras import import_extra

PREFIX = "hf:"
_PATTERN = re.compile(
    r"hf:(?P<name>[^:\[\]]+)(:(?P<config>[^:\[\]]*))?(:(?P<split>[^:\[\]]+))?(\[:(?P<limit>\d+)\])?"
)
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


def is_hub_name(data: str) -> bool:
    """Returns whether `data` names a data set rather than files."""
    return data.startswith(PREFIX)


def parse_hub_name(data: str) -> HubName:
    """Returns the parts of a name.

    Raises:
        DataError: it is not of the form "hf:NAME[:CONFIG[:SPLIT]]", with "[:N]" or without.

    Example:
        >>> parse_hub_name("hf:allenai/c4:en[:1000]")
        HubName(name='allenai/c4', config='en', split='train', limit=1000)
    """
    match = _PATTERN.fullmatch(data)
    if match is None or match["limit"] == "0":
        raise DataError(
            f"{data!r}: not the name of a data set. Write hf:NAME:CONFIG:SPLIT, of which :CONFIG "
            "and :SPLIT may be left out, and [:N] behind it for the first N documents only, e.g. "
            "hf:allenai/c4:en:train[:100000]."
        )
    limit = int(match["limit"]) if match["limit"] else None
    return HubName(match["name"], match["config"] or None, match["split"] or "train", limit)


def count_shards(hub: HubName) -> int:
    """Returns how many shards can be streamed independently; 1 where there is a limit.

    Raises:
        DataError: as `stream_texts`.
    """
    return 1 if hub.limit is not None else _open(hub).num_shards


def stream_texts(hub: HubName, index: int, count: int) -> Iterator[tuple[int, bytes]]:
    """Yields (document number from 1, UTF-8 text) of one shard of a data set.

    Args:
        hub: the data set.
        index: which shard, 0 ... count - 1.
        count: what `count_shards` returned.

    Raises:
        DataError: `datasets` is not installed, the data set, its configuration or split cannot
            be found or read, or a document has no string in its field "text".
    """
    stream = _open(hub)
    if count > 1:
        stream = stream.shard(num_shards=count, index=index)
    if hub.limit is not None:
        stream = stream.take(hub.limit)
    try:
        for number, record in enumerate(stream, 1):
            yield number, _text_of(hub, number, record)
    except OSError as error:
        raise _unreadable(hub, error) from error


def _open(hub: HubName) -> Any:
    """Returns the split as a `datasets.IterableDataset`."""
    datasets = import_extra("datasets", f"{PREFIX}{hub.name}: data sets by name", extra="data")
    try:
        return datasets.load_dataset(hub.name, hub.config, split=hub.split, streaming=True)
    # What datasets raises for a missing data set and no network, a configuration or a split.
    except (OSError, ValueError) as error:
        raise _unreadable(hub, error) from error


def _unreadable(hub: HubName, error: Exception) -> DataError:
    reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
    return DataError(
        f"{PREFIX}{hub.name}: cannot be read: {reason}. Check the name, the configuration "
        f"({hub.config or 'default'}), the split ({hub.split}) and the network; "
        "files that are on this machine can be given by their path."
    )


def _text_of(hub: HubName, number: int, record: dict[str, Any]) -> bytes:
    where = f"{PREFIX}{hub.name}, document {number}"
    text = record.get("text")
    if not isinstance(text, str):
        found = ", ".join(map(repr, list(record)[:_MAX_FIELDS_SHOWN])) or "none"
        problem = "is not a string" if "text" in record else f"is missing (its fields: {found})"
        raise DataError(f'{where}: the field "text" {problem}. Choose a data set of texts.')
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: half of a surrogate pair at character {error.start}, which is not text."
        ) from error
