"""Writes into docs/choosing.md the measured lines that its advice stands on, from the other pages.

Run from the repository's root, after the commands that write those: ``python -m
benchmarks.pages.choosing``.
"""

from collections.abc import Callable, Sequence

from benchmarks.pages import CLAIMS, DOCS, fill, generated, rewrite, tuned_in_claims
from benchmarks.tables import Table, captioned_tables, markdown_table

PAGE = DOCS / "choosing.md"


def quote(
    page: str,
    section: str,
    columns: Sequence[str],
    rows: Sequence[str] = (),
    *,
    caption: str = "",
    by: str | None = None,
) -> str:
    """Some rows and columns of a generated table.

    Args:
      page: in docs/.
      section: of it.
      columns: headers of those to quote.
      rows: first cells of those to quote, without backticks, in this order; () for all.
      caption: what the line above the table says, where the section has several.
      by: header of the column of numbers to sort by, largest first.

    Raises:
      SystemExit: if something of it is not in the table any more.
    """
    found = [
        table for above, table in captioned_tables(generated(page, section)) if caption in above
    ]
    if len(found) != 1:
        raise SystemExit(f"{page} has {len(found)} tables {caption!r} in {section}, not one")
    header, *lines = found[0]
    if by is not None:
        lines = sorted(lines, key=lambda line: -float(line[header.index(by)]))
    return select([header, *lines], columns, rows, f"{page} has no {{}} in {section} any more")


def select(table: Table, columns: Sequence[str], rows: Sequence[str], otherwise: str) -> str:
    """These columns and rows, or all rows, as Markdown.

    Raises:
      SystemExit: if one is not in the table, saying `otherwise` with a place for its name.
    """
    header, *lines = table
    by_name = {line[0].strip("`"): line for line in lines}
    if missing := ({*columns} - {*header}) | ({*rows} - {*by_name}):
        raise SystemExit(f"{otherwise.format(sorted(missing))}; quote others")
    at = [header.index(column) for column in columns]
    kept = [by_name[name] for name in rows] if rows else lines
    return markdown_table(columns, [[line[i] for i in at] for line in kept])


SECTIONS: dict[str, Callable[[], str]] = {
    "budget": lambda: quote(
        "recipes.md",
        "one rate, width 128",
        ("method", "bytes per entry", "validation loss", "above muon at one rate", "tuned"),
        by="bytes per entry",
    ),
    "more": lambda: quote(
        "recipes.md",
        "main",
        ("method", "bytes per entry", "validation loss", "above muon", "tuned"),
        by="bytes per entry",
    ),
    "time": lambda: quote(
        "results.md",
        "optimizers",
        ("method", "this / adamw", "temporary MB", "state MB"),
        (
            "optax.adamw",
            "dct_adamw (no feedback)",
            "frugal (dct)",
            "fira (dct)",
            "golore",
            "galore",
            "dct_adamw (int8)",
            "trion",
            "online_subspace_descent",
            "tandem (int4)",
            "dion",
            "ldadamw",
            "muon",
            "optax.contrib.muon",
        ),
        caption="rank 128",
    ),
    "winners": lambda: quote(
        "results.md", "winners", ("method", "this / adamw", "muon / this", "state MB")
    ),
    "tuning": lambda: quote(
        "training.md",
        "finetuning",
        ("optimizer", "rank", "learning rate", "exact match", "of AdamW's", "AdamW's / this"),
    ),
    "further": lambda: quote(
        "recipes.md",
        "fine-tuning",
        ("method", "bytes per entry", "tuned", "validation loss", "above muon at one rate"),
    ),
    "rates": lambda: select(
        tuned_in_claims(),
        ("method", "bytes per entry", "validation loss", "tuned"),
        (
            "adamw",
            *("dion 1/8", "dion 1/4", "dion 1/2", "trion 1/8", "trion 1/4", "trion 1/2"),
            *("galore 1/8", "galore 1/4", "galore 1/2", "galore 1/4, importance"),
            *("fira dct", "fira svd", "apollo 1/4", "frugal dct", "frugal svd"),
            *("dct_adamw", "ldadamw", "osd 1/8", "osd 1/4", "osd 1/2"),
        ),
        f"{CLAIMS} has no {{}} any more",
    ),
    "rank": lambda: quote(
        "recipes.md",
        "main",
        ("method", "bytes per entry", "tuned", "validation loss"),
        ("tandem n/2 int8", "tandem n/4 int8", "tandem n/16 int8", "adamw"),
    ),
    "interval": lambda: quote(
        "results.md",
        "optimizers",
        ("method", "this / adamw"),
        (
            "frugal (dct)",
            "frugal (dct), every step",
            "fira (dct)",
            "fira (dct), every step",
            "galore",
            "galore (gram), every step",
        ),
        caption="rank 128",
    ),
    "devices": lambda: quote(
        "sharding.md",
        "auto",
        ("Auto axes: bytes", "replicated", "rows", "columns", "zero"),
        ("trion", "dct_adamw", "golore", "galore", "dion (cholesky_qr)", "optax.contrib.muon"),
    ),
}


def render(page: str) -> str:
    """The page with every section between its markers made anew."""
    return fill(page, {name: section() for name, section in SECTIONS.items()})


def main() -> None:
    """Rewrites docs/choosing.md."""
    rewrite(PAGE, render)


if __name__ == "__main__":
    main()
