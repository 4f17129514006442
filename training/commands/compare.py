"""`train.py compare`: the same model, data and steps for several optimizers, tabulated."""

import json
import math
import shlex
from dataclasses import fields
from typing import Any

from etils import epath
from rich.console import Console
from rich.markdown import Markdown

from training.config.groups import RunOptions, TrainingOptions
from training.config.model import preset_model
from training.config.options import flat, to_json, with_options
from training.config.pretraining import CompareConfig, PretrainConfig
from training.config.resolved import ResolvedRun
from training.data.changes import check_unchanged
from training.data.corpus import Corpus, load_corpus
from training.errors import TrainingFailedError, UserError
from training.reports.results import (
    describe_device,
    describe_versions,
    diverged_summary,
    git_commit,
    write_results,
)
from training.runs.distributed import all_or_none, is_first
from training.runs.folder import check_run_folder
from training.runs.loop import train_run
from training.runs.resolve import resolve_pretraining
from training.steps.compiled import CompiledSteps, compile_steps
from training.steps.mesh import make_mesh
from training.steps.objective import next_token
from training.steps.optimizers import (
    accepted_options,
    check_accepted,
    get_entry,
    optimizer_options,
)

MOST_EXTENSIONS = 8  # factors of 2 that --tune goes beyond its first three rates


