"""Writes the tables of docs/results.md from the JSON that the benchmarks wrote.

Run from the repository's root: ``python -m benchmarks.pages.results``.
"""

from collections.abc import Callable
from typing import Any

from benchmarks.measure import dct as transform
from benchmarks.measure import optimizers, subspaces, svd
from benchmarks.pages import DOCS, RESULTS, fill, read_results, rewrite
from benchmarks.tables import markdown_table
from training.reports.results import caption
from training.reports.results import markdown_table as comparison_table

PAGE = DOCS / "results.md"
TIMES = ("| Training time", "| Tokens per second")


def compare(results: dict[str, Any]) -> str:
    """The comparison at equal tokens, and the command that made it.

    Without the times of training, which say how busy the machine was.
    """
    rows = comparison_table(results["runs"]).splitlines(keepends=True)
    kept = "".join(row for row in rows if not row.startswith(TIMES))
    return f"{kept}\n{caption(results)}"


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


def provenance() -> str:
    """Which commit made each of the results, and whether what ran was that commit's code."""
    rows = []
    for path in sorted(RESULTS.rglob("*.json")):
        name = path.relative_to(RESULTS)
        results = read_results(str(name.with_suffix("")))
        made = results.get("environment", results)
        commit = made["git_commit"]
        if "provenance" in results:
            note = "an uncommitted snapshot; the commit only read its runs"
        else:
            note = "with changes that no commit holds" if commit.endswith("+") else "yes"
        rows.append((f"`{name}`", f"`{commit[:7]}`", note))
    return markdown_table(("result", "commit", "is what ran"), rows)


SECTIONS: dict[str, Callable[[dict[str, Any]], str]] = {
    "compare": compare,
    "subspaces": lambda results: subspaces.table(results, "gradient"),
    "optimizers": lambda results: "\n\n".join(
        optimizers.table(result) for result in results["ranks"]
    ),
    "svd": svd.table,
    "dct": dct,
}


def render(page: str) -> str:
    """The page with every section between its markers made anew."""
    sections = {name: table(read_results(name)) for name, table in SECTIONS.items()}
    return fill(page, sections | {"provenance": provenance()})


def main() -> None:
    """Rewrites docs/results.md."""
    rewrite(PAGE, render)


if __name__ == "__main__":
    main()
