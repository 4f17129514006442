"""`train.py report`: runs as curves against tokens and time, and as a table, in one file."""

import dataclasses
import itertools
import json
import os
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table

from training.errors import UserError
from training.reports.comparison_plots import Curves, draw_report, write_png
from training.reports.html import write_html
from training.runs.metrics import losses_of_sets, read_metrics
from training.runs.summary import readable_bytes

FORMATS = (".html", ".png")
# Columns that fit a terminal; the page has them all.
CONSOLE_COLUMNS = (
    "run",
    "tokens",
    "training loss",
    "validation loss",
    "bits per byte",
    "optimizer state",
    "seconds",
)


@dataclasses.dataclass(frozen=True)
class ReportConfig:
    """Draw the losses of runs against tokens and against wall time, with a table of the runs."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of runs, or folders that hold some at any depth."""
    out: Path = Path("report.html")
    """File to write: .html (self-contained, with the table) or .png (the curves)."""


@dataclasses.dataclass(frozen=True)
class ReportedRun:
    """What is known of a run.

    Attributes:
        name: tells it from the others.
        config: content of config.json.
        records: of metrics.jsonl, at least one.
        summary: content of summary.json; empty for a run that has not finished.
        tokens_per_step: of a batch.
    """

    name: str
    config: dict[str, Any]
    records: list[dict[str, Any]]
    summary: dict[str, Any]
    tokens_per_step: int

    @property
    def curves(self) -> Curves:
        """What is drawn of it."""
        return Curves(self.name, self.config["optimizer"], self.tokens_per_step, self.records)

    def final(self, quantity: str) -> float | None:
        """The last value of a quantity of metrics.jsonl."""
        values = [record[quantity] for record in self.records if quantity in record]
        return values[-1] if values else None


def report(config: ReportConfig, console: Console) -> None:
    """Reads the runs, writes the report and prints its table.

    Raises:
        UserError: naming the folder or file that is no run or cannot be read or written.
    """
    suffix = config.out.suffix.lower()
    if suffix not in FORMATS:
        raise UserError(f"--out {config.out}: its ending must be one of {', '.join(FORMATS)}")
    if config.out.is_dir() or not config.out.parent.is_dir():
        what = "is a folder" if config.out.is_dir() else "is in a folder that does not exist"
        raise UserError(f"--out {config.out} {what}: give the path of a file to write")
    folders = [folder for path in config.runs for folder in find_runs(path)]
    runs = read_runs(list(dict.fromkeys(folder.resolve() for folder in folders)))
    figure = draw_report([run.curves for run in runs])
    rows = table_rows(runs)
    try:
        if suffix == ".png":
            write_png(figure, config.out)
        else:
            write_html(figure, rows, notes(runs), config.out)
    except OSError as error:
        raise UserError(f"--out {config.out}: cannot be written: {error.strerror}") from error
    console.print(_console_table(rows))
    console.print(f"{len(runs)} run(s) in {config.out}", highlight=False)


def find_runs(path: Path) -> list[Path]:
    """The folders of runs at a path and below it, in order.

    Raises:
        UserError: there are none.
    """
    if not path.is_dir():
        raise UserError(f"{path}: there is no such folder; give the folder of a run (--out of it)")
    found = []
    for parent, folders, files in os.walk(path):
        if {"config.json", "metrics.jsonl"} <= set(files):
            found.append(Path(parent))
        # Checkpoints have many files, and no runs among them.
        folders[:] = sorted(set(folders) - {"checkpoints"})
    if not found:
        missing = "metrics.jsonl" if (path / "config.json").exists() else "config.json"
        raise UserError(
            f"{path}: neither a run (it has no {missing}) nor a folder that holds any; give the "
            "--out of pretrain, finetune or compare"
        )
    return found


def read_runs(folders: list[Path]) -> list[ReportedRun]:
    """Reads runs.

    Args:
        folders: distinct.

    Raises:
        UserError: naming the file that cannot be read, or the run that has no metrics yet.
    """
    names = distinct_names(folders)
    return [_read(folder, name) for folder, name in zip(folders, names, strict=True)]


