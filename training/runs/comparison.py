"""Runs of a comparison: the same model, data and steps for several optimizers, rates and seeds."""

import dataclasses
import math

from rich.console import Console

from training.config.model import preset_model
from training.config.options import flat, part
from training.config.pretraining import CompareConfig, PretrainConfig
from training.config.record import CONFIG_FILE
from training.config.resolved import ResolvedRun
from training.data.changes import check_unchanged
from training.data.corpus import Corpus
from training.distributed import all_or_none, is_first
from training.errors import TrainingFailedError
from training.files import read_json
from training.reports.results import Summary
from training.runs.folder import check_run_folder
from training.runs.loop import train_run
from training.runs.resolve import resolve_pretraining
from training.steps.compiled import CompiledSteps, compile_steps
from training.steps.mesh import make_mesh
from training.steps.objective import next_token
from training.steps.optimizers import accepted_options, get_entry, optimizer_options

MOST_EXTENSIONS = 8  # factors of 2 that --tune goes beyond its first three rates


def run_config(
    config: CompareConfig, optimizer: str, learning_rate: float | None, seed: int
) -> ResolvedRun:
    """The configuration of one run, resolved, in its own folder under `config.out`.

    Options that this optimizer does not take are left out; `check_accepted` has seen to it that
    another one of the comparison takes them.
    """
    rate = learning_rate or get_entry(optimizer).learning_rate
    folder = config.out / "runs" / f"{optimizer}-lr{rate:g}-seed{seed}"
    own = {"optimizer": optimizer, "learning_rate": rate, "seed": seed}
    own |= {"out": folder, "resume": (folder / CONFIG_FILE).exists()}
    unused = set(optimizer_options()) - set(accepted_options(optimizer))
    options = flat(PretrainConfig()) | flat(config) | own | dict.fromkeys(unused)
    return resolve_pretraining(part(PretrainConfig, options))


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
            self.console.print(run.folder.name, style="bold", highlight=False)
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
            config, tokenizer = self.config, self.corpus.tokenizer
            model = preset_model(config.model, config.numbers, tokenizer.vocab_size)
            objective = next_token(tokenizer.eos_id if config.corpus.document_mask else None)
            steps = compile_steps(run.steps, model, make_mesh(run.mesh), objective)
            self.compiled[optimizer] = steps
        return self.compiled[optimizer]

    def tune(self, optimizer: str, start: float) -> dict[float, float]:
        """Learning rate -> validation loss at seed 0, over rates start * 2**k in increasing order,
        for consecutive k from -1 to 1 and on until the best one has a worse neighbour on either
        side."""

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
