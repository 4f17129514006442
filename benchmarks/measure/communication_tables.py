"""The results of `benchmarks.measure.communication` as Markdown tables."""

from collections.abc import Sequence
from typing import Any

from benchmarks.tables import markdown_table


def total(row: dict[str, Any], when: str = "every_step") -> int:
    """Bytes of all kinds."""
    return sum(kind["bytes"] for kind in row[when].values())


def table(results: dict[str, Any], axes: str) -> str:
    """Bytes per step of every method in every layout; "+" what a refresh adds."""
    rows = [row for row in results["updates"] if row["axes"] == axes]
    cells = {(row["method"], row["layout"]): _cell(row) for row in rows}
    methods = list(dict.fromkeys(row["method"] for row in rows))
    layouts = list(dict.fromkeys(row["layout"] for row in rows))
    return markdown_table(
        (f"{axes} axes: bytes", *layouts),
        [(f"`{m}`", *(cells.get((m, layout), "–") for layout in layouts)) for m in methods],
    )


def kinds_table(results: dict[str, Any], methods: Sequence[str], axes: str) -> str:
    """The collectives of some methods by kind."""
    rows = [
        (f"`{row['method']}`", row["layout"], _kinds(row["every_step"]))
        for row in results["updates"]
        if row["axes"] == axes and row["method"] in methods and "error" not in row and total(row)
    ]
    return markdown_table((f"{axes} axes", "layout", "every step: count × kind (bytes)"), rows)


def sync_table(results: dict[str, Any]) -> str:
    """`sync="low_rank"` against averaging the gradient."""
    rows = [
        (
            f"`{row['method']}`",
            f"{row['gradient']:,}",
            f"{total(row):,}",
            f"{total(row) / row['gradient']:.3f}",
            _kinds(row["every_step"]),
        )
        for row in results["sync"]
    ]
    header = ("", "gradient all-reduce", 'sync="low_rank"', "share", "count × kind (bytes)")
    return markdown_table(header, rows)


def _cell(row: dict[str, Any]) -> str:
    if "error" in row:
        return row["error"]
    mark = " =" if row["formula"] == total(row) else ""
    refresh = f" + {total(row, 'refresh'):,}" if row["refresh"] else ""
    return f"{total(row):,}{mark}{refresh}"


def _kinds(kinds: dict[str, dict[str, int]]) -> str:
    return ", ".join(f"{v['count']} × {kind} ({v['bytes']:,})" for kind, v in kinds.items())
