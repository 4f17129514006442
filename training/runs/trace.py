"""A trace of some steps of a run, for TensorBoard or Perfetto."""

from typing import Any

import jax
from etils import epath

from training.errors import UserError

PROFILE_FOLDER = "profile"


def parse_profile(text: str) -> tuple[int, int]:
    """The first and the last step of "FIRST:LAST".

    >>> parse_profile("10:12")
    (10, 12)
    """
    first, _, last = text.partition(":")
    if not (first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
        raise UserError(f"--profile {text}: expected FIRST:LAST, two steps from 1 on, e.g. 10:12")
    return int(first), int(last)


class Trace:
    """Traces the steps that `--profile` names, if it does; each process its own devices."""

    def __init__(self, folder: epath.Path, steps: str | None):
        self._folder = folder / PROFILE_FOLDER
        self._first, self._last = parse_profile(steps) if steps else (0, 0)
        self._running = False

    def before(self, step: int) -> None:
        """To be called before a step is dispatched."""
        if self._first <= step <= self._last and not self._running:
            jax.profiler.start_trace(str(self._folder))
            self._running = True

    def after(self, step: int, results: Any) -> None:
        """To be called after a step is dispatched, with what to wait for."""
        if self._running and step == self._last:
            jax.block_until_ready(results)
            self.close()

    def close(self) -> None:
        """Writes what there is."""
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
