"""One page a method: its line of the README, its docstring, and its rows of the tables of results.

`docs/conf.py` writes them where it builds the documents.
"""

import pathlib
import re
from collections.abc import Iterator
from typing import NamedTuple

from benchmarks.pages import CLAIMS, ROOT, generated, tuned_in_claims
from benchmarks.tables import Table, captioned_tables, markdown_table

MEASURED = {
    "recipes.md": {
        "main": "At the best rates found, width 128, 300 steps",
        "width 64": "The same at width 64",
        "one rate, width 128": "At one rate for embeddings and head too, width 128, 300 steps",
        "one rate": "The same at width 64",
        "width 256": "The same at width 256",
        "long": "The same at width 64, 1000 steps",
        "long, width 128": "The same at width 128, 1000 steps",
        "longer": "The same at width 64, 2000 steps",
        "large batch": "The same at width 64, batches four times as large",
        "small batch": "The same at width 64, batches a quarter as large, 600 steps",
        "fine-tuning": "Fine-tuning at width 64, the rate tuned",
        "arguments": "What two arguments change at width 64, embeddings at 0.003",
    },
    "results.md": {
        "optimizers": "Time and memory of one update",
        "winners": "Time and memory of one update, in another run",
    },
    "training.md": {"finetuning": "Fine-tuning"},
    "sharding.md": {
        "auto": "What one update sends, `Auto` axes",
        "explicit": "What one update sends, `Explicit` axes",
        "sync": "Averaging low-rank arrays in place of gradients",
    },
}
"""Page to section of generated tables to what it shows."""
TUNED = {
    "toy": "In the papers' comparisons, width 64, 300 steps, embeddings at 0.003",
    "toy fine-tuning": "In the papers' comparisons, fine-tuning at width 64, embeddings at 0.003",
}
"""Scale to what the methods of `tuned_in_claims` show there."""
ALIASES = {"osd": "online_subspace_descent"}
"""Names in tables to those of the library."""
ALSO = {"trion": "scale_by_trion", "dion": "scale_by_dion"}
"""The building block that a method is documented together with."""


class Line(NamedTuple):
    """What the README's table says of a method."""

    does: str
    state: str
    rate: str
    paper: str


def write(folder: pathlib.Path) -> None:
    """Writes the page of every method of the README's table, where it has changed."""
    for name, line in methods().items():
        path, page = folder / f"{name}.md", render(name, line)
        # Sphinx reads again what is newer than its last build.
        if not path.exists() or path.read_text(encoding="utf-8") != page:
            path.write_text(page, encoding="utf-8")


def methods() -> dict[str, Line]:
    """The methods of the README's table."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    _, (_, *rows) = next(captioned_tables(readme.partition("## Methods")[2]))
    found = {}
    for names, does, *cells in rows:
        # Of several methods in a line, a cell says one thing of all or one of each.
        each = [cell.split(", ") for cell in cells]
        for i, name in enumerate(re.findall(r"`(\w+)`", names)):
            found[name] = Line(does, *(parts[min(i, len(parts) - 1)] for parts in each))
    return found


def render(name: str, line: Line) -> str:
    """The page of one method."""
    paper = line.paper.replace("(docs/", "(../")
    page = [
        f"# {name}",
        f"{line.does[0].upper()}{line.does[1:]} ({paper}). A learning rate to start from: "
        f"{line.rate}.",
    ]
    for function in filter(None, (name, ALSO.get(name))):
        page.append(f"```{{eval-rst}}\n.. autofunction:: lowrank_optax.{function}\n```")
    measured = [*measurements(name)] or ["Its loss and its time were not measured yet."]
    return "\n\n".join([*page, "## Measured", *measured]) + "\n"


def measurements(name: str) -> Iterator[str]:
    """The method's rows of the generated tables, with AdamW's beside them."""
    for page, title, table in tables():
        if kept := rows_of(name, table):
            yield f"{title} ([all of it](../{page})):"
            yield markdown_table(kept[0], kept[1:])


def tables() -> Iterator[tuple[str, str, Table]]:
    """Page, title and content of every table that says something of methods."""
    for scale, title in TUNED.items():
        yield CLAIMS, title, tuned_in_claims(scale)
    for page, sections in MEASURED.items():
        for section, title in sections.items():
            for caption, table in captioned_tables(generated(page, section)):
                yield page, ", ".join(filter(None, (title, caption))), table


def rows_of(name: str, table: Table) -> Table | None:
    """The header and the rows of a method, and AdamW's; or its columns if methods stand on top."""
    header, *rows = table
    if not header[0] and name in map(method_of, header):
        wanted = [i for i, cell in enumerate(header) if method_of(cell) in ("", "adamw", name)]
        return [[row[i] for i in wanted] for row in table]
    own = [row for row in rows if method_of(row[0]) == name]
    if not own:
        return None
    return [header, *(row for row in rows if method_of(row[0]) == "adamw"), *own]


def method_of(cell: str) -> str:
    """The method that a cell of a table is about, by the first word in it.

    >>> method_of("`DCT-AdamW` (int8)"), method_of("optax.adamw")
    ('dct_adamw', 'adamw')
    """
    word = re.match(r"`?(?:optax\.)?([\w.-]*)", cell.lower())
    name = word[1].replace("-", "_") if word else ""
    return ALIASES.get(name, name)
