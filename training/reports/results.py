"""The results of a comparison: table.md, results.json and curves.png."""

import importlib.metadata
import math
import platform
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath

from training.json_files import write_json
from training.reports.plots import plot_comparison, validation_points
from training.runs.metrics import read_metrics
from training.runs.summary import readable_bytes

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


def mean_and_deviation(values: list[float], digits: int) -> str:
    """ "mean ± std" with the sample standard deviation; the mean alone for a single value."""
    mean = f"{np.mean(values):,.{digits}f}"
    if len(values) == 1:
        return mean
    return f"{mean} ± {np.std(values, ddof=1):.{digits}f}"


# Row of the table -> its cell from the summaries of one optimizer's runs.
ROWS: dict[str, Callable[[list[dict[str, Any]]], str]] = {
    "Learning rate": lambda runs: f"{runs[0]['learning_rate']:g}",
    "Train loss": lambda runs: _statistic(runs, "train_loss", 4),
    "Validation loss": lambda runs: _statistic(runs, "val_loss", 4),
    "Train perplexity": lambda runs: _statistic(runs, "train_perplexity", 3),
    "Validation perplexity": lambda runs: _statistic(runs, "val_perplexity", 3),
    "Optimizer state": lambda runs: _state_size(runs),
    "Training time (s)": lambda runs: _statistic(runs, "seconds", 1),
    "Tokens per second": lambda runs: _statistic(runs, "tokens_per_second", 0),
}


def finished(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The runs that did not diverge."""
    return [run for run in runs if "failure" not in run]


def _statistic(runs: list[dict[str, Any]], name: str, digits: int) -> str:
    # null in summary.json where it overflowed
    values = [math.inf if run[name] is None else run[name] for run in finished(runs)]
    if not values:
        return "diverged"
    missing = len(runs) - len(values)
    note = f" ({missing} of {len(runs)} diverged)" if missing else ""
    return mean_and_deviation(values, digits) + note


def _state_size(runs: list[dict[str, Any]]) -> str:
    if not finished(runs):
        return "–"
    run = finished(runs)[0]
    share = run["optimizer_state_bytes"] / run["adamw_state_bytes"]
    return f"{readable_bytes(run['optimizer_state_bytes'])} ({share:.0%} of AdamW's)"


def markdown_table(runs: dict[str, list[dict[str, Any]]]) -> str:
    """The comparison as a Markdown table: a column per optimizer, a row per measure.

    Args:
        runs: optimizer -> summaries of its runs, one per seed.
    """
    lines = ["| | " + " | ".join(runs) + " |", "|---|" + "---:|" * len(runs)]
    for name, cell in ROWS.items():
        lines.append(f"| {name} | " + " | ".join(cell(own) for own in runs.values()) + " |")
    return "\n".join(lines) + "\n"


def caption(results: dict[str, Any]) -> str:
    """One paragraph under the table: what was trained, on what, and by which command."""
    config = results["config"]
    tokens = config["steps"] * config["batch_size"] * config["seq_len"]
    return (
        f"{config['preset']} Llama, {config['data']} data, {config['steps']} steps of "
        f"{config['batch_size']} × {config['seq_len']} tokens ({tokens:,} in all), "
        f"{config['seeds']} seed(s), mean ± sample standard deviation; losses in nats per token; "
        "train loss is the mean over the last tenth of the steps. "
        f"{results['device']}, jax {results['versions']['jax']}.\n\n`{results['command']}`\n"
    )


def write_results(folder: Path, results: dict[str, Any]) -> None:
    """Writes table.md, results.json and, where at least one run finished, curves.png.

    Args:
        folder: exists.
        results: the content of results.json.
    """
    runs = results["runs"]
    write_json(folder / "results.json", results)
    (folder / "table.md").write_text(markdown_table(runs) + "\n" + caption(results))
    curves = {
        f"{name}, lr {own[0]['learning_rate']:g}": [
            validation_points(read_metrics(epath.Path(run["folder"]) / "metrics.jsonl"))
            for run in finished(own)
        ]
        for name, own in runs.items()
        if finished(own)
    }
    if curves:
        config = results["config"]
        title = f"{config['preset']} Llama, {config['data']}, {config['seeds']} seed(s)"
        plot_comparison(curves, folder / "curves.png", title)


def diverged_summary(folder: Path, learning_rate: float, seed: int, reason: str) -> dict[str, Any]:
    """What stands for the summary of a run that diverged."""
    return {
        "folder": str(folder),
        "learning_rate": learning_rate,
        "seed": seed,
        "failure": reason,
    }


def describe_device() -> str:
    """Kind and number of the devices, e.g. "1 x cpu (x86_64)"."""
    device = jax.devices()[0]
    kind = platform.machine() if device.platform == "cpu" else device.device_kind
    return f"{jax.device_count()} × {device.platform} ({kind})"


def describe_versions() -> dict[str, str]:
    """Versions of Python and of the packages that the numbers depend on."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version(), **versions}


def git_commit() -> str | None:
    """Commit of the working copy that holds this file, or None outside of one."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
