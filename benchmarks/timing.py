"""Fair timing of several compiled functions in one run, and a record of where it was made."""

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
from typing import Any

import jax
import jaxlib
import optax

SHORTEST_SAMPLE = 2e-3
"""Seconds that one sample lasts at least, far above the clock's and the dispatch's jitter."""


def interleaved_seconds(
    functions: Mapping[str, Callable[[], Any]], repeats: int = 11
) -> dict[str, list[float]]:
    """Times the functions in turn, `repeats` rounds, so that a disturbance hits all alike.

    Args:
        functions: name to function without arguments, already compiled.
        repeats: number of rounds.

    Returns:
        Name to seconds per call, one number a round. Quick functions are called several
        times within a round and averaged.
    """
    calls = {name: _calls_per_sample(function) for name, function in functions.items()}
    samples: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            samples[name].append(_seconds(function, calls[name]))
    return samples


def median(samples: Sequence[float]) -> float:
    """The median of a function's samples, in seconds."""
    return statistics.median(samples)


def ratio(samples: Mapping[str, Sequence[float]], slower: str, faster: str) -> float:
    """How many times as long `slower` takes: the median over rounds of the round's ratio."""
    pairs = zip(samples[slower], samples[faster], strict=True)
    return statistics.median(a / b for a, b in pairs)


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
        "git_commit": _git_commit(),
        "command": shlex.join(["python", *sys.orig_argv[1:]]),
    }


def write_json(path: pathlib.Path, results: Mapping[str, Any]) -> None:
    """Writes the results with the environment they were made in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {"environment": environment(), **results}
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


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


def _seconds(function: Callable[[], Any], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        jax.block_until_ready(function())
    return (time.perf_counter() - start) / calls


def _calls_per_sample(function: Callable[[], Any]) -> int:
    _seconds(function, 1)
    return max(1, math.ceil(SHORTEST_SAMPLE / _seconds(function, 1)))


def _git_commit() -> str | None:
    """The commit, with "+" after it where files differ from it; None outside a repository."""
    folder = pathlib.Path(__file__).parent
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=True
        ).stdout.strip()
        changes = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+" if changes else "")
