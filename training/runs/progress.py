"""How far something has come: a live line on a terminal, elsewhere a plain line now and then."""

import math
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from training.reports.table import losses_of_sets


class ProgressBar:
    """ "UNIT 3/10 ━━━ text ETA 0:12" on a terminal; elsewhere a line at every tenth of all."""

    def __init__(self, console: Console, unit: str, total: int, done: int = 0):
        self._console = console
        self._unit = unit
        self._total = total
        self._tenths = 10 * done // total
        self._bar = Progress(
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
        self._task = self._bar.add_task(unit, total=total, completed=done, text="starting")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(self, done: int, text: str, plain: str = "", *, due: bool = False) -> None:
        """Shows that so many are done: by a text in the live line, or a plain line (default: the
        same text), which is due even if no further tenth is done."""
        self._bar.update(self._task, completed=done, text=text)
        tenths = 10 * done // self._total
        if not self._console.is_terminal and (due or tenths > self._tenths):
            line = f"{self._unit} {done}/{self._total} | {plain or text}"
            self._console.print(line, highlight=False)
        self._tenths = tenths


class ProgressLine(ProgressBar):
    """The progress of a run of so many steps, from step `start` on."""

    def __init__(self, console: Console, steps: int, start: int, tokens_per_step: int):
        super().__init__(console, "step", steps, start)
        self._tokens_left = lambda step: (steps - step) * tokens_per_step
        self._first = True
        self._validation = ""

    def show(self, record: dict[str, Any]) -> None:
        """Shows a record of metrics.jsonl; a validation loss once, and live with its step."""
        step, per_second = record["step"], record["tokens_per_second"]
        loss = math.nan if record["loss"] is None else record["loss"]
        new = ""
        if "val_loss" in record:
            new = f" | val loss {record['val_loss']:.4f}"
            if "ema_val_loss" in record:
                new += f" (average {record['ema_val_loss']:.4f})"
            for name, loss_of_set in losses_of_sets(record).items():
                new += f", {name} {loss_of_set:.4f}"
            self._validation = f"{new} at step {step}"
        rate, left = f"{per_second:,.0f} tokens/s", self._tokens_left(step) / max(per_second, 0.1)
        self.update(
            step,
            f"loss {loss:.4f}{self._validation} | {rate}",
            f"loss {loss:.4f}{new} | {rate} | ETA {left:.0f} s",
            due=self._first or bool(new),
        )
        self._first = False