def parse_optimizers(text: str) -> list[str]:
    """Optimizer names from "a,b,c".

    Raises:
        UserError: for an empty list, a name given twice or an unknown one.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UserError("--optimizers is empty: give names, e.g. --optimizers adamw,trion")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise UserError(f"--optimizers names {', '.join(repeated)} more than once")
    for name in names:
        get_entry(name)
    return names


def parse_learning_rates(text: str, names: list[str]) -> dict[str, float]:
    """Learning rates from "trion=0.02,adamw=0.003".

    Raises:
        UserError: for a pair that is not name=positive number, or a name not compared.
    """
    rates: dict[str, float] = {}
    for pair in (part.strip() for part in text.split(",") if part.strip()):
        name, _, value = pair.partition("=")
        if name not in names:
            raise UserError(f"--learning-rates {pair}: {name!r} is not one of {', '.join(names)}")
        rates[name] = _positive_number(value, pair)
    return rates


def _positive_number(text: str, pair: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise UserError(f"--learning-rates {pair}: expected name=number > 0, e.g. trion=0.02")
    return value


def run_config(
    config: CompareConfig, optimizer: str, learning_rate: float | None, seed: int
) -> ResolvedRun:
    """The configuration of one run, resolved, in its own folder under `config.out`.

    Options that this optimizer does not take are left out; `check_accepted` has seen to it that
    another one of the comparison takes them.
    """
    rate = learning_rate or get_entry(optimizer).learning_rate
    folder = config.out / "runs" / f"{optimizer}-lr{rate:g}-seed{seed}"
    run = PretrainConfig(
        steps=config.steps,
        learning_rate=rate,
        out=folder,
        run=RunOptions(optimizer, seed, resume=(folder / "config.json").exists()),
        model=config.model,
        corpus=config.corpus,
        **{group.name: getattr(config, group.name) for group in fields(TrainingOptions)},
    )
    accepted = accepted_options(optimizer)
    unused = [option for option in optimizer_options() if option not in accepted]
    return resolve_pretraining(with_options(run, **dict.fromkeys(unused)))


class Comparison:
    """Runs under one roof: the data is read once, and runs that differ only in learning rate or
    seed share their compiled functions.

    Args:
        config: of the comparison.
        corpus: its data.
        console: for progress.
    """

    def __init__(self, config: CompareConfig, corpus: Corpus, console: Console):
        self.config = config
        self.corpus = corpus
        self.console = console
        self._steps: dict[str, CompiledSteps] = {}

    def run(self, optimizer: str, learning_rate: float | None, seed: int) -> dict[str, Any]:
        """One run's summary, with its folder; trained unless it is finished already.

        A run that diverges has a `failure` and no losses.
        """
        with all_or_none():
            run = run_config(self.config, optimizer, learning_rate, seed)
            if run.resumed_folder:
                check_unchanged(run.folder, self.corpus.checksums, "compare anew in another --out")
            check_run_folder(run, self.corpus)
        summary_file, failure_file = run.folder / "summary.json", run.folder / "failure.txt"
        with all_or_none():  # so that no process looks for files that another is writing already
            done = failure_file.exists() or _is_finished(summary_file, run)
        if not done:
            self.console.print(f"[bold]{run.folder.name}[/bold]", highlight=False)
            try:
                train_run(run, self._compiled(run), self.corpus, self.console)
            except TrainingFailedError as error:
                if not error.diverged:
                    raise
                self.console.print(str(error), highlight=False)
                with all_or_none():
                    if is_first():
                        failure_file.write_text(f"{error}\n")
        if failure_file.exists():
            reason = failure_file.read_text().strip()
            return diverged_summary(run.folder, run.variant.learning_rate, seed, reason)
        return {"folder": str(run.folder), **json.loads(summary_file.read_text())}

    def _compiled(self, run: ResolvedRun) -> CompiledSteps:
        optimizer = run.steps.method.optimizer
        if optimizer not in self._steps:
            model = preset_model(self.config.model, self.config.numbers, self.corpus.vocab_size)
            end_of_text = self.corpus.tokenizer.eos_id if self.config.corpus.document_mask else None
            self._steps[optimizer] = compile_steps(
                run.steps, model, make_mesh(run.mesh), next_token(end_of_text)
            )
        return self._steps[optimizer]

    def tune(self, optimizer: str, start: float) -> dict[float, float]:
        """Validation losses at seed 0 over learning rates start * 2**k, for consecutive k from
        -1 to 1 and on until the best one has a worse neighbour on either side.

        Returns:
            learning rate -> validation loss, in increasing order of the rates.
        """

        def loss(k: int) -> float:
            return self.run(optimizer, start * 2.0**k, 0).get("val_loss", math.inf)

        losses = {k: loss(k) for k in (0, -1, 1)}
        for _ in range(MOST_EXTENSIONS):
            best = min(losses, key=losses.__getitem__)
            beyond = best - 1 if best == min(losses) else best + 1
            if beyond in losses:
                break
            losses[beyond] = loss(beyond)
        return {start * 2.0**k: losses[k] for k in sorted(losses)}


def _is_finished(summary: epath.Path, run: ResolvedRun) -> bool:
    """Whether a run has all its steps; it may have fewer if --steps is more now."""
    return summary.exists() and json.loads(summary.read_text())["step"] == run.steps.schedule.steps


def compare(config: CompareConfig, console: Console, command: list[str]) -> dict[str, Any]:
    """Trains all runs of a comparison and writes table.md, results.json and curves.png.

    Args:
        config: as given.
        console: for progress and the table.
        command: the command line, for the record.

    Returns:
        The content of results.json.

    Raises:
        UserError: for options that make no sense together, before anything is trained.
    """
    names = parse_optimizers(config.optimizers)
    rates = parse_learning_rates(config.learning_rates, names)
    if config.seeds < 1:
        raise UserError(f"--seeds is {config.seeds}, but must be at least 1")
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
            console.print(_describe_grid(name, grids[name]), highlight=False)
    runs = {
        name: [comparison.run(name, rates.get(name), seed) for seed in range(config.seeds)]
        for name in names
    }
    results = {
        "command": shlex.join(["python", *command]),
        "config": to_json(config, comparison.corpus.checksum),
        "device": describe_device(),
        "versions": describe_versions(),
        "git_commit": git_commit(),
        "tuning": grids,
        "runs": runs,
    }
    if is_first():
        write_results(config.out, results)
        console.print(Markdown((config.out / "table.md").read_text()))
    return results


def _describe_grid(name: str, grid: dict[float, float]) -> str:
    best = min(grid, key=grid.__getitem__)
    cells = ", ".join(f"{rate:g}: {loss:.4f}" for rate, loss in grid.items())
    interior = min(grid) < best < max(grid)
    note = "" if interior else " (at the edge of the grid: the best may lie beyond)"
    return f"{name}: best learning rate {best:g}{note}; validation losses {cells}"
