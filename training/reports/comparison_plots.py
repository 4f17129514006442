"""The curves of a report: losses of many runs, against tokens and against wall time."""

import math
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from training.reports.plots import COLOURS, smoothed

# Runs that can each have a colour and a line in the legend; of more, optimizers have.
MOST_COLOURED_RUNS = len(COLOURS)
DASHES = ("-", "--", ":")
# Points that a curve is drawn with, as many as the width shows.
MOST_POINTS = 600


class Curves(NamedTuple):
    """One run to draw."""

    name: str
    optimizer: str
    tokens_per_step: int
    records: list[dict[str, Any]]


class _Style(NamedTuple):
    colour: str
    dashes: str
    label: str


class _Quantity(NamedTuple):
    label: str
    smooth: bool


QUANTITIES = {
    "loss": _Quantity("training loss (nats per token)", True),
    "val_loss": _Quantity("validation loss (nats per token)", False),
    "val_bits_per_byte": _Quantity("validation bits per byte", False),
}


def draw_report(runs: list[Curves]) -> Figure:
    """Draws every quantity that a run has, in a row of two panels: against tokens and time.

    Args:
        runs: at least one, each with at least one record.
    """
    names = drawn_quantities(runs)
    styles = run_styles(runs)
    labels = list(dict.fromkeys(style.label for style in styles))
    columns = max(1, min(4, 130 // (max(map(len, labels)) + 6)))
    legend_rows = math.ceil(len(labels) / columns)
    height = 3.4 * len(names) + 0.4 + 0.22 * legend_rows
    figure = Figure(figsize=(11, height), layout="constrained")
    panels = figure.subplots(len(names), 2, sharex="col", sharey="row", squeeze=False)
    time_unit, seconds_per_unit = _time_unit(max(run.records[-1]["seconds"] for run in runs))
    token_unit, tokens_per_unit = _token_unit(
        max(run.records[-1]["step"] * run.tokens_per_step for run in runs)
    )
    for (against_tokens, against_time), name in zip(panels, names, strict=True):
        for run, style in zip(runs, styles, strict=True):
            indices, values = _points(run, name)
            steps = np.array([run.records[i]["step"] for i in indices])
            seconds = np.array([run.records[i]["seconds"] for i in indices])
            tokens = steps * run.tokens_per_step / tokens_per_unit
            _draw_curve(against_tokens, tokens, values, style, name)
            _draw_curve(against_time, seconds / seconds_per_unit, values, style, name)
        _finish(against_tokens, token_unit)
        _finish(against_time, f"training time ({time_unit})")
        against_tokens.set_ylabel(QUANTITIES[name].label)
        _limit(against_tokens, [_points(run, name)[1] for run in runs])
    _add_legend(figure, panels[0][0], labels, columns)
    return figure


def drawn_quantities(runs: list[Curves]) -> list[str]:
    """The quantities that some run has; bits per byte only where they are not the validation losses
    in another unit, which they are of runs with one tokenizer on the same data."""
    names = [name for name in QUANTITIES if any(_points(run, name)[0].size for run in runs)]
    losses = [record for run in runs for record in run.records if record.get("val_loss")]
    bits = [record.get("val_bits_per_byte", math.nan) for record in losses]
    ratios = [value / record["val_loss"] for value, record in zip(bits, losses, strict=True)]
    if ratios and np.allclose(ratios, ratios[0], rtol=1e-6):
        names.remove("val_bits_per_byte")
    return names


def write_png(figure: Figure, path: Path) -> None:
    """Writes the figure as a PNG."""
    figure.set_dpi(130)
    FigureCanvasAgg(figure).print_png(path)


def run_styles(runs: list[Curves]) -> list[_Style]:
    """Colour, dashes and legend of every run: each its own, or those of its optimizer."""
    own = len(runs) <= MOST_COLOURED_RUNS
    groups = [run.name if own else run.optimizer for run in runs]
    counts = Counter(groups)
    order = {group: i for i, group in enumerate(counts)}

    def style(group: str) -> _Style:
        i = order[group]
        label = group if own else f"{group} ({counts[group]} run{'s' * (counts[group] > 1)})"
        return _Style(
            COLOURS[i % len(COLOURS)], DASHES[i // len(COLOURS) % len(DASHES)], _shortened(label)
        )

    return [style(group) for group in groups]


def _shortened(label: str) -> str:
    return label if len(label) <= 60 else "…" + label[-59:]


def _points(run: Curves, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the records to draw, and the quantity there; smoothed where it is noisy."""
    indices = np.array([i for i, record in enumerate(run.records) if name in record], int)
    values = np.array([run.records[i][name] for i in indices], float)
    if QUANTITIES[name].smooth and len(values):
        values = smoothed(values, max(1, len(values) // 25))
    every = max(1, math.ceil(len(indices) / MOST_POINTS))
    kept = np.arange(len(indices) - 1, -1, -every)[::-1]  # the last one always
    return indices[kept], values[kept]


def _draw_curve(axes: Axes, x: np.ndarray, y: np.ndarray, style: _Style, name: str) -> None:
    few = not QUANTITIES[name].smooth and len(x) <= 40
    axes.plot(
        x,
        y,
        color=style.colour,
        linestyle=style.dashes,
        linewidth=1.4,
        marker="o" if few else None,
        markersize=3,
        label=style.label,
    )


def _finish(axes: Axes, xlabel: str) -> None:
    axes.set_xlabel(xlabel)
    axes.tick_params(labelbottom=True)
    axes.set_xlim(left=0)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _limit(axes: Axes, curves: list[np.ndarray]) -> None:
    """An upper limit that keeps the first steps from flattening the rest.

    What a run came to, its last value, is always inside.
    """
    finite = [values[np.isfinite(values)] for values in curves]
    finite = [values for values in finite if len(values)]
    if not finite:
        return
    early = max(np.percentile(values, 92) for values in finite)
    low, high = min(map(np.min, finite)), max(early, *(values[-1] for values in finite))
    if high > low:
        axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))


def _add_legend(figure: Figure, axes: Axes, labels: list[str], columns: int) -> None:
    handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(
        [handles[label] for label in labels],
        labels,
        loc="outside upper center",
        ncols=columns,
        frameon=False,
        fontsize=9,
    )


def _time_unit(seconds: float) -> tuple[str, float]:
    """A unit in which the longest run has a readable number, and its seconds."""
    if seconds < 300:
        return "s", 1.0
    return ("min", 60.0) if seconds < 3 * 3600 else ("h", 3600.0)


def _token_unit(tokens: int) -> tuple[str, float]:
    for name, size in (("billions of tokens", 1e9), ("millions of tokens", 1e6)):
        if tokens >= size:
            return name, size
    return "thousands of tokens", 1e3
