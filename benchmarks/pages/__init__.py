"""Pages whose tables are made from the JSON that benchmarks wrote."""

import json
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.record import RESULTS, ROOT
from benchmarks.tables import Table, captioned_tables

DOCS = ROOT / "docs"
CLAIMS, SCALE = "papers.md", "toy"
"""The page of the papers' claims, and which of its scales most pages quote."""


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


def tuned_in_claims(scale: str = SCALE) -> Table:
    """The methods that the papers' claims tuned at one scale, as their tables of losses together.

    Raises:
      SystemExit: if a method has several results, or none has any.
    """
    header: list[str] = []
    rows: dict[str, list[str]] = {}
    text = (DOCS / CLAIMS).read_text(encoding="utf-8")
    for caption, (names, *lines) in captioned_tables(text):
        if caption == tuned_caption(scale):
            header = names
            for line in lines:
                if rows.setdefault(line[0], line) != line:
                    raise SystemExit(f"{CLAIMS} has two results of {line[0]}")
    if not rows:
        raise SystemExit(f"{CLAIMS} has no table {tuned_caption(scale)!r}")
    return [header, *rows.values()]


def tuned_caption(scale: str) -> str:
    """What stands above a table of tuned methods in docs/papers.md."""
    return f"Tuned, at {scale} scale:"


def rewrite(path: pathlib.Path, render: Callable[[str], str]) -> None:
    """Makes a page's sections anew where it stands."""
    path.write_text(render(path.read_text(encoding="utf-8")), encoding="utf-8")
