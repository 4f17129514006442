"""JSON as everybody reads it: files that are complete or not there, and no NaN or Infinity."""

import json
import math
import os
from typing import Any

from etils import epath

from training.folders import is_local


def to_text(content: Any, *, indent: int | None = None) -> str:
    """The JSON of numbers, texts, lists and dictionaries.

    A number that is not finite becomes null: JSON has no word for it, and `json` would write one
    that other readers refuse.

    >>> to_text({"loss": float("nan"), "step": 3})
    '{"loss": null, "step": 3}'
    """
    return json.dumps(_finite(content), indent=indent, allow_nan=False)


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def write_json(path: epath.PathLike, content: Any) -> None:
    """Writes a file of JSON, complete or not at all."""
    write_text(path, to_text(content, indent=1) + "\n")


def write_text(path: epath.PathLike, text: str) -> None:
    """Writes a file that is there, complete and on the disk, when this returns, or not at all."""
    path = epath.Path(path)
    if not is_local(path):  # an object of a bucket appears when it is complete
        path.write_text(text)
        return
    temporary = path.with_suffix(".tmp")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