def distinct_names(folders: list[Path]) -> list[str]:
    """The last parts of paths, as many as tell them apart.

    Example:
        >>> distinct_names([Path("/a/x/run"), Path("/a/y/run")])
        ['x/run', 'y/run']
    """
    for count in range(1, max(len(folder.parts) for folder in folders) + 1):
        names = ["/".join(folder.parts[-count:]) for folder in folders]
        if len(set(names)) == len(names):
            return names
    raise AssertionError("the folders are distinct")


def _read(folder: Path, name: str) -> ReportedRun:
    config = _read_object(folder / "config.json")
    for option in ("optimizer", "batch_size", "seq_len"):
        if not config.get(option):
            raise UserError(f"{folder}/config.json: it has no {option!r}, so it is no run's")
    records = read_metrics(folder / "metrics.jsonl")
    if not records:
        raise UserError(f"{folder}: its metrics.jsonl is empty: no step has been recorded yet")
    summary = folder / "summary.json"
    return ReportedRun(
        name=name,
        config=config,
        records=records,
        summary=_read_object(summary) if summary.exists() else {},
        tokens_per_step=config["batch_size"] * config["seq_len"],
    )


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path}: not JSON: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def table_rows(runs: list[ReportedRun]) -> list[dict[str, str]]:
    """The table: column -> cell per run; columns that no run has a value for are left out."""
    rows = [_row(run) for run in runs]
    names = dict.fromkeys(itertools.chain(*rows))
    shown = [name for name in names if any(row.get(name) for row in rows)]
    return [{name: row.get(name, "") for name in shown} for row in rows]


def _row(run: ReportedRun) -> dict[str, str]:
    config, last = run.config, run.records[-1]
    steps, planned = last["step"], config.get("steps", last["step"])
    state = run.summary.get("optimizer_state_bytes")
    sets = losses_of_sets({key: value for record in run.records for key, value in record.items()})
    return {
        "run": run.name,
        "optimizer": config["optimizer"],
        "learning rate": _text(config.get("learning_rate"), "g"),
        "rank": _text(config.get("rank"), "g"),
        "seed": _text(config.get("seed"), "d"),
        "steps": f"{steps:,}" if steps >= planned else f"{steps:,} of {planned:,}",
        "tokens": f"{steps * run.tokens_per_step:,}",
        "training loss": _text(run.summary.get("train_loss", last["loss"]), ".4f"),
        "validation loss": _text(run.final("val_loss"), ".4f"),
        "bits per byte": _text(run.final("val_bits_per_byte"), ".4f"),
        "optimizer state": "" if state is None else readable_bytes(state),
        "seconds": _text(last["seconds"], ",.1f"),
        "tokens/s": _text(run.summary.get("tokens_per_second"), ",.0f"),
        **{f"validation loss, {name}": _text(loss, ".4f") for name, loss in sets.items()},
    }


def _text(value: Any, form: str) -> str:
    return "" if value is None else format(value, form)


def notes(runs: list[ReportedRun]) -> list[str]:
    """What a reader must know to compare the runs."""
    found = [
        "Training loss is smoothed. Time is that of training steps: without compiling, evaluating "
        "and saving."
    ]
    for option, consequence in (
        ("tokenizer", "their losses per token are of different tokens; compare bits per byte"),
        ("data", "their losses are of different texts"),
    ):
        given = [run.config.get(option) for run in runs]
        values = sorted({" ".join(x) if isinstance(x, list) else str(x) for x in given})
        if len(values) > 1:
            found.append(f"The runs differ in {option} ({', '.join(values)}): {consequence}.")
    unfinished = [run.name for run in runs if not run.summary]
    if unfinished:
        found.append(f"Not finished: {', '.join(unfinished)}.")
    return found


def _console_table(rows: list[dict[str, str]]) -> Table:
    table = Table()
    names = [name for name in CONSOLE_COLUMNS if name in rows[0]]
    for name in names:
        table.add_column(name, justify="left" if name == "run" else "right", overflow="fold")
    for row in rows:
        table.add_row(*(row[name] for name in names))
    return table
