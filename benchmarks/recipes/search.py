"""Tuning until the best is interior, then other seeds; every run is a line of a file."""

import concurrent.futures
import json
import multiprocessing
import os
import pathlib
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from benchmarks.recipes.builders import GRIDS
from benchmarks.recipes.methods import METHODS
from benchmarks.recipes.task import Setting, run
from benchmarks.record import git_commit

TUNING_SEED = 0
SEEDS = (1, 2, 3)

Numbers = dict[str, float]

_lock = threading.Lock()


class Runs:
    """Finished runs, and two or more processes that make those that are missing.

    Args:
        path: file of JSON lines; what it holds is not run again.
        data: file of tokens.
        workers: processes.
        pinned: whether each of them is single-threaded and on a core of its own.
        run: what a process calls for a run, of the arguments of `task.run`.
        others: further files of lines, whose runs are not made again either.
    """

    def __init__(
        self,
        path: pathlib.Path,
        data: pathlib.Path,
        workers: int,
        pinned: bool,
        run: Callable[..., dict[str, Any]] = run,
        others: Sequence[pathlib.Path] = (),
    ):
        self.path, self.data, self.run = path, data, run
        self.commit = git_commit()
        self.records = {}
        for file in (*others, path):
            for record in read_lines(file) if file.exists() else []:
                self.records[_key(**{name: record[name] for name in KEY})] = record
        context = multiprocessing.get_context("spawn")
        self.pools = [
            concurrent.futures.ProcessPoolExecutor(1, context, _pin if pinned else None, (worker,))
            for worker in range(workers)
        ]
        self.load = [0] * workers

    def losses(
        self,
        method: str,
        setting: Setting,
        points: Iterable[Numbers],
        seeds: Iterable[int],
        part: str,
    ) -> list[float]:
        """The losses of runs, made at once where they are missing."""
        wanted = [(numbers, seed) for numbers in points for seed in seeds]
        futures = [self._future(method, setting, *one) for one in wanted]
        return [future.result()[part] for future in futures]

    def close(self) -> None:
        """Ends the processes."""
        for pool in self.pools:
            pool.shutdown()

    def _future(
        self, method: str, setting: Setting, numbers: Numbers, seed: int
    ) -> "concurrent.futures.Future[dict[str, Any]]":
        key = _key(method, setting.key, numbers, seed)
        done: concurrent.futures.Future[dict[str, Any]] = concurrent.futures.Future()
        with _lock:
            if key in self.records:
                done.set_result(self.records[key])
                return done
            worker = min(range(len(self.load)), key=self.load.__getitem__)
            self.load[worker] += 1
        future = self.pools[worker].submit(self.run, method, setting, numbers, seed, self.data)

        def finished(future: Any) -> None:
            with _lock:
                self.load[worker] -= 1
            if future.exception():
                done.set_exception(future.exception())
                return
            record = json.loads(key) | future.result() | {"commit": self.commit}
            with _lock:
                self.records[key] = record
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(record) + "\n")
            print(f"{method:32} {setting.name:16} {numbers} seed {seed}: {record['tuning']:.4f}")
            done.set_result(record)

        future.add_done_callback(finished)
        return done


def read_lines(path: pathlib.Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


KEY = ("method", "setting", "numbers", "seed")


def _key(method: str, setting: Mapping[str, Any], numbers: Numbers, seed: int) -> str:
    numbers = {name: float(f"{number:.6g}") for name, number in numbers.items()}
    return json.dumps(
        {"method": method, "setting": setting, "numbers": numbers, "seed": seed}, sort_keys=True
    )


def _pin(worker: int) -> None:
    """One process, one core, one thread; of those that the command was given (`taskset`)."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[worker % len(cores)]})


def tune(
    runs: Any, method: str, setting: Any, start: Numbers | None, only: tuple[str, ...] | None
) -> Numbers:
    """The numbers of least tuning loss: better than both neighbours on every grid.

    Args:
        runs: makes them, a `Runs` or what has its `losses`.
        method: a key of `METHODS`, if `start` does not say where to start.
        setting: the task, by its name in a message.
        start: where to start; None for where the method says.
        only: the numbers that are tuned, where the method has them; None for all.

    Raises:
        ValueError: if the best is at an end of its grid, where nobody knows whether it is one.
    """
    best = dict(start or METHODS[method].start)
    while True:
        before = dict(best)
        for name in before:
            if only is None or name in only:
                best = _along(runs, method, setting, best, name)
        if best == before:
            return best


def _along(runs: Any, method: str, setting: Any, best: Numbers, name: str) -> Numbers:
    """The best point along one axis of the grid."""
    grid = GRIDS[name]
    at = min(range(len(grid)), key=lambda i: abs(grid[i] - best[name]))
    while True:
        near = [i for i in (at - 1, at, at + 1) if 0 <= i < len(grid)]
        points = [best | {name: grid[i]} for i in near]
        losses = runs.losses(method, setting, points, [TUNING_SEED], "tuning")
        # A run that diverged has no loss.
        ranked = [loss if loss == loss else float("inf") for loss in losses]
        winner = near[ranked.index(min(ranked))]
        # No decay lies below zero: that end is the numbers' own.
        if winner in (0, len(grid) - 1) and grid[winner] != 0:
            raise ValueError(
                f"{method} in {setting.name} is best at {name} {grid[winner]:g}, an end of its "
                "grid: extend GRIDS"
            )
        if winner == at:
            return best | {name: grid[at]}
        at = winner
