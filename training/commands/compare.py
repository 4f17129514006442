"""`train.py compare`: the same model, data and steps for several optimizers, tabulated."""

import math
import shlex
from typing import Any

from rich.console import Console
from rich.markdown import Markdown

from training.config.options import flat
from training.config.pretraining import CompareConfig
from training.config.ranges import check_ranges
from training.config.record import to_json
from training.data.corpus import load_corpus
from training.distributed import all_or_none, is_first
from training.errors import UserError
from training.reports.results import environment, finished, write_results
from training.runs.comparison import Comparison, run_config
from training.runs.metrics import METRICS_FILE, read_metrics
from training.steps.optimizers import check_accepted, get_entry


def parse_optimizers(text: str) -> list[str]:
    """Optimizer names from "a,b,c"."""
    names = _parts(text)
    if not names:
        raise UserError("--optimizers is empty: give names, e.g. --optimizers adamw,trion")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise UserError(f"--optimizers names {', '.join(repeated)} more than once")
    for name in names:
        get_entry(name)
    return names


def parse_learning_rates(text: str, names: list[str]) -> dict[str, float]:
    """Learning rates from "trion=0.02,adamw=0.003"."""
    rates: dict[str, float] = {}
    for pair in _parts(text):
        name, _, value = pair.partition("=")
        if name not in names:
            raise UserError(f"--learning-rates {pair}: {name!r} is not one of {', '.join(names)}")
        try:
            rates[name] = float(value)
        except ValueError:
            rates[name] = math.nan
        if not 0 < rates[name] < math.inf:
            raise UserError(f"--learning-rates {pair}: expected name=number > 0, e.g. trion=0.02")
    return rates


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def compare(config: CompareConfig, console: Console, command: list[str]) -> dict[str, Any]:
    """Trains all runs of a comparison, writes table.md, results.json and curves.png, and returns
    the content of results.json.

    Options that make no sense together are refused before anything is trained.
    """
    names = parse_optimizers(config.optimizers)
    rates = parse_learning_rates(config.learning_rates, names)
    check_ranges(flat(config))
    check_accepted(flat(config), names)
    with all_or_none():
        for name in names:
            run_config(config, name, rates.get(name), 0)  # refuses bad options before the first run
        comparison = Comparison(config, load_corpus(config.corpus, console=console), console)
    grids: dict[str, dict[float, float]] = {}
    if config.tune:
        for name in names:
            grids[name] = comparison.tune(name, rates.get(name) or get_entry(name).learning_rate)
            rates[name] = min(grids[name], key=grids[name].__getitem__)
            console.print(_describe_grid(name, grids[name], rates[name]), highlight=False)
    runs = {
        name: [comparison.run(name, rates.get(name), seed) for seed in range(config.seeds)]
        for name in names
    }
    results = {
        "command": shlex.join(["python", *command]),
        "config": to_json(config, comparison.corpus.checksum),
        **environment(),
        "tuning": grids,
        "runs": runs,
    }
    if is_first():
        read = lambda run: read_metrics(f"{run['folder']}/{METRICS_FILE}")
        records = {name: [read(run) for run in finished(own)] for name, own in runs.items()}
        write_results(config.out, results, records)
        console.print(Markdown((config.out / "table.md").read_text()))
    return results


def _describe_grid(name: str, grid: dict[float, float], best: float) -> str:
    cells = ", ".join(f"{rate:g}: {loss:.4f}" for rate, loss in grid.items())
    interior = min(grid) < best < max(grid)
    note = "" if interior else " (at the edge of the grid: the best may lie beyond)"
    return f"{name}: best learning rate {best:g}{note}; validation losses {cells}"
