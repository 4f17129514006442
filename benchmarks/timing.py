"""Fair timing of several compiled functions in one run, and a record of where it was made."""

import argparse
import json
import math
import os
import pathlib
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jaxlib
import optax

ROUNDS = 7
"""Rounds of a comparison at least: with fewer, one disturbance decides."""

SHORTEST_SAMPLE = 2e-3
"""Seconds that one sample lasts at least, far above the clock's and the dispatch's jitter."""

RESULTS = pathlib.Path(__file__).parent / "results"
REPOSITORY = pathlib.Path(__file__).parents[1]
NOT_MEASURED = ("benchmarks/results", "*.md", "*.png")
"""What a benchmark itself writes, and pages made of it: changes there do not change a figure."""


class Spread(NamedTuple):
    """What rounds agree on, and how far they are apart.

    Attributes:
        median: over the rounds.
        low, high: the first and the third quartile.
    """

    median: float
    low: float
    high: float

    def __format__(self, number_format: str) -> str:
        """The median with its quartiles, each in the format of a number.

        >>> f"{Spread(3.04, 2.96, 3.2):.1f}"
        '3.0 (3.0–3.2)'
        """
        median, low, high = (format(value, number_format) for value in self)
        return f"{median} ({low}–{high})"


def interleaved_seconds(
    functions: Mapping[str, Callable[[], Any]], rounds: int = ROUNDS, *, queued: bool = False
) -> dict[str, list[float]]:
    """Times the functions in turn, `rounds` times, so that a disturbance hits all alike.

    Args:
        functions: name to function without arguments, already compiled.
        rounds: at least `ROUNDS`.
        queued: wait for the last call of a sample only. For accelerators, which work off one call
            after the other: waiting for each would time the host as well. A CPU may overlap them.

    Returns:
        Name to seconds per call, one number a round. Quick functions are called several
        times within a round and averaged.

    Raises:
        ValueError: too few rounds for a result.
    """
    check_rounds(rounds)
    calls = {name: _calls_per_sample(function, queued) for name, function in functions.items()}
    samples: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            samples[name].append(_seconds(function, calls[name], queued))
    return samples


def check_rounds(rounds: int) -> None:
    """Refuses a comparison of too few rounds.

    Raises:
        ValueError: naming the fewest.
    """
    if rounds < ROUNDS:
        raise ValueError(f"{rounds} rounds are too few for a result: give {ROUNDS} or more")


def median(samples: Sequence[float]) -> float:
    """The median of a function's samples, in seconds."""
    return statistics.median(samples)


def spread(samples: Sequence[float]) -> Spread:
    """Median and quartiles of samples, of which there are at least two.

    >>> spread([1.0, 2.0, 3.0, 4.0, 10.0])
    Spread(median=3.0, low=2.0, high=4.0)
    """
    low, middle, high = statistics.quantiles(samples, n=4, method="inclusive")
    return Spread(middle, low, high)


def ratio(samples: Mapping[str, Sequence[float]], slower: str, faster: str) -> Spread:
    """How many times as long `slower` takes: median and quartiles of the rounds' ratios.

    >>> ratio({"a": [2.0, 6.0, 4.0], "b": [1.0, 2.0, 2.0]}, "a", "b").median
    2.0
    """
    pairs = zip(samples[slower], samples[faster], strict=True)
    return spread([a / b for a, b in pairs])


def command_line(description: str, name: str) -> argparse.ArgumentParser:
    """The options that benchmarks share: --rounds, --out and --allow-dirty.

    Args:
        description: the module's docstring, whose first line is the question.
        name: of the JSON in benchmarks/results/ that --out is by default.
    """
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="interleaved, 7 or more")
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS / f"{name}.json")
    parser.add_argument(
        "--allow-dirty",
        action="store_true",
        help="measure files that no commit holds; the results say so",
    )
    return parser


def check_clean(allow_dirty: bool) -> None:
    """Refuses to measure code that no commit holds: nobody could measure it again.

    Raises:
        SystemExit: naming the files and the remedy.
    """
    changes = uncommitted_changes()
    if changes and not allow_dirty:
        raise SystemExit(
            "these files differ from the commit that the results would name:\n  "
            + "\n  ".join(changes)
            + "\ncommit them, or give --allow-dirty, which the results will tell"
        )


def environment() -> dict[str, Any]:
    """Device, versions, commit and command line, to be stored beside every figure."""
    return {
        "device_kind": jax.devices()[0].device_kind,
        "device_count": jax.device_count(),
        "backend": jax.default_backend(),
        "machine": platform.machine(),
        "cpu_count": os.cpu_count(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "optax": optax.__version__,
        "git_commit": git_commit(),
        "command": shlex.join(["python", *sys.orig_argv[1:]]),
    }


def write_json(path: pathlib.Path, results: Mapping[str, Any]) -> None:
    """Writes the results with the environment they were made in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {"environment": environment(), **results}
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def read_ratio(value: float | Sequence[float]) -> float | Spread:
    """A ratio out of a JSON: a spread, or the median alone where no samples had been kept."""
    return value if isinstance(value, float | int) else Spread(*value)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table, its columns aligned to the right."""
    cells = [[str(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = [
        "| " + " | ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in cells
    ]
    rule = "|" + "|".join("-" * (width + 1) + ":" for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def git_commit() -> str | None:
    """The commit, with "+" after it where code differs from it; None outside a repository."""
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return None
    return commit.strip() + ("+" if uncommitted_changes() else "")


def uncommitted_changes() -> list[str]:
    """Files of code that differ from the commit or are not in it; none outside a repository."""
    excluded = [f":(exclude){pattern}" for pattern in NOT_MEASURED]
    status = _git("status", "--porcelain", "--", ".", *excluded)
    return [] if status is None else [line[3:] for line in status.splitlines()]


def _git(*arguments: str) -> str | None:
    """What git prints; None where there is no git or no repository, as in an unpacked archive."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout


def _seconds(function: Callable[[], Any], calls: int, queued: bool) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        result = function()
        if not queued:
            jax.block_until_ready(result)
    jax.block_until_ready(result)
    return (time.perf_counter() - start) / calls


def _calls_per_sample(function: Callable[[], Any], queued: bool) -> int:
    _seconds(function, 1, queued)
    shortest = min(_seconds(function, 1, queued) for _ in range(2))
    return max(1, math.ceil(SHORTEST_SAMPLE / shortest))
