"""Where metrics go besides metrics.jsonl: TensorBoard and Weights & Biases, as optional packages.

To add one: a function with the arguments of `to_tensorboard`, and its line in `WRITERS`.
"""

import contextlib
import importlib.util
import os
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from etils import epath

from training.errors import UserError, nearest
from training.files import is_local

Record = dict[str, Any]  # of metrics.jsonl: numbers by name, `step` among them
Write = Callable[[Record], None]

TENSORBOARD_FOLDER = "tensorboard"
# In a run's folder: the identifier by which Weights & Biases knows a run that is resumed.
WANDB_ID_FILE = "wandb_id.txt"
WANDB_PROJECT = "lowrank_optax"


def to_tensorboard(
    folder: epath.PathLike, records: Sequence[Record], config: Any, stack: contextlib.ExitStack
) -> Write:
    """Event files for TensorBoard: a scalar per name and step; completed when the stack is closed.

    What an earlier part of the run wrote is replaced by its records in metrics.jsonl, so that no
    step is there twice, and a run may get its event files at a resume only.
    """
    del config
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    logs = epath.Path(folder) / TENSORBOARD_FOLDER
    for old in logs.glob("events.out.tfevents.*"):
        old.unlink()
    file = EventFileWriter(str(logs), flush_secs=10)
    stack.callback(file.close)

    def write(record: Record, wall_time: float | None = None) -> None:
        numbers = _numbers(record).items()
        values = [Summary.Value(tag=name, simple_value=float(value)) for name, value in numbers]
        wall_time, summary = wall_time or time.time(), Summary(value=values)
        file.add_event(Event(wall_time=wall_time, step=record["step"], summary=summary))

    now = time.time()
    for record in records:
        write(record, now - (records[-1]["seconds"] - record["seconds"]))
    return write


def to_wandb(
    folder: epath.PathLike,
    records: Sequence[Record],
    config: dict[str, Any],
    stack: contextlib.ExitStack,
) -> Write:
    """A run of Weights & Biases, the same one after a resume.

    Weights & Biases takes no step that it has already, so those that a resume repeats are not there
    twice. The records so far are sent if the run is new to it. Its environment variables apply;
    without WANDB_PROJECT the project is "lowrank_optax".
    """
    import wandb

    folder = epath.Path(folder)
    id_file = folder / WANDB_ID_FILE
    known = id_file.exists()
    identifier = id_file.read_text().strip() if known else uuid.uuid4().hex[:8]
    try:
        run = wandb.init(
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
            f"--log wandb: Weights & Biases did not start a run: {error} Log in by `wandb login`, "
            "or set WANDB_MODE=offline to keep the run in its folder."
        ) from error
    stack.callback(run.finish)
    id_file.write_text(f"{identifier}\n")

    def write(record: Record) -> None:
        run.log(_numbers(record), step=record["step"])

    for record in () if known else records:
        write(record)
    return write


def _numbers(record: Record) -> Record:
    """A record without its step and without what is not a number."""
    return {
        name: value
        for name, value in record.items()
        if name != "step" and isinstance(value, int | float)
    }


# Option -> what opens it; its package, and the extra that installs that, are called the same.
WRITERS: dict[str, Callable[..., Write]] = {"tensorboard": to_tensorboard, "wandb": to_wandb}


def parse_writers(text: str) -> list[str]:
    """The names of "tensorboard,wandb", each once; all are known, and their packages installed."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in WRITERS:
            raise UserError(f"--log {text}: unknown {name!r}.{nearest(name, WRITERS)}")
        if importlib.util.find_spec(name) is None:
            raise UserError(
                f"the records of --log {name} need the package {name}, which is not installed. "
                f'Install it with: pip install -e ".[{name}]"'
            )
    return list(dict.fromkeys(names))
