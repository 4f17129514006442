"""What a run reports while it runs: metrics.jsonl, the progress line, and the clock behind them."""

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from training.errors import UserError
from training.runs.writers import MetricsWriter


def perplexity(loss: float) -> float:
    """exp(loss), infinite where that overflows."""
    return math.exp(loss) if loss < 700 else math.inf


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


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl; none if there is no such file.

    A last line cut off by a crash is left out.

    Raises:
        UserError: naming the line that is no JSON object with a step.
    """
    if not path.exists():
        return []
    lines = path.read_text(errors="replace").splitlines(keepends=True)
    return [_record(path, number, line) for number, line in enumerate(lines, 1) if _whole(line)]


def _record(path: Path, number: int, line: str) -> dict[str, Any]:
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
    """

    def __init__(self, path: Path, last_step: int, *, write: bool = True):
        self._copies: Sequence[MetricsWriter] = ()
        self.records = [record for record in read_metrics(path) if record["step"] <= last_step]
        self._file: TextIO | None = None
        if not write:
            return
        temporary = path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(record) + "\n" for record in self.records))
        temporary.replace(path)
        self._file = path.open("a")

    def copy_to(self, writers: Sequence[MetricsWriter]) -> None:
        """From now on gives every record to these as well."""
        self._copies = writers

    def write(self, record: dict[str, Any]) -> None:
        """Appends one record."""
        self.records.append(record)
        if self._file is None:
            return
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        for writer in self._copies:
            writer.write(record)

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()


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
        self._val_loss: float | None = None
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
        self._val_loss = record.get("val_loss", self._val_loss)
        rate = f"{record['tokens_per_second']:,.0f} tokens/s"
        validation = "" if self._val_loss is None else f" | val loss {self._val_loss:.4f}"
        loss = math.nan if record["loss"] is None else record["loss"]
        text = f"loss {loss:.4f}{validation} | {rate}"
        step = record["step"]
        self._bar.update(self._task, completed=step, text=text)
        due = step % self._plain_every == 0 or step in (self._start + 1, self._steps)
        if not self._console.is_terminal and (due or "val_loss" in record):
            remaining = (self._steps - step) * self._tokens_per_step / record["tokens_per_second"]
            self._console.print(
                f"step {step}/{self._steps} | {text} | ETA {remaining:.0f} s", highlight=False
            )
