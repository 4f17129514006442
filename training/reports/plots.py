"""Pictures of runs: loss.png of one, curves.png of a comparison, and what all pictures share."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# A palette that stays apart for colour-blind readers.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")

Records = list[dict[str, Any]]  # of metrics.jsonl


def series(records: Records, name: str) -> np.ndarray:
    """Steps, seconds and values of a quantity, (3, points), where a record has it.

    A loss that was not finite is null in metrics.jsonl, and left out.
    """
    known = [record for record in records if record.get(name) is not None]
    rows = [(record["step"], record["seconds"], record[name]) for record in known]
    return np.array(rows, float).reshape(-1, 3).T


def smoothed(values: np.ndarray, window: int) -> np.ndarray:
    """Mean over the last `window` values at each point, over fewer at the start."""
    sums = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - window)
    return (sums[ends] - sums[starts]) / (ends - starts)


def finish(axes: Axes, curves: Sequence[np.ndarray], **labels: str) -> None:
    """Labels, and an upper limit that keeps the first steps from flattening the rest. What a curve
    came to, its last value, is always inside."""
    curves = [values for values in curves if len(values)]
    low = min((values.min() for values in curves), default=0.0)
    high = max((max(np.percentile(values, 92), values[-1]) for values in curves), default=0.0)
    if high > low:
        axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    axes.set(**labels)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def write_png(figure: Figure, path: epath.PathLike) -> None:
    """Writes a figure, to a bucket too."""
    with epath.Path(path).open("wb") as file:
        figure.savefig(file, format="png")


def plot_run(records: Records, path: epath.PathLike, title: str) -> None:
    """Draws training and validation loss of at least one record against the step, as a PNG."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    steps, _, losses = series(records, "loss")
    smooth = smoothed(losses, max(1, len(losses) // 50))
    axes.plot(steps, losses, color=COLOURS[0], alpha=0.25, linewidth=0.8)
    axes.plot(steps, smooth, color=COLOURS[0], linewidth=1.6, label="training")
    val_steps, _, val_losses = series(records, "val_loss")
    if len(val_steps):
        axes.plot(val_steps, val_losses, "o-", color=COLOURS[1], markersize=4, label="validation")
        axes.annotate(
            f"{val_losses[-1]:.3f}",
            (val_steps[-1], val_losses[-1]),
            textcoords="offset points",
            xytext=(0, 8),
            ha="center",
            color=COLOURS[1],
        )
    finish(axes, [losses, val_losses], title=title, xlabel="step", ylabel="loss (nats per token)")
    axes.legend(frameon=False)
    write_png(figure, path)


def plot_comparison(runs: dict[str, list[Records]], path: epath.PathLike, title: str) -> None:
    """Draws the validation loss of several optimizers as a PNG: mean over seeds, band from best to
    worst, at the steps where all runs of an optimizer have one."""
    figure = Figure(figsize=(7.5, 4.6), layout="constrained")
    axes = figure.subplots()
    curves = {label: [series(run, "val_loss")[::2] for run in own] for label, own in runs.items()}
    for colour, (label, own) in zip(COLOURS * (1 + len(curves)), curves.items(), strict=False):
        steps = functools.reduce(np.intersect1d, [run[0] for run in own])
        losses = np.stack([run[1][np.isin(run[0], steps)] for run in own])
        mean, low, high = losses.mean(axis=0), losses.min(axis=0), losses.max(axis=0)
        axes.plot(steps, mean, "o-", markersize=3, color=colour, label=f"{label} ({mean[-1]:.3f})")
        axes.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
    losses_of_all = [run[1] for own in curves.values() for run in own]
    label = "validation loss (nats per token)"
    finish(axes, losses_of_all, title=title, xlabel="step", ylabel=label)
    axes.legend(frameon=False)
    write_png(figure, path)
