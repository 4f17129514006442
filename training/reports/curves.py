"""The curves of a report: losses of many runs, against tokens and against wall time."""

import math
from collections import Counter
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from training.reports.plots import COLOURS, finish, series, smoothed
from training.reports.table import ReportedRun

# Runs that can each have a colour and a line in the legend; of more, optimizers have.
MOST_COLOURED_RUNS = len(COLOURS)
DASHES = ("-", "--", ":")
# Points that a curve is drawn with, as many as the width shows.
MOST_POINTS = 600

QUANTITIES = {
    "loss": "training loss (nats per token)",
    "val_loss": "validation loss (nats per token)",
    "val_bits_per_byte": "validation bits per byte",
}
NOISY = "loss"

# Unit, its size, and the largest value of all runs from which on it is taken.
TIME_UNITS = (("h", 3600.0, 3 * 3600.0), ("min", 60.0, 300.0), ("s", 1.0, 0.0))
TOKEN_UNITS = (("billions", 1e9, 1e9), ("millions", 1e6, 1e6), ("thousands", 1e3, 0.0))


class _Style(NamedTuple):
    colour: str
    dashes: str
    label: str


def draw_report(runs: list[ReportedRun]) -> Figure:
    """Draws every quantity that a run has, in a row of two panels: against tokens and time."""
    names, styles = drawn_quantities(runs), run_styles(runs)
    labels = list(dict.fromkeys(style.label for style in styles))
    columns = max(1, min(4, 130 // (max(map(len, labels)) + 6)))
    height = 3.4 * len(names) + 0.4 + 0.22 * math.ceil(len(labels) / columns)
    figure = Figure(figsize=(11, height), dpi=130, layout="constrained")
    panels = figure.subplots(len(names), 2, sharex="col", sharey="row", squeeze=False)
    time, second = _unit(TIME_UNITS, max(run.records[-1]["seconds"] for run in runs))
    thousands, token = _unit(TOKEN_UNITS, max(run.tokens for run in runs))
    for (against_tokens, against_time), name in zip(panels, names, strict=True):
        drawn = []
        for run, style in zip(runs, styles, strict=True):
            steps, seconds, values = _points(run, name)
            for axes, x in (
                (against_tokens, steps * run.tokens_per_step / token),
                (against_time, seconds / second),
            ):
                (line,) = axes.plot(x, values, style.dashes, color=style.colour, label=style.label)
                line.set(linewidth=1.4, markersize=3)
                line.set_marker("o" if name != NOISY and len(x) <= 40 else "")
            drawn.append(values)
        finish(against_tokens, drawn, xlabel=f"{thousands} of tokens", ylabel=QUANTITIES[name])
        finish(against_time, drawn, xlabel=f"training time ({time})")
        for axes in (against_tokens, against_time):
            axes.tick_params(labelbottom=True)
            axes.set_xlim(left=0)
    lines = {line.get_label(): line for line in panels[0][0].lines}
    handles = [lines[label] for label in labels]
    look = {"ncols": columns, "frameon": False, "fontsize": 9}
    figure.legend(handles, labels, loc="outside upper center", **look)
    return figure


def drawn_quantities(runs: list[ReportedRun]) -> list[str]:
    """The quantities that some run has; bits per byte only where they are not the validation losses
    in another unit, which they are of runs with one tokenizer on the same data."""
    names = [name for name in QUANTITIES if any(series(run.records, name).size for run in runs)]
    losses = [record for run in runs for record in run.records if record.get("val_loss")]
    ratios = [record.get("val_bits_per_byte", math.nan) / record["val_loss"] for record in losses]
    if ratios and np.allclose(ratios, ratios[0], rtol=1e-6):
        names.remove("val_bits_per_byte")
    return names


def run_styles(runs: list[ReportedRun]) -> list[_Style]:
    """Colour, dashes and legend of every run: each its own, or those of its optimizer."""
    own = len(runs) <= MOST_COLOURED_RUNS
    groups = [run.name if own else run.optimizer for run in runs]
    styles = {}
    for i, (group, count) in enumerate(Counter(groups).items()):
        label = group if own else f"{group} ({count} run{'s' * (count > 1)})"
        label = label if len(label) <= 60 else "…" + label[-59:]
        dashes = DASHES[i // len(COLOURS) % len(DASHES)]
        styles[group] = _Style(COLOURS[i % len(COLOURS)], dashes, label)
    return [styles[group] for group in groups]


def _points(run: ReportedRun, name: str) -> np.ndarray:
    """The series to draw: smoothed where it is noisy, thinned, its last point kept."""
    points = series(run.records, name)
    if name == NOISY:
        points[-1] = smoothed(points[-1], max(1, points.shape[1] // 25))
    every = max(1, math.ceil(points.shape[1] / MOST_POINTS))
    return points[:, ::-1][:, ::every][:, ::-1]


def _unit(units: tuple[tuple[str, float, float], ...], most: float) -> tuple[str, float]:
    """A unit in which the largest value is a readable number, and its size."""
    return next((name, size) for name, size, least in units if most >= least)
