"""What a run reports while it runs: metrics.jsonl, the progress line, and the clock behind them."""

import collections
import json
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from etils import epath
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from training.errors import UserError
from training.folders import is_local
from training.json_files import to_text, write_text
from training.runs.writers import MetricsWriter

METRICS_FILE = "metrics.jsonl"
RECENT = 100  # records in memory: as many as the training loss of summary.json is a mean of


def perplexity(loss: float) -> float:
    """exp(loss), infinite where that overflows."""
    return math.exp(loss) if loss < 700 else math.inf


def losses_of_sets(record: Mapping[str, Any]) -> dict[str, float]:
    """The losses on `--validation-sets` in a record of metrics.jsonl or a summary, by their names.

    >>> losses_of_sets({"step": 3, "val_loss": 2.5, "val_loss/code": 1.5})
    {'code': 1.5}
    """
    prefix = "val_loss/"
    return {key.removeprefix(prefix): x for key, x in record.items() if key.startswith(prefix)}


class TrainingClock:
    """Seconds spent in training steps; stopped while evaluating, saving and compiling."""

    def __init__(self, seconds: float = 0.0):
        self._before = seconds
        self._start: float | None = None

    def start(self) -> None:
        """Starts or continues; does nothing if it runs already."""
        if self._start is None:
            self._start = time.perf_counter()

    def stop(self) -> None:
        """Stops, if it runs."""
        self._before = self.seconds
        self._start = None

    @property
    def seconds(self) -> float:
        """Total so far."""
        running = 0.0 if self._start is None else time.perf_counter() - self._start
        return self._before + running


def read_metrics(path: epath.PathLike) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl; none if there is no such file.

    A last line cut off by a crash is left out.

    Raises:
        UserError: naming the line that is no JSON object with a step.
    """
    path = epath.Path(path)
    if not path.exists():
        return []
    lines = path.read_bytes().decode(errors="replace").splitlines(keepends=True)
    return [_record(path, number, line) for number, line in enumerate(lines, 1) if _whole(line)]


def _record(path: epath.Path, number: int, line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError:
        record = None
    if not isinstance(record, dict) or not isinstance(record.get("step"), int):
        raise UserError(
            f"{path}: line {number} is not a record of metrics (a JSON object with a step): "
            f"{line.strip()[:80]!r}. Repair the line or delete it."
        )
    return record


def _whole(line: str) -> bool:
    return line.endswith("\n") and bool(line.strip())


class MetricsLog:
    """Appends records to metrics.jsonl, each on disk as soon as it is written.

    Args:
        path: the file; created if missing.
        last_step: records of later steps are dropped (they are run again after a resume).
        write: False to keep the records only, in processes that share the file with its writer.

    Attributes:
        recent: the last records, at most `RECENT`.
    """

    def __init__(self, path: epath.PathLike, last_step: int, *, write: bool = True):
        self._copies: Sequence[MetricsWriter] = ()
        self._path = self._written = epath.Path(path)
        records = [record for record in read_metrics(path) if record["step"] <= last_step]
        self.recent = collections.deque(records, maxlen=RECENT)
        self._file: TextIO | None = None
        if not write:
            return
        if not is_local(self._path):  # objects of a bucket cannot be appended to; see `sync`
            self._written = epath.Path(tempfile.mkdtemp()) / self._path.name
        write_text(self._written, "".join(to_text(record) + "\n" for record in records))
        self._file = self._written.open("a")

    def copy_to(self, writers: Sequence[MetricsWriter]) -> None:
        """From now on gives every record to these as well."""
        self._copies = writers

    def write(self, record: dict[str, Any]) -> None:
        """Appends one record."""
        self.recent.append(record)
        if self._file is None:
            return
        self._file.write(to_text(record) + "\n")
        self._file.flush()
        for writer in self._copies:
            writer.write(record)

    def sync(self) -> None:
        """Brings a file in a bucket up to date."""
        if self._file is not None and self._written != self._path:
            self._written.copy(self._path, overwrite=True)

    def close(self) -> None:
        """Closes the file."""
        if self._file is None:
            return
        self._file.close()
        if self._written != self._path:
            self._written.copy(self._path, overwrite=True)
            self._written.parent.rmtree()


def progress_bar(unit: str, console: Console) -> Progress:
    """A live line on a terminal, nothing elsewhere: "UNIT 3/10 ━━━ text ETA 0:12".

    Args:
        unit: of what is counted.
        console: where to.

    Returns:
        For tasks with a total and the field `text`.
    """
    return Progress(
        TextColumn(f"{unit} {{task.completed}}/{{task.total}}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[text]}"),
        TextColumn("ETA"),
        TimeRemainingColumn(compact=True),
        console=console,
        transient=True,
        disable=not console.is_terminal,
        redirect_stdout=False,
        redirect_stderr=False,
    )


class ProgressLine:
    """One live line on a terminal; elsewhere a plain line now and then.

    Args:
        console: where to.
        steps: steps of the whole run.
        start: steps done already.
        tokens_per_step: to show tokens/s.
    """

    def __init__(self, console: Console, steps: int, start: int, tokens_per_step: int):
        self._console = console
        self._steps = steps
        self._start = start
        self._tokens_per_step = tokens_per_step
        self._validation = ""
        self._plain_every = max(1, steps // 10)
        self._bar = progress_bar("step", console)
        self._task = self._bar.add_task("train", total=steps, completed=start, text="compiled")

    def __enter__(self) -> "ProgressLine":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, record: dict[str, Any]) -> None:
        """Shows a record of metrics.jsonl."""
        rate = f"{record['tokens_per_second']:,.0f} tokens/s"
        loss = math.nan if record["loss"] is None else record["loss"]
        step = record["step"]
        new = ""
        if "val_loss" in record:
            new = f" | val loss {record['val_loss']:.4f}"
            for name, loss_of_set in losses_of_sets(record).items():
                new += f", {name} {loss_of_set:.4f}"
            self._validation = f"{new} at step {step}"
        self._bar.update(
            self._task, completed=step, text=f"loss {loss:.4f}{self._validation} | {rate}"
        )
        due = step % self._plain_every == 0 or step in (self._start + 1, self._steps)
        if not self._console.is_terminal and (due or new):
            remaining = (self._steps - step) * self._tokens_per_step / record["tokens_per_second"]
            self._console.print(
                f"step {step}/{self._steps} | loss {loss:.4f}{new} | {rate} | "
                f"ETA {remaining:.0f} s",
                highlight=False,
            )
