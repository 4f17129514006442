"""How fast is each method of the orthonormal DCT, beside jax.scipy.fft, and where do they cross?

Run from the repository's root: ``python -m benchmarks.measure.dct``. Prints a table of milliseconds
and writes benchmarks/results/dct.json.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax

from benchmarks.record import begin, command_line, write_json
from benchmarks.tables import markdown_table
from benchmarks.timing import Spread, interleaved_seconds, median, ratio
from lowrank_optax import orthogonal_dct, orthogonal_idct
from lowrank_optax.linalg.dct import choose_method

SIZES = (64, 128, 256, 512, 1024, 2048, 4096, 8192)
METHODS = ("fft", "factored", "matmul")
DTYPES = ("float32", "bfloat16")
ENTRIES = 2**20
MOST_ROWS = 1024


def candidates(n: int) -> dict[str, tuple[Callable[[jax.Array], jax.Array], str]]:
    """Name to (transform, dtype) of everything that is timed at length n."""
    scipy = {
        "dct jax.scipy float32": jax.scipy.fft.dct,
        "idct jax.scipy float32": jax.scipy.fft.idct,
    }
    functions = {
        name: (functools.partial(function, type=2, norm="ortho", axis=-1), "float32")
        for name, function in scipy.items()
    }
    for kind, transform in (("dct", orthogonal_dct), ("idct", orthogonal_idct)):
        for dtype in DTYPES:
            for method in METHODS:
                name = f"{kind} {method} {dtype}"
                functions[name] = (functools.partial(transform, method=method), dtype)
    return functions


def measure(n: int, rounds: int) -> dict[str, Any]:
    """Times all candidates at one length, interleaved."""
    rows = min(MOST_ROWS, ENTRIES // n)
    x = jax.random.normal(jax.random.key(n), (rows, n))
    programs = {}
    for name, (function, dtype) in candidates(n).items():
        argument = x.astype(dtype)
        compiled = jax.jit(function).lower(argument).compile()
        programs[name] = functools.partial(compiled, argument)
    samples = interleaved_seconds(programs, rounds)
    return {
        "n": n,
        "rows": rows,
        "auto": dict.fromkeys(DTYPES, choose_method(n, jax.default_backend(), last=True)),
        "median_seconds": {name: median(values) for name, values in samples.items()},
        "seconds": samples,
    }


def speedup(result: dict[str, Any], kind: str) -> Spread:
    """How many times as long jax.scipy.fft takes as our FFT at one length."""
    return ratio(result["seconds"], f"{kind} jax.scipy float32", f"{kind} fft float32")


def table(results: list[dict[str, Any]], kind: str) -> str:
    """Milliseconds of one transform at every length, by method and dtype."""
    columns = ["jax.scipy float32"] + [f"{m} {d}" for d in DTYPES for m in METHODS]
    header = ["n", "rows", *columns, "jax.scipy / fft", "auto float32", "auto bfloat16"]
    rows = [
        [
            result["n"],
            result["rows"],
            *(f"{1e3 * result['median_seconds'][f'{kind} {c}']:.2f}" for c in columns),
            f"{speedup(result, kind):.2f}",
            *(result["auto"][dtype] for dtype in DTYPES),
        ]
        for result in results
    ]
    return markdown_table(header, rows)


def main() -> None:
    """Measures, prints and writes."""
    parser = command_line(__doc__, "dct")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="lengths n")
    arguments = begin(parser)
    results = [measure(n, arguments.rounds) for n in arguments.sizes]
    for kind, title in (("dct", "DCT-II"), ("idct", "Inverse DCT-II")):
        print(f"\n{title}, median milliseconds\n\n{table(results, kind)}")
    write_json(arguments.out, {"results": results}, arguments.commit)
    print(f"\nwritten to {arguments.out}")


if __name__ == "__main__":
    main()
