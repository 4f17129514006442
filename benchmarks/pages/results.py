"""Writes the tables of docs/results.md from the JSON that the benchmarks wrote.

The last one, of what made them, is written by `benchmarks.pages.stale`.

Run from the repository's root: ``python -m benchmarks.pages.results``.
"""

from collections.abc import Callable
from typing import Any

from benchmarks.measure import blocks, optimizers, subspaces, svd
from benchmarks.measure import dct as transform
from benchmarks.pages import DOCS, fill, read_results, rewrite
from benchmarks.tables import markdown_table

PAGE = DOCS / "results.md"


def dct(results: dict[str, Any]) -> str:
    """Speed of the transform against jax.scipy.fft."""
    rows = [
        (
            length["n"],
            *(f"{transform.speedup(length, kind):.1f}" for kind in ("dct", "idct")),
        )
        for length in results["results"]
        if length["n"] >= 1024
    ]
    header = ("n", "DCT-II: times faster", "inverse: times faster")
    return f"{markdown_table(header, rows)}\n"


SECTIONS: dict[str, Callable[[dict[str, Any]], str]] = {
    "subspaces": lambda results: subspaces.table(results, "gradient"),
    "blocks": blocks.table,
    "optimizers": lambda results: "\n\n".join(
        optimizers.table(result) for result in results["ranks"]
    ),
    # At their own ranks, whichever the table says.
    "winners": lambda results: optimizers.table(results["ranks"][0]).partition("\n\n")[2],
    "svd": svd.table,
    "dct": dct,
}


def render(page: str) -> str:
    """The page with every section between its markers made anew."""
    return fill(page, {name: table(read_results(name)) for name, table in SECTIONS.items()})


def main() -> None:
    """Rewrites docs/results.md."""
    rewrite(PAGE, render)


if __name__ == "__main__":
    main()
