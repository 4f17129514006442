"""The results of a comparison: table.md, results.json and curves.png."""

import importlib.metadata
import math
import platform
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath
from rich.filesize import decimal

from training.files import write_json
from training.reports.plots import Records, plot_comparison

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")

Summary = dict[str, Any]  # content of a summary.json, or {"failure": ...} of a run that diverged


def mean_and_deviation(values: list[float], digits: int) -> str:
    """ "mean ± std" with the sample standard deviation; the mean alone for a single value."""
    mean = f"{np.mean(values):,.{digits}f}"
    if len(values) == 1:
        return mean
    return f"{mean} ± {np.std(values, ddof=1):.{digits}f}"


def finished(runs: list[Summary]) -> list[Summary]:
    """The runs that did not diverge."""
    return [run for run in runs if "failure" not in run]


def _statistic(runs: list[Summary], name: str, digits: int) -> str:
    # null in summary.json where it overflowed
    values = [math.inf if run[name] is None else run[name] for run in finished(runs)]
    if not values:
        return "diverged"
    missing = len(runs) - len(values)
    note = f" ({missing} of {len(runs)} diverged)" if missing else ""
    return mean_and_deviation(values, digits) + note


def _state_size(runs: list[Summary]) -> str:
    if not finished(runs):
        return "–"
    own, adamw = (finished(runs)[0][f"{name}_state_bytes"] for name in ("optimizer", "adamw"))
    return f"{decimal(own, precision=2)} ({own / adamw:.0%} of AdamW's)"


# Row of the table -> its cell from the summaries of one optimizer's runs.
ROWS: dict[str, Callable[[list[Summary]], str]] = {
    "Learning rate": lambda runs: f"{runs[0]['learning_rate']:g}",
    "Train loss": lambda runs: _statistic(runs, "train_loss", 4),
    "Validation loss": lambda runs: _statistic(runs, "val_loss", 4),
    "Train perplexity": lambda runs: _statistic(runs, "train_perplexity", 3),
    "Validation perplexity": lambda runs: _statistic(runs, "val_perplexity", 3),
    "Optimizer state": _state_size,
    "Training time (s)": lambda runs: _statistic(runs, "seconds", 1),
    "Tokens per second": lambda runs: _statistic(runs, "tokens_per_second", 0),
}


def markdown_table(runs: dict[str, list[Summary]]) -> str:
    """The comparison as a Markdown table: a column per optimizer, a row per measure."""
    lines = ["| | " + " | ".join(runs) + " |", "|---|" + "---:|" * len(runs)]
    for name, cell in ROWS.items():
        lines.append(f"| {name} | " + " | ".join(cell(own) for own in runs.values()) + " |")
    return "\n".join(lines) + "\n"


def caption(results: dict[str, Any]) -> str:
    """One paragraph under the table: what was trained, on what, and by which command."""
    config = results["config"]
    tokens = config["steps"] * config["batch_size"] * config["seq_len"]
    return (
        f"{config['preset']} Llama, {data_of(config)} data, {config['steps']} steps of "
        f"{config['batch_size']} × {config['seq_len']} tokens ({tokens:,} in all), "
        f"{config['seeds']} seed(s), mean ± sample standard deviation; losses in nats per token; "
        "train loss is the mean over the last tenth of the steps. "
        f"{results['device']}, jax {results['versions']['jax']}.\n\n`{results['command']}`\n"
    )


def data_of(config: dict[str, Any]) -> str:
    """The sources of a comparison; older ones had one, not a list."""
    data = config["data"]
    return data if isinstance(data, str) else " ".join(data)


def write_results(
    folder: epath.Path, results: dict[str, Any], records: Mapping[str, list[Records]]
) -> None:
    """Writes table.md, results.json and, where at least one run finished, curves.png, of the
    metrics of the finished ones."""
    config, runs = results["config"], results["runs"]
    write_json(folder / "results.json", results)
    (folder / "table.md").write_text(markdown_table(runs) + "\n" + caption(results))
    curves = {
        f"{name}, lr {runs[name][0]['learning_rate']:g}": own
        for name, own in records.items()
        if own
    }
    if curves:
        title = f"{config['preset']} Llama, {data_of(config)}, {config['seeds']} seed(s)"
        plot_comparison(curves, folder / "curves.png", title)


def environment() -> dict[str, Any]:
    """Device, versions and commit, for results.json."""
    device = jax.devices()[0]
    kind = platform.machine() if device.platform == "cpu" else device.device_kind
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {
        "device": f"{jax.device_count()} × {device.platform} ({kind})",
        "versions": {"python": platform.python_version(), **versions},
        "git_commit": _git_commit(),
    }


def _git_commit() -> str | None:
    """Commit of the working copy that holds this file, with a "+" if it has changes, or None."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always"]
    command += ["--exclude=*", "--abbrev=40", "--dirty=+"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
