"""Where metrics go besides metrics.jsonl: TensorBoard and Weights & Biases, as optional packages.

To add one: a class with the two methods of `MetricsWriter`, and its line in `WRITERS`.
"""

import contextlib
import os
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from etils import epath

from training.errors import UserError, import_extra, nearest
from training.files import is_local

Record = dict[str, Any]

TENSORBOARD_FOLDER = "tensorboard"
# In a run's folder: the identifier by which Weights & Biases knows a run that is resumed.
WANDB_ID_FILE = "wandb_id.txt"
WANDB_PROJECT = "lowrank_optax"


class MetricsWriter(Protocol):
    """Something that takes the records of metrics.jsonl, one by one, and is closed in the end."""

    def write(self, record: Record) -> None: ...

    def close(self) -> None: ...


class TensorBoardWriter:
    """Event files for TensorBoard: a scalar per name and step.

    What an earlier part of the run wrote is replaced by its records, so that no step is there
    twice, and a run may get its event files at a resume only.

    Args:
        folder: of the run.
        records: of metrics.jsonl so far.
        config: not written.
    """

    def __init__(self, folder: epath.PathLike, records: Sequence[Record], config: Any):
        del config
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        logs = epath.Path(folder) / TENSORBOARD_FOLDER
        for old in logs.glob("events.out.tfevents.*"):
            old.unlink()
        self._file = EventFileWriter(str(logs), flush_secs=10)
        now = time.time()
        for record in records:
            self.write(record, now - (records[-1]["seconds"] - record["seconds"]))

    def write(self, record: Record, wall_time: float | None = None) -> None:
        """Adds the record's numbers, as of now or of another time."""
        wall_time = wall_time or time.time()
        values = [
            self._summary.Value(tag=name, simple_value=float(value))
            for name, value in _numbers(record).items()
        ]
        summary = self._summary(value=values)
        self._file.add_event(self._event(wall_time=wall_time, step=record["step"], summary=summary))

    def close(self) -> None:
        """Writes the rest and closes the file."""
        self._file.close()


class WandbWriter:
    """A run of Weights & Biases, the same one after a resume.

    Weights & Biases takes no step that it has already, so those that a resume repeats are not there
    twice. Its environment variables apply; without WANDB_PROJECT the project is "lowrank_optax".

    Args:
        folder: of the run.
        records: of metrics.jsonl so far; sent if the run is new to Weights & Biases.
        config: content of config.json.

    Raises:
        UserError: it refuses to start a run, e.g. because nobody is logged in.
    """

    def __init__(self, folder: epath.PathLike, records: Sequence[Record], config: dict[str, Any]):
        import wandb

        id_file = epath.Path(folder) / WANDB_ID_FILE
        known = id_file.exists()
        identifier = id_file.read_text().strip() if known else uuid.uuid4().hex[:8]
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", WANDB_PROJECT),
                id=identifier,
                name=folder.name,
                dir=str(folder) if is_local(folder) else None,
                config=config,
                resume="allow",
                # Capturing the terminal would garble the progress line.
                settings=wandb.Settings(console="off"),
            )
        except wandb.errors.Error as error:
            raise UserError(
                f"--log wandb: Weights & Biases did not start a run: {error} Log in by `wandb "
                "login`, or set WANDB_MODE=offline to keep the run in its folder."
            ) from error
        id_file.write_text(f"{identifier}\n")
        if not known:
            for record in records:
                self.write(record)

    def write(self, record: Record) -> None:
        """Logs the record's numbers."""
        self._run.log(_numbers(record), step=record["step"])

    def close(self) -> None:
        """Waits until all is sent."""
        self._run.finish()


def _numbers(record: Record) -> Record:
    """A record without its step and without what is not a number."""
    return {
        name: value
        for name, value in record.items()
        if name != "step" and isinstance(value, int | float)
    }


# Option -> what writes it; its package, and the extra that installs that, are called the same.
WRITERS: dict[str, Callable[[epath.Path, Sequence[Record], dict[str, Any]], MetricsWriter]] = {
    "tensorboard": TensorBoardWriter,
    "wandb": WandbWriter,
}


def parse_writers(text: str) -> list[str]:
    """The names of "tensorboard,wandb", each once.

    Raises:
        UserError: for an unknown one, with the nearest.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in WRITERS:
            raise UserError(f"--log {text}: unknown {name!r}.{nearest(name, WRITERS)}")
    return list(dict.fromkeys(names))


def check_writers(text: str) -> None:
    """Checks before anything else that what `--log` asks for is known and installed.

    Raises:
        UserError: it is not; the message has the command that installs it.
    """
    for name in parse_writers(text):
        import_extra(name, f"the records of --log {name}", extra=name)


def open_writers(
    text: str,
    folder: epath.PathLike,
    records: Sequence[Record],
    config: dict[str, Any],
    stack: contextlib.ExitStack,
) -> list[MetricsWriter]:
    """Opens what `--log` asks for.

    Args:
        text: of the option, checked.
        folder: of the run; exists.
        records: of metrics.jsonl so far; empty for a new run.
        config: content of config.json.
        stack: that closes it.

    Raises:
        UserError: one of them cannot be started.
    """
    writers = []
    for name in parse_writers(text):
        writers.append(WRITERS[name](folder, records, config))
        stack.callback(writers[-1].close)
    return writers
