"""The table of a report: what is known of its runs, and how far they can be compared."""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

from rich.filesize import decimal
from rich.table import Table

# Columns that fit a terminal; the page has them all.
CONSOLE_COLUMNS = (
    *("run", "tokens", "training loss", "validation loss", "bits per byte", "optimizer state"),
    "seconds",
)


@dataclasses.dataclass(frozen=True)
class ReportedRun:
    """What is known of a run."""

    name: str  # tells it from the others
    config: dict[str, Any]  # content of config.json
    records: list[dict[str, Any]]  # of metrics.jsonl, at least one
    summary: dict[str, Any]  # content of summary.json; empty for a run that has not finished

    @property
    def optimizer(self) -> str:
        """Its name."""
        return self.config["optimizer"]

    @property
    def tokens_per_step(self) -> int:
        """Of a batch."""
        return self.config["batch_size"] * self.config["seq_len"]

    @property
    def tokens(self) -> int:
        """Of all steps so far."""
        return self.records[-1]["step"] * self.tokens_per_step

    def final(self, quantity: str) -> float | None:
        """The last value of a quantity of metrics.jsonl."""
        values = [record[quantity] for record in self.records if quantity in record]
        return values[-1] if values else None


def losses_of_sets(record: Mapping[str, Any]) -> dict[str, float]:
    """The losses on `--validation-sets` in a record of metrics.jsonl or a summary, by their names.

    >>> losses_of_sets({"step": 3, "val_loss": 2.5, "val_loss/code": 1.5})
    {'code': 1.5}
    """
    prefix = "val_loss/"
    return {key.removeprefix(prefix): x for key, x in record.items() if key.startswith(prefix)}


def table_rows(runs: list[ReportedRun]) -> list[dict[str, str]]:
    """The table: column -> cell per run; columns that no run has a value for are left out."""
    rows = [_row(run) for run in runs]
    names = dict.fromkeys(itertools.chain(*rows))
    shown = [name for name in names if any(row.get(name) for row in rows)]
    return [{name: row.get(name, "") for name in shown} for row in rows]


def _row(run: ReportedRun) -> dict[str, str]:
    config, summary, last = run.config, run.summary, run.records[-1]
    steps, planned = last["step"], config.get("steps", last["step"])
    state = summary.get("optimizer_state_bytes")
    sets = losses_of_sets({key: value for record in run.records for key, value in record.items()})
    return {
        "run": run.name,
        "optimizer": run.optimizer,
        "learning rate": _text(config.get("learning_rate"), "g"),
        "rank": _text(config.get("rank"), "g"),
        "seed": _text(config.get("seed"), "d"),
        "steps": f"{steps:,}" if steps >= planned else f"{steps:,} of {planned:,}",
        "tokens": f"{run.tokens:,}",
        "training loss": _text(summary.get("train_loss", last["loss"]), ".4f"),
        "validation loss": _text(run.final("val_loss"), ".4f"),
        "bits per byte": _text(run.final("val_bits_per_byte"), ".4f"),
        "optimizer state": "" if state is None else decimal(state, precision=2),
        "seconds": _text(last["seconds"], ",.1f"),
        "tokens/s": _text(summary.get("tokens_per_second"), ",.0f"),
        **{f"validation loss, {name}": _text(loss, ".4f") for name, loss in sets.items()},
    }


def _text(value: Any, form: str) -> str:
    return "" if value is None else format(value, form)


def console_table(rows: list[dict[str, str]]) -> Table:
    """As much of the table as fits a terminal."""
    table = Table()
    names = [name for name in CONSOLE_COLUMNS if name in rows[0]]
    for name in names:
        table.add_column(name, justify="left" if name == "run" else "right", overflow="fold")
    for row in rows:
        table.add_row(*(row[name] for name in names))
    return table


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
