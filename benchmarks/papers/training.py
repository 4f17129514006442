"""Trained claims: every method tuned until the best is interior, then other seeds."""

import concurrent.futures
import dataclasses
import json
import pathlib
import statistics
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any

import benchmarks.papers.methods  # noqa: F401  makes the papers' methods known, in workers too
from benchmarks.papers.claims import NOT_RUN, Comparison, Losses, Outcome, below
from benchmarks.papers.methods import TUNED
from benchmarks.recipes import task
from benchmarks.recipes.methods import METHODS
from benchmarks.recipes.report import interval
from benchmarks.recipes.search import SEEDS, Numbers, Runs, read_lines, tune
from benchmarks.recipes.task import Setting
from benchmarks.record import RESULTS

FOLDER = RESULTS / "papers"
RUNS, FOUND = FOLDER / "runs.jsonl", FOLDER / "tuned.jsonl"
OTHERS = (RESULTS / "recipes" / "runs.jsonl",)

SCALES = {"toy": Setting(width=64, steps=300), "small": Setting(width=128, steps=300)}
"""From the smallest on; a Llama of 4 layers over bytes."""

FINE_TUNING = "toy fine-tuning"
SETTINGS = SCALES | {FINE_TUNING: dataclasses.replace(SCALES["toy"], base_steps=1000)}
"""From random weights, or from a model that AdamW has trained on the same bytes, on problems."""

FIRST_GUESS = {"toy": 60.0, "small": 120.0, FINE_TUNING: 60.0}
"""Seconds a run, until one has been timed."""

Tuned = Mapping[tuple[str, str], Mapping[str, Any]]
"""(scale, method) to numbers and reported losses."""

_lock = threading.Lock()


def run(
    method: str, setting: Setting, numbers: Mapping[str, float], seed: int, data: pathlib.Path
) -> dict[str, Any]:
    """`task.run` of a paper's method, and the seconds it took, by which the next are planned."""
    start = time.monotonic()
    return task.run(method, setting, numbers, seed, data) | {"seconds": time.monotonic() - start}


class Trainings:
    """Runs within a budget.

    Args:
        data: tokens' file.
        workers: single-threaded processes.
        deadline: of `time.monotonic`, after which nothing begins; None for no limit.
    """

    def __init__(self, data: pathlib.Path, workers: int, deadline: float | None):
        self.data, self.workers, self.deadline = data, workers, deadline
        self.runs = Runs(RUNS, data, workers, pinned=True, run=run, others=OTHERS)

    def make(self, methods: Iterable[str], scale: str) -> None:
        """Tunes and runs those that fit into what is left of the budget, several at a time."""
        task.prepare(SETTINGS[scale], self.data)
        with concurrent.futures.ThreadPoolExecutor(self.workers) as pool:
            jobs = [pool.submit(self._make, name, scale) for name in methods]
        for job in jobs:
            job.result()

    def _make(self, method: str, scale: str) -> None:
        if not self._fits(method, scale):
            return
        setting = SETTINGS[scale]
        numbers = tune(self.runs, method, setting, None, tuned_numbers(method))
        losses = self.runs.losses(method, setting, [numbers], SEEDS, "reported")
        line = {"scale": scale, "method": method, "numbers": numbers, "reported": losses}
        with _lock, FOUND.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(f"== {scale}: {method} {numbers} {statistics.mean(losses):.4f}", flush=True)

    def _fits(self, method: str, scale: str) -> bool:
        if self.deadline is None:
            return True
        records = list(self.runs.records.values())
        seconds = expected_runs(records, scale, method) * seconds_per_run(records, scale)
        fits = time.monotonic() + seconds <= self.deadline
        if not fits:
            print(f"-- {scale}: {method} needs about {seconds / 60:.0f} minutes: not begun")
        return fits


def _key(scale: str) -> dict[str, Any]:
    """How runs' lines name the setting."""
    return SETTINGS[scale].key


def tuned_numbers(method: str) -> tuple[str, ...]:
    """What is searched: the learning rate, and the momentum of what has one."""
    return tuple(name for name in METHODS[method].start if name in TUNED)


def expected_runs(records: Iterable[Mapping[str, Any]], scale: str, method: str) -> int:
    """Runs that a method still needs, if the best is a step of the grid from where it starts."""
    setting = _key(scale)
    done = sum(one["method"] == method and one["setting"] == setting for one in records)
    # The start; two neighbours and one more for every number.
    return max(1 + 3 * len(tuned_numbers(method)) + len(SEEDS) - done, len(SEEDS))


def seconds_per_run(records: Iterable[Mapping[str, Any]], scale: str) -> float:
    """The median of those that were timed at a scale."""
    setting = _key(scale)
    known = [one["seconds"] for one in records if "seconds" in one and one["setting"] == setting]
    return statistics.median(known) if known else FIRST_GUESS[scale]


def read_runs() -> list[dict[str, Any]]:
    """All runs that count here."""
    return [line for file in (*OTHERS, RUNS) if file.exists() for line in read_lines(file)]


def read_tuned() -> dict[tuple[str, str], dict[str, Any]]:
    """What was found; a method's last line counts."""
    lines = read_lines(FOUND) if FOUND.exists() else []
    return {(line["scale"], line["method"]): line for line in lines}


def missing_methods(evidence: Losses, scale: str, tuned: Tuned) -> list[str]:
    """Those without a result at a scale."""
    return [name for name in evidence.methods if (scale, name) not in tuned]


def outcomes(evidence: Losses, scale: str, tuned: Tuned) -> list[Outcome]:
    """Of every comparison at one scale; of equal seeds, so of equal weights and batches."""
    return [_outcome(one, scale, tuned) for one in evidence.comparisons]


def _outcome(comparison: Comparison, scale: str, tuned: Tuned) -> Outcome:
    margin = f" + {comparison.margin:g}" if comparison.margin else ""
    what = f"{comparison.lower} < {comparison.higher}{margin}"
    pair = [tuned.get((scale, name)) for name in (comparison.lower, comparison.higher)]
    if None in pair:
        return Outcome(what, "–", NOT_RUN)
    lower, higher = (line["reported"] for line in pair)
    apart = [a - b for a, b in zip(lower, higher, strict=True)]
    mean, half = statistics.mean(apart), interval(apart)
    here = f"{mean:+.3f} ± {half:.3f}"
    return Outcome(what, here, below(mean - half, mean + half, comparison.margin))


def loss_rows(evidence: Losses, scale: str, tuned: Tuned, sizes: Mapping[str, float]) -> list:
    """Method, bytes an entry, tuned numbers and loss of those with a result, the best first."""
    found = [tuned[scale, name] for name in evidence.methods if (scale, name) in tuned]
    return [
        (
            line["method"],
            f"{sizes[line['method']]:.2f}",
            _numbers(line["numbers"], tuned_numbers(line["method"])),
            f"{statistics.mean(line['reported']):.3f} ± {interval(line['reported']):.3f}",
        )
        for line in sorted(found, key=lambda line: statistics.mean(line["reported"]))
    ]


def _numbers(numbers: Numbers, names: Iterable[str]) -> str:
    return ", ".join(f"{name} {numbers[name]:g}" for name in names)


def bytes_per_entry(scale: str, runs: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Of every method that ran at a scale."""
    setting = _key(scale)
    return {one["method"]: one["bytes_per_entry"] for one in runs if one["setting"] == setting}
