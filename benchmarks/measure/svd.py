"""How much faster are the approximate right singular subspaces than the exact SVD?

Run from the repository's root: ``python -m benchmarks.measure.svd``. Prints a table and writes
benchmarks/results/svd.json.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax

from benchmarks.record import begin, command_line, write_json
from benchmarks.tables import markdown_table
from benchmarks.timing import Spread, interleaved_seconds, median, ratio
from lowrank_optax.linalg.singular import right_singular_vectors

METHODS = ("exact", "gram", "randomized")
SHAPES = ((512, 512), (1024, 512), (2048, 512), (2048, 1024))
RANK_FRACTION = 1 / 4


def programs(m: int, n: int) -> dict[str, Callable[[], Any]]:
    """The r leading right singular vectors of one random matrix, by every method, compiled."""
    A = jax.random.normal(jax.random.key(0), (m, n))
    compiled = {}
    for method in METHODS:
        function = functools.partial(
            right_singular_vectors, count=round(RANK_FRACTION * n), method=method
        )
        program = jax.jit(lambda A, key, function=function: function(A, key=key)).lower(
            A, jax.random.key(1)
        )
        compiled[method] = functools.partial(program.compile(), A, jax.random.key(1))
    return compiled


def measure(m: int, n: int, rounds: int) -> dict[str, Any]:
    """Times every method on one random matrix."""
    samples = interleaved_seconds(programs(m, n), rounds)
    return {
        "m": m,
        "n": n,
        "median_seconds": {method: median(values) for method, values in samples.items()},
        "exact_over": {method: ratio(samples, "exact", method) for method in METHODS},
        "seconds": samples,
    }


def table(results: dict[str, Any]) -> str:
    """Milliseconds of the exact SVD, and how many times faster the others are."""
    header = ("m × n", "exact, ms", "gram: times faster", "randomized: times faster")
    rows = [
        (
            f"{row['m']} × {row['n']}",
            f"{1e3 * row['median_seconds']['exact']:.0f}",
            *(f"{Spread(*row['exact_over'][method]):.1f}" for method in ("gram", "randomized")),
        )
        for row in results["shapes"]
    ]
    return markdown_table(header, rows)


def main() -> None:
    """Measures, prints and writes."""
    arguments = begin(command_line(__doc__, "svd"))
    results = {"shapes": [measure(m, n, arguments.rounds) for m, n in SHAPES]}
    print(table(results))
    write_json(arguments.out, results, arguments.commit)


if __name__ == "__main__":
    main()
