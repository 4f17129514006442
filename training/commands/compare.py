"""`train.py compare`: the same model, data and steps for several optimizers, tabulated."""

import dataclasses
import math
import shlex
from typing import Any

from rich.console import Console
from rich.markdown import Markdown

from training.config.groups import RunOptions, TrainingOptions
from training.config.model import preset_model
from training.config.options import flat, to_json, with_options
from training.config.pretraining import CompareConfig, PretrainConfig
from training.config.resolved import ResolvedRun
from training.data.corpus import Corpus, check_unchanged, load_corpus
from training.errors import TrainingFailedError, UserError
from training.files import read_json
from training.reports.results import Summary, environment, finished, write_results
from training.runs.distributed import all_or_none, is_first
from training.runs.folder import check_run_folder
from training.runs.loop import train_run
from training.runs.metrics import METRICS_FILE, read_metrics
from training.runs.resolve import resolve_pretraining
from training.steps import optimizers
from training.steps.compiled import CompiledSteps, compile_steps
from training.steps.mesh import make_mesh
from training.steps.objective import next_token

MOST_EXTENSIONS = 8  # factors of 2 that --tune goes beyond its first three rates


def parse_optimizers(text: str) -> list[str]:
    """Optimizer names from "a,b,c".

    Raises:
        UserError: for an empty list, a name given twice or an unknown one.
    """
    names = _parts(text)
    if not names:
        raise UserError("--optimizers is empty: give names, e.g. --optimizers adamw,trion")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise UserError(f"--optimizers names {', '.join(repeated)} more than once")
    for name in names:
        optimizers.get_entry(name)
    return names


def parse_learning_rates(text: str, names: list[str]) -> dict[str, float]:
    """Learning rates from "trion=0.02,adamw=0.003".

    Raises:
        UserError: for a pair that is not name=positive number, or a name not compared.
    """
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


def run_config(
    config: CompareConfig, optimizer: str, learning_rate: float | None, seed: int
) -> ResolvedRun:
    """The configuration of one run, resolved, in its own folder under `config.out`.

    Options that this optimizer does not take are left out; `check_accepted` has seen to it that
    another one of the comparison takes them.
    """
    rate = learning_rate or optimizers.get_entry(optimizer).learning_rate
    folder = config.out / "runs" / f"{optimizer}-lr{rate:g}-seed{seed}"
    groups = (group.name for group in dataclasses.fields(TrainingOptions))
    run = PretrainConfig(
        steps=config.steps,
        learning_rate=rate,
        out=folder,
        run=RunOptions(optimizer, seed, resume=(folder / "config.json").exists()),
        model=config.model,
        corpus=config.corpus,
        **{group: getattr(config, group) for group in groups},
    )
    unused = set(optimizers.optimizer_options()) - set(optimizers.accepted_options(optimizer))
    return resolve_pretraining(with_options(run, **dict.fromkeys(unused)))


@dataclasses.dataclass
class Comparison:
    """Runs under one roof: the data is read once, and runs that differ only in learning rate or
    seed share their compiled functions."""

    config: CompareConfig
    corpus: Corpus
    console: Console
    compiled: dict[str, CompiledSteps] = dataclasses.field(default_factory=dict)  # by optimizer

    def run(self, optimizer: str, learning_rate: float | None, seed: int) -> Summary:
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
            # A finished run has fewer steps if --steps is more now.
            done = failure_file.exists() or (
                summary_file.exists()
                and read_json(summary_file)["step"] == run.steps.schedule.steps
            )
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
        if not failure_file.exists():
            return {"folder": str(run.folder), **read_json(summary_file)}
        return {
            "folder": str(run.folder),
            "learning_rate": run.variant.learning_rate,
            "seed": seed,
            "failure": failure_file.read_text().strip(),
        }

    def _compiled(self, run: ResolvedRun) -> CompiledSteps:
        optimizer = run.steps.method.optimizer
        if optimizer not in self.compiled:
            model = preset_model(self.config.model, self.config.numbers, self.corpus.vocab_size)
            end_of_text = self.corpus.tokenizer.eos_id if self.config.corpus.document_mask else None
            objective = next_token(end_of_text)
            steps = compile_steps(run.steps, model, make_mesh(run.mesh), objective)
            self.compiled[optimizer] = steps
        return self.compiled[optimizer]

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
    optimizers.check_accepted(flat(config), names)
    with all_or_none():
        for name in names:
            run_config(config, name, rates.get(name), 0)  # refuses bad options before the first run
        comparison = Comparison(config, load_corpus(config.corpus, console=console), console)
    grids: dict[str, dict[float, float]] = {}
    if config.tune:
        for name in names:
            grids[name] = comparison.tune(
                name, rates.get(name) or optimizers.get_entry(name).learning_rate
            )
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
