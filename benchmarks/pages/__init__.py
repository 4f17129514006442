"""Pages whose tables are made from the JSON that benchmarks wrote, and those tables read again."""

import json
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

ROOT = pathlib.Path(__file__).parents[2]
DOCS = ROOT / "docs"
RESULTS = ROOT / "benchmarks" / "results"

Table = list[list[str]]
"""Rows of cells; the first is the header."""


def read_results(name: str) -> dict[str, Any]:
    """What the benchmark of that name wrote."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def fill(page: str, sections: Mapping[str, str]) -> str:
    """The page with every section between its markers made anew.

    Args:
      page: Markdown with one pair ``<!-- begin NAME -->``, ``<!-- end NAME -->`` per section.
      sections: their content by name.

    Raises:
      SystemExit: if a section has no place in the page, or several.
    """
    for name, section in sections.items():
        block = f"<!-- begin {name} -->\n{section.strip()}\n<!-- end {name} -->"
        pattern = rf"<!-- begin {name} -->.*?<!-- end {name} -->"
        page, count = re.subn(pattern, lambda _, block=block: block, page, flags=re.DOTALL)
        if count != 1:
            raise SystemExit(f"the page has {count} sections named {name}; it needs exactly one")
    return page


def generated(page: str, section: str) -> str:
    """What stands between the markers of a section of a page in docs/; "" if it has none.

    A figure stands in one place: other pages quote the rows of the tables there.
    """
    text = (DOCS / page).read_text(encoding="utf-8")
    found = re.search(rf"<!-- begin {section} -->(.*?)<!-- end", text, flags=re.DOTALL)
    return found[1] if found else ""


def captioned_tables(text: str) -> Iterator[tuple[str, Table]]:
    """The Markdown tables in a text, each with the line above it, or ""."""
    for caption, lines in re.findall(r"(?:^(.*)\n\n)?((?:^\|.*\n?)+)", text, re.MULTILINE):
        rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in lines.splitlines()]
        yield caption, [rows[0], *rows[2:]]


def method_of(cell: str) -> str:
    """The method that a cell of a table is about, by the first word in it.

    >>> method_of("`DCT-AdamW` (int8)"), method_of("optax.adamw")
    ('dct_adamw', 'adamw')
    """
    word = re.match(r"`?(?:optax\.)?([\w.-]*)", cell.lower())
    return word[1].replace("-", "_") if word else ""
