"""diagnostics.png: what was measured of every matrix, as heat maps over layers and steps."""

import math
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from training.reports.plots import Records, write_png

# Rows that can have a label each.
MOST_LABELS = 48

# Rows from top to bottom, as a block computes them; other matrices follow.
KINDS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class _Quantity(NamedTuple):
    title: str
    scale: str  # "share" of 0 to 1, or "log"
    colours: str


QUANTITIES = {
    "captured_energy": _Quantity("captured energy of the gradient", "share", "viridis"),
    "subspace_overlap": _Quantity("subspace overlap with the last look", "share", "magma"),
    "update_rms": _Quantity("RMS of the update", "log", "cividis"),
}


def plot_diagnostics(records: Records, path: epath.PathLike, title: str) -> None:
    """Draws a heat map per quantity as a PNG: a row per matrix, by kind and then by layer; a column
    a look, of which there is at least one."""
    names = [name for name in QUANTITIES if any(record.get(name) for record in records)]
    matrices = sorted(records[-1]["update_rms"].items(), key=_place)
    sizes = {path: len(values) for path, values in matrices}
    rows, labels = sum(sizes.values()), row_labels(sizes)
    height = min(14.0, max(3.0, 1.4 + 0.17 * rows))
    figure = Figure(figsize=(1.6 + 3.9 * len(names), height), dpi=120, layout="constrained")
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        image = _draw(axes, records, name, sizes)
        figure.colorbar(image, ax=axes, pad=0.02, fraction=0.06, aspect=max(20, 6 * height))
    panels[0].set_yticks([row + 0.5 for row in labels], list(labels.values()), fontsize=7)
    panels[0].set_ylim(rows, 0)  # the first layer on top
    panels[0].set_ylabel("matrix and layer")
    figure.suptitle(title)
    write_png(figure, path)


def _place(matrix: tuple[str, Any]) -> int:
    name = short_name(matrix[0])
    return KINDS.index(name) if name in KINDS else len(KINDS)


def _draw(axes: Axes, records: Records, name: str, sizes: dict[str, int]) -> Any:
    """One heat map."""
    title, scale, colours = QUANTITIES[name]
    table = np.stack([_column(record.get(name) or {}, sizes) for record in records], axis=1)
    axes.set_facecolor("0.85")  # of what was not measured
    image = axes.pcolormesh(
        _edges([record["step"] for record in records]),
        np.arange(len(table) + 1),
        np.ma.masked_invalid(table),
        cmap=colours,
        norm=_norm(table, scale),
    )
    for end in np.cumsum(list(sizes.values()))[:-1]:
        axes.axhline(end, color="white", linewidth=1.5)
    axes.set_xlabel("step")
    axes.set_title(title, fontsize=10)
    axes.locator_params("x", integer=True, nbins=5)
    return image


def _norm(table: np.ndarray, scale: str) -> Normalize:
    """Colours over all of a share, and over the orders of magnitude of a size."""
    positive = table[np.isfinite(table) & (table > 0)]
    if scale == "share" or not len(positive):
        return Normalize(0, 1)
    low, high = positive.min(), positive.max()
    return LogNorm(low, high if high > low else 2 * low)


def _column(values: dict[str, list[float | None]], sizes: dict[str, int]) -> np.ndarray:
    """One look at all matrices, NaN where nothing was measured."""
    columns = [values.get(kind, [None] * size) for kind, size in sizes.items()]
    return np.concatenate([np.array(column, float) for column in columns])


def _edges(steps: list[int]) -> np.ndarray:
    """Borders between the columns: halfway between looks, the same beyond the first and last."""
    middles = np.array(steps, float)
    if len(steps) == 1:
        return middles[0] + np.array([-0.5, 0.5])
    around = np.pad(middles, 1, mode="reflect", reflect_type="odd")
    return (around[1:] + around[:-1]) / 2


def row_labels(sizes: dict[str, int]) -> dict[int, str]:
    """Row -> label, kind and layer, for as many rows as can have one: every k-th where more.

    The sizes are numbers of matrices, by a parameter's path.

    >>> row_labels({"layers/mlp/up_proj/kernel": 2, "head/kernel": 1})
    {0: 'up_proj 0', 1: 'up_proj 1', 2: 'head'}
    """
    every = math.ceil(sum(sizes.values()) / MOST_LABELS)
    labels, start = {}, 0
    for path, size in sizes.items():
        kind = short_name(path)
        # Not so near to the end that it would touch the next kind's first.
        for layer in range(0, max(1, size - every + 1), every):
            labels[start + layer] = f"{kind} {layer}" if size > 1 else kind
        start += size
    return labels


def short_name(path: str) -> str:
    """The part of a parameter's path that says what it is.

    >>> short_name("layers/attention/q_proj/kernel")
    'q_proj'
    """
    parts = path.split("/")
    return parts[-2] if parts[-1] in ("kernel", "embedding") and len(parts) > 1 else parts[-1]
