"""Markdown tables, written and read again."""

import re
from collections.abc import Iterator, Sequence

Table = list[list[str]]
"""Rows of cells; the first is the header."""


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


def captioned_tables(text: str) -> Iterator[tuple[str, Table]]:
    """The Markdown tables in a text, each with the line above it, or ""."""
    for caption, lines in re.findall(r"(?:^(.*)\n\n)?((?:^\|.*\n?)+)", text, re.MULTILINE):
        rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in lines.splitlines()]
        yield caption, [rows[0], *rows[2:]]
