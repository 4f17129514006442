"""Pictures of runs: loss.png of one, curves.png of a comparison."""

import functools
from typing import Any

import numpy as np
from etils import epath
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# A palette that stays apart for colour-blind readers.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def smoothed(values: np.ndarray, window: int) -> np.ndarray:
    """Mean over the last `window` values at each point, over fewer at the start."""
    sums = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - window)
    return (sums[ends] - sums[starts]) / (ends - starts)


def validation_points(records: list[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Steps and validation losses of the evaluations."""
    points = [
        (record["step"], record["val_loss"])
        for record in records
        if record.get("val_loss") is not None  # null where it was not finite
    ]
    steps, losses = np.array(points).reshape(-1, 2).T
    return steps, losses


def plot_run(records: list[dict[str, Any]], path: epath.PathLike, title: str) -> None:
    """Draws training and validation loss against the step.

    Args:
        records: of metrics.jsonl, at least one.
        path: of the PNG.
        title: above the axes.
    """
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    # Where --skip-updates left out a loss that was not finite, there is none.
    points = [(record["step"], record["loss"]) for record in records if record["loss"] is not None]
    steps, losses = np.array(points).reshape(-1, 2).T
    smooth = smoothed(losses, max(1, len(losses) // 50))
    axes.plot(steps, losses, color=COLOURS[0], alpha=0.25, linewidth=0.8)
    axes.plot(steps, smooth, color=COLOURS[0], linewidth=1.6, label="training")
    val_steps, val_losses = validation_points(records)
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
    _finish(axes, title, [losses, val_losses])
    with epath.Path(path).open("wb") as file:
        FigureCanvasAgg(figure).print_png(file)


def plot_comparison(
    curves: dict[str, list[tuple[np.ndarray, np.ndarray]]], path: epath.PathLike, title: str
) -> None:
    """Draws the validation loss of several optimizers: mean over seeds, band from best to worst.

    Args:
        curves: label -> one (steps, losses) per seed; drawn where all have values.
        path: of the PNG.
        title: above the axes.
    """
    figure = Figure(figsize=(7.5, 4.6), layout="constrained")
    axes = figure.subplots()
    for colour, (label, runs) in zip(COLOURS * (1 + len(curves)), curves.items(), strict=False):
        steps = functools.reduce(np.intersect1d, [run[0] for run in runs])
        losses = np.stack([run[1][np.isin(run[0], steps)] for run in runs])
        mean = losses.mean(axis=0)
        axes.plot(steps, mean, "o-", markersize=3, color=colour, label=f"{label} ({mean[-1]:.3f})")
        axes.fill_between(
            steps, losses.min(axis=0), losses.max(axis=0), color=colour, alpha=0.2, linewidth=0
        )
    _finish(axes, title, [run[1] for runs in curves.values() for run in runs])
    axes.set_ylabel("validation loss (nats per token)")
    with epath.Path(path).open("wb") as file:
        FigureCanvasAgg(figure).print_png(file)


def _finish(axes: Axes, title: str, losses: list[np.ndarray]) -> None:
    """Labels, and an upper limit that keeps the first steps from flattening the rest."""
    values = np.concatenate([*losses])
    values = values[np.isfinite(values)]
    low, high = (values.min(), np.percentile(values, 98)) if len(values) else (0.0, 0.0)
    if high > low:
        axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    axes.set(title=title, xlabel="step", ylabel="loss (nats per token)")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
