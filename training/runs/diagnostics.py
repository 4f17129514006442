"""The looks of a run: its file and its picture."""

from collections.abc import Callable
from typing import Any

import jax
from etils import epath

from training.distributed import is_first
from training.reports.diagnostics_plots import plot_diagnostics
from training.runs.metrics import MetricsLog, read_metrics
from training.steps.diagnostics import Bases, Look

DIAGNOSTICS_FILE = "diagnostics.jsonl"


class Diagnostics:
    """The looks of a run: taken every `every` steps, written, and drawn in the end.

    With 0 there are none, and a run resumed so keeps those that it has. Looks of later steps than
    `last_step` are dropped from the file: they are taken again after a resume.
    """

    def __init__(
        self,
        folder: epath.Path,
        every: int,
        last_step: int,
        overlaps: Callable[[Bases, Bases], dict[str, jax.Array]],
    ):
        self._folder = folder
        self._every = every
        self._overlaps = overlaps
        path = folder / DIAGNOSTICS_FILE
        self._log = MetricsLog(path, last_step, write=is_first()) if every else None
        self._bases: Bases | None = None

    def due(self, step: int) -> bool:
        """Whether there is a look at this step."""
        return self._every > 0 and step % self._every == 0

    def record(self, step: int, result: Look) -> None:
        """Writes a look at a step, from the compiled `look`."""
        assert self._log is not None
        quantities: dict[str, Any] = dict(result.measures)
        if result.bases:
            before = self._bases
            quantities["subspace_overlap"] = before and self._overlaps(before, result.bases)
        self._bases = result.bases
        # Four digits will do.
        digits = lambda values: [float(f"{value:.4g}") for value in values]
        self._log.write({"step": step, **jax.tree.map(digits, jax.device_get(quantities))})

    def close(self) -> None:
        """Draws the picture and closes the file."""
        if self._log is None:
            return
        self._log.close()
        if is_first() and self._log.recent:
            records = read_metrics(self._folder / DIAGNOSTICS_FILE)
            plot_diagnostics(records, self._folder / "diagnostics.png", title=self._folder.name)
