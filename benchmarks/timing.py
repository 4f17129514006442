"""Fair timing of several compiled functions in one run."""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

ROUNDS = 7
"""Rounds of a comparison at least: with fewer, one disturbance decides."""

SHORTEST_SAMPLE = 2e-3
"""Seconds that one sample lasts at least, far above the clock's and the dispatch's jitter."""


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
