"""The specifications of a tree's leaves as a table."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lowrank_optax.core.matrices import MatrixSpec


@dataclasses.dataclass(frozen=True)
class SpecTable:
    """The specification of every leaf of a tree, in `jax.tree.leaves` order; prints as a table.

    Attributes:
      paths: "/"-joined paths of the leaves.
      shapes: their shapes.
      specs: their specifications, None for a leaf that is not a matrix.
      reasons: why a leaf is not a matrix, "" for one that is.
      num_bytes: of the leaves themselves; `memory_report` tells those of their state.
    """

    paths: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    specs: "tuple[MatrixSpec | None, ...]"
    reasons: tuple[str, ...]
    num_bytes: tuple[int, ...]

    def __iter__(self) -> "Iterator[MatrixSpec | None]":
        return iter(self.specs)

    def __str__(self) -> str:
        header = ("path", "shape", "view (b, n, m)", "compressed", "rank", "bytes")
        rows = [(*header, "not a matrix because")]
        for path, shape, spec, reason, size in zip(
            self.paths, self.shapes, self.specs, self.reasons, self.num_bytes, strict=True
        ):
            view, side, rank = "-", "-", "-"
            if spec is not None:
                view = str((math.prod(spec.batch), spec.n, spec.m))
                side, rank = spec.side, str(spec.rank)
            rows.append((path, str(shape), view, side, rank, f"{size:,}", reason))
        return format_table(rows)


def format_table(rows: Sequence[Sequence[str]]) -> str:
    """Align rows of text in columns, the first row being the header."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])
