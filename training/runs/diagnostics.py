"""The looks of a run: its file and its picture."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from training.reports.diagnostics_plots import plot_diagnostics
from training.runs.metrics import MetricsLog, read_metrics
from training.steps.diagnostics import Bases, Look

DIAGNOSTICS_FILE = "diagnostics.jsonl"


class Diagnostics:
    """The looks of a run: taken every `every` steps, written, and drawn in the end.

    Args:
        folder: of the run.
        every: steps between looks; 0 for none.
        last_step: later looks in the file are dropped (they are taken again after a resume).
        overlaps: compiled.
        write: whether this process writes.
    """

    def __init__(
        self,
        folder: Path,
        every: int,
        last_step: int,
        overlaps: Callable[[Bases, Bases], dict[str, jax.Array]],
        *,
        write: bool,
    ):
        self._every = every
        self._overlaps = overlaps
        self._plot = folder / "diagnostics.png" if write else None
        path = folder / DIAGNOSTICS_FILE
        # A run resumed without looks keeps those that it has.
        self._path = path
        self._log = MetricsLog(path, last_step, write=write) if every else None
        self._bases: Bases | None = None

    def due(self, step: int) -> bool:
        """Whether there is a look at this step."""
        return self._every > 0 and step % self._every == 0

    def record(self, step: int, result: Look) -> None:
        """Writes a look.

        Args:
            step: the number of the step that it was taken at.
            result: from the compiled `look`.
        """
        assert self._log is not None
        quantities: dict[str, Any] = dict(result.measures)
        if result.bases:
            if self._bases is None:
                quantities["subspace_overlap"] = None
            else:
                quantities["subspace_overlap"] = self._overlaps(self._bases, result.bases)
        self._bases = result.bases
        self._log.write({"step": step, **_readable(jax.device_get(quantities))})

    def close(self) -> None:
        """Draws the picture and closes the file."""
        if self._log is None:
            return
        self._log.close()
        if self._plot is not None and self._log.recent:
            plot_diagnostics(read_metrics(self._path), self._plot, title=self._plot.parent.name)


def _readable(quantities: dict[str, Any]) -> dict[str, Any]:
    """Arrays as lists of four digits, what is not finite as None: JSON has no word for it."""

    def number(value: np.floating) -> float | None:
        return float(f"{value:.4g}") if np.isfinite(value) else None

    return jax.tree.map(lambda values: [number(value) for value in values], quantities)
