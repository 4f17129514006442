"""metrics.jsonl: what a run records while it runs, and the clock behind it."""

import collections
import json
import math
import operator
import tempfile
import time
from collections.abc import Callable
from typing import Any, TextIO

from etils import epath

from training.errors import UserError
from training.files import is_local, to_text, write_text

METRICS_FILE = "metrics.jsonl"
RECENT = 100  # records in memory: as many as the training loss of summary.json is a mean of


def perplexity(loss: float) -> float:
    """exp(loss), infinite where that overflows."""
    return math.exp(loss) if loss < 700 else math.inf


class TrainingClock:
    """Seconds spent in training steps; stopped while evaluating, saving and compiling."""

    def __init__(self, seconds: float = 0.0):
        self._before = seconds
        self._start: float | None = None

    def start(self) -> None:
        """Starts or continues."""
        self._start = time.perf_counter()

    def stop(self) -> None:
        """Stops, if it runs."""
        self._before, self._start = self.seconds, None

    @property
    def seconds(self) -> float:
        """Total so far."""
        running = 0.0 if self._start is None else time.perf_counter() - self._start
        return self._before + running


def read_metrics(path: epath.PathLike) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl; none if there is no such file. A last line cut off by a crash
    is left out."""
    path, records = epath.Path(path), []
    content = path.read_bytes().decode(errors="replace") if path.exists() else ""
    for number, line in enumerate(content.splitlines(keepends=True), 1):
        if not line.endswith("\n") or not line.strip():
            continue
        try:
            records.append(json.loads(line))
            operator.index(records[-1]["step"])
        except (ValueError, TypeError, LookupError) as error:
            raise UserError(
                f"{path}: line {number} is not a record of metrics (a JSON object with a step): "
                f"{line.strip()[:80]!r}. Repair the line or delete it."
            ) from error
    return records


class MetricsLog:
    """Appends records to metrics.jsonl, each on disk as soon as it is written.

    Records of later steps than `last_step` are dropped: they are run again after a resume. Without
    `write`, in processes that share the file with its writer, they are kept only.
    """

    def __init__(self, path: epath.PathLike, last_step: int, *, write: bool = True):
        self.copies: list[Callable[[dict[str, Any]], None]] = []  # given every record as well
        self._path = self._written = epath.Path(path)
        records = [record for record in read_metrics(path) if record["step"] <= last_step]
        self.recent = collections.deque(records, maxlen=RECENT)  # the last records
        self._file: TextIO | None = None
        if not write:
            return
        if not is_local(self._path):  # objects of a bucket cannot be appended to; see `sync`
            self._written = epath.Path(tempfile.mkdtemp()) / self._path.name
        write_text(self._written, "".join(to_text(record) + "\n" for record in records))
        self._file = self._written.open("a")

    def write(self, record: dict[str, Any]) -> None:
        """Appends one record."""
        self.recent.append(record)
        if self._file is None:
            return
        self._file.write(to_text(record) + "\n")
        self._file.flush()
        for write in self.copies:
            write(record)

    def sync(self) -> None:
        """Brings a file in a bucket up to date."""
        if self._written != self._path:
            self._written.copy(self._path, overwrite=True)

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()
        self.sync()
        if self._written != self._path:
            self._written.parent.rmtree()
