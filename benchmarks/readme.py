"""Writes the tables of README.md from the JSON that the benchmarks wrote.

Run from the repository's root: ``python -m benchmarks.readme``.
"""

from collections.abc import Callable
from typing import Any

from benchmarks import dct as transform
from benchmarks import optimizers, subspaces, svd, trade_offs
from benchmarks.pages import ROOT, fill, read_results
from benchmarks.timing import markdown_table
from training.results import caption
from training.results import markdown_table as comparison_table


def compare(results: dict[str, Any]) -> str:
    """The comparison at equal tokens, and the command that made it."""
    return f"{comparison_table(results['runs'])}\n{caption(results)}"


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
    "compare": compare,
    "trade_offs": lambda results: "\n\n".join(
        trade_offs.table(study, rows) for study, rows in results["studies"].items()
    ),
    "subspaces": lambda results: subspaces.table(results, "gradient"),
    "optimizers": lambda results: "\n\n".join(
        optimizers.table(result) for result in results["ranks"]
    ),
    "svd": svd.table,
    "dct": dct,
}


def render(readme: str) -> str:
    """The README with every section between its markers made anew."""
    return fill(readme, {name: table(read_results(name)) for name, table in SECTIONS.items()})


def main() -> None:
    """Rewrites README.md."""
    path = ROOT / "README.md"
    path.write_text(render(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
