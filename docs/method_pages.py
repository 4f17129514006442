"""One page a method: its docstring, its line of the README, and its rows of every table of results.

The tables are read off the pages that `benchmarks` generates, so that a figure stands in one place.
"""

import pathlib
import re
from collections.abc import Iterator

DOCS = pathlib.Path(__file__).parent
MEASURED = {
    "recipes.md": {
        "main": "At the best rates found, width 128, 300 steps",
        "width 64": "The same at width 64",
        "width 256": "The same at width 256",
        "long": "The same at width 64, 1000 steps",
        "large batch": "The same at width 64, batches four times as large",
    },
    "results.md": {
        "compare": "At the best rates found, 500 steps",
        "optimizers": "Time and memory of one update",
    },
    "training.md": {"finetuning": "Fine-tuning"},
    "sharding.md": {
        "auto": "What one update sends, `Auto` axes",
        "explicit": "What one update sends, `Explicit` axes",
        "sync": "Averaging low-rank arrays in place of gradients",
    },
}
"""Page to section of generated tables to what it shows."""
ALSO = {"trion": "scale_by_trion", "dion": "scale_by_dion"}
"""The building block that a method is documented together with."""
Table = list[list[str]]


def write(folder: pathlib.Path) -> None:
    """Writes the page of every method of the README's table, where it has changed."""
    for name, line in methods().items():
        path, page = folder / f"{name}.md", render(name, line)
        # An older file lets Sphinx read the page again.
        if not path.exists() or path.read_text(encoding="utf-8") != page:
            path.write_text(page, encoding="utf-8")


def methods() -> dict[str, tuple[str, ...]]:
    """Of every method of the README's table what it does, its state, its rate and its paper."""
    found = {}
    readme = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    _, (_, *lines) = next(captioned(readme.partition("## Methods")[2]))
    for names, does, state, rate, paper in lines:
        rates = rate.split(", ")
        for i, name in enumerate(re.findall(r"`(\w+)`", names)):
            found[name] = (does, state, rates[min(i, len(rates) - 1)], paper)
    return found


def render(name: str, line: tuple[str, ...]) -> str:
    """The page of one method."""
    does, state, rate, paper = line
    paper = paper.replace("(docs/", "(../")
    page = [
        f"# {name}",
        f"{does[0].upper()}{does[1:]} ({paper}). State of an m × n matrix, n the smaller side: "
        f"{state} numbers. A learning rate to start from: {rate}.",
    ]
    for function in filter(None, (name, ALSO.get(name))):
        page.append(f"```{{eval-rst}}\n.. autofunction:: lowrank_optax.{function}\n```")
    page.append("## Measured")
    measured = [*measurements(name)]
    page += measured or ["Nothing was measured of this method yet but that it does what it says."]
    return "\n\n".join(page) + "\n"


def measurements(name: str) -> Iterator[str]:
    """The method's rows of the generated tables, with AdamW's beside them."""
    for file, sections in MEASURED.items():
        page = (DOCS / file).read_text(encoding="utf-8")
        for section, title in sections.items():
            generated = re.search(rf"<!-- begin {section} -->(.*?)<!-- end", page, re.DOTALL)
            for caption, table in captioned(generated[1]) if generated else ():
                kept = rows_of(name, table)
                if kept:
                    yield f"{title}{caption and ', '}{caption} ([all of it](../{file})):"
                    yield markdown(kept)


def rows_of(name: str, table: Table) -> Table | None:
    """The header and the rows of a method, and AdamW's; or its columns if methods stand on top."""
    header, *rows = table
    if name in map(method_of, header):
        wanted = [i for i, cell in enumerate(header) if method_of(cell) in ("", "adamw", name)]
        return [[row[i] for i in wanted] for row in table]
    own = [row for row in rows if method_of(row[0]) == name]
    if not own:
        return None
    others = [row for row in rows if method_of(row[0]) == "adamw" != name]
    return [header, *others, *own]


def method_of(cell: str) -> str:
    """The method that a cell is about, by the first word in it."""
    word = re.match(r"`?(?:optax\.)?([\w.-]*)", cell.lower())
    return word[1].replace("-", "_") if word else ""


def captioned(text: str) -> Iterator[tuple[str, Table]]:
    """The Markdown tables in a text, without the line below the header, and the line above each."""
    for caption, lines in re.findall(r"(?:^(.*)\n\n)?((?:^\|.*\n?)+)", text, re.MULTILINE):
        rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in lines.splitlines()]
        yield caption, [rows[0], *rows[2:]]


def markdown(table: Table) -> str:
    """A table with its columns after the first aligned to the right."""
    rule = ["---", *["---:"] * (len(table[0]) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [table[0], rule, *table[1:]])
