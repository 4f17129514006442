"""One run from its configuration to its summary: its steps, and what is read, written and saved
between them."""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from rich.console import Console

from training.checkpoints.manager import Checkpoints
from training.checkpoints.origin import CHECKPOINTS
from training.checkpoints.resume import Start, begin, find_start
from training.config.pretraining import PretrainConfig
from training.config.record import to_json
from training.config.resolved import ResolvedRun
from training.distributed import all_or_none, is_first
from training.errors import TrainingFailedError, UserError
from training.files import write_json
from training.reports.plots import plot_run
from training.runs.diagnostics import Diagnostics
from training.runs.folder import RunData, check_extension, create_run_folder
from training.runs.interruption import AgreedStop, InterruptedRunError, StopRequest
from training.runs.metrics import METRICS_FILE, MetricsLog, TrainingClock, perplexity, read_metrics
from training.runs.progress import ProgressLine
from training.runs.summary import summarize
from training.runs.trace import Trace
from training.runs.utilization import device_metrics
from training.runs.writers import WRITERS, parse_writers
from training.steps.compiled import CompiledSteps
from training.steps.spikes import checked_metrics
from training.steps.update import step_arguments

RATE_WINDOW = 20  # records that tokens_per_second is averaged over


class Run:
    """A run under way: at its first step, or where its newest checkpoint left it. Its folder has
    passed `check_run_folder`; the stack closes what is opened."""

    def __init__(
        self,
        config: ResolvedRun,
        steps: CompiledSteps,
        corpus: RunData,
        console: Console,
        stack: contextlib.ExitStack,
    ):
        self.config, self.steps, self.corpus = config, steps, corpus
        self.folder, self.num_steps = config.folder, config.steps.schedule.steps
        batch, self.watching = config.steps.batch, config.options.watching
        with all_or_none():
            self.data = corpus.train_batches(batch, config.variant.seed, *steps.process_rows)
            validation = corpus.validation_batches(batch)
        start = self._start(functools.partial(console.print, markup=False, highlight=False), stack)
        self.state, self.step = start.state, start.step  # step: those dispatched
        with all_or_none():
            self._open_files(start, stack)
        last = self.log.recent[-1] if self.log.recent else {"seconds": 0.0, "step": 1}
        self.clock = TrainingClock(last["seconds"] * start.step / last["step"])
        progress = ProgressLine(console, self.num_steps, start.step, batch.num_tokens)
        self.progress = stack.enter_context(progress)
        self.validation = {
            metric: [steps.shard_whole_batch(rows) for rows in batches]
            for metric, batches in validation.items()
        }
        self.arguments = steps.replicate(step_arguments(config.variant))
        self.pending: tuple[int, dict[str, jax.Array]] | None = None  # metrics, not read yet
        self.val_loss: float | None = None  # of the newest step, if it was evaluated

    def _start(self, say: Callable[[str], None], stack: contextlib.ExitStack) -> Start:
        """The state to begin or to go on with; the run's folder and its checkpoints are there."""
        variant, steps, folder = self.config.variant, self.steps, self.folder
        if not self.config.resumed_folder:
            start = begin(self.config.init, variant, steps, say)
            with all_or_none():
                create_run_folder(folder, self._record(start))
        self.checkpoints = Checkpoints(folder / CHECKPOINTS, self.config.options.checkpoints)
        stack.callback(self.checkpoints.close)
        stack.enter_context(self.checkpoints.full_disk_explained())
        if self.config.resumed_folder:
            start = find_start(folder, variant, steps, self.checkpoints, say)
            if start.data_state is not None:
                self.data.set_state(start.data_state)
            with all_or_none():
                check_extension(self.config, start.step)
                # Not before its checkpoint is known to fit: a resume that fails changes nothing.
                create_run_folder(folder, self._record(start))
        return start

    def _record(self, start: Start) -> dict[str, Any]:
        """The content of config.json."""
        options = self.config.options
        if isinstance(options, PretrainConfig):
            options = dataclasses.replace(options, init=start.init)
        return to_json(options, self.corpus.checksum)

    def _open_files(self, start: Start, stack: contextlib.ExitStack) -> None:
        folder, watching = self.folder, self.watching
        if is_first():
            self.corpus.save_to_run(folder)
        self.log = MetricsLog(folder / METRICS_FILE, start.step, write=is_first())
        stack.callback(self.log.close)
        if start.step == self.num_steps and not self.log.recent:
            raise UserError(
                f"{folder}: the run is finished, but its {METRICS_FILE} is missing: restore it "
                "from a backup, or start a new run with another --out"
            )
        if is_first() and watching.log:
            records, record = read_metrics(folder / METRICS_FILE), self._record(start)
            for name in parse_writers(watching.log):
                self.log.copies.append(WRITERS[name](folder, records, record, stack))
        every, overlaps = watching.diagnostics_every, self.steps.overlaps
        self.diagnostics = Diagnostics(folder, every, start.step, overlaps)
        stack.callback(self.diagnostics.close)
        self.trace = Trace(folder, watching.profile)
        stack.callback(self.trace.close)

    def train(self, stop: StopRequest) -> None:
        """Runs the remaining steps.

        Raises:
            TrainingFailedError: at a non-finite loss, or a full disk.
            InterruptedRunError: after a signal, with the state saved.
        """
        agreed = AgreedStop(stop, self.steps.mesh)
        save_every = self.config.options.checkpoints.checkpoint_every
        self.clock.start()
        while self.step < self.num_steps:
            batch = self.steps.shard_batch(next(self.data))
            if self.diagnostics.due(self.step + 1):
                self.look(batch)
            self.trace.before(self.step + 1)
            self.state, metrics = self.steps.train(self.state, batch, self.arguments)
            self.step += 1
            self.val_loss = None
            # Reading the metrics of the step before, while this one runs, keeps the device busy.
            with agreed.noting_errors():
                self.write_pending()
                self.trace.after(self.step, metrics)
            self.pending = (self.step, metrics)
            last = self.step == self.num_steps
            if last or self._due(self.watching.eval_every):
                self.evaluate()
            signal_number = agreed.signal_number()
            if last or signal_number or self._due(save_every):
                agreed.leave_if_noted()
                self.save()
            if signal_number and not last:
                self.checkpoints.wait()
                raise InterruptedRunError(
                    signal_number,
                    f"stopped after step {self.step}; saved {self.checkpoints.describe_latest()}",
                )
        self.clock.stop()

    def _due(self, every: int) -> bool:
        return every > 0 and self.step % every == 0

    @contextlib.contextmanager
    def clock_stopped(self) -> Iterator[None]:
        """Between two steps: what is done here is not training time."""
        jax.block_until_ready(self.pending)
        self.clock.stop()
        yield
        self.clock.start()

    def look(self, batch: Any) -> None:
        """Measures the matrices at the step that comes next, in its own time."""
        with self.clock_stopped(), all_or_none():
            look = self.steps.look(self.state, batch, self.arguments)
            self.diagnostics.record(self.step + 1, look)

    def write_pending(self, **extra: float) -> None:
        """Waits for the pending metrics, checks and writes them."""
        if self.pending is None:
            return
        (step, pending), self.pending = self.pending, None
        metrics, problem = checked_metrics(jax.device_get(pending), self.config.steps.spikes)
        if problem:
            raise self.diverged(f"{problem} at step {step}")
        if step % self.watching.log_every and step < self.num_steps and not extra:
            return
        seconds = self.clock.seconds
        rate = self.tokens_per_second(step, seconds)
        record = {"step": step, **metrics, **extra}
        record |= {"seconds": round(seconds, 4), "tokens_per_second": round(rate, 1)}
        record |= device_metrics(rate * self.steps.flops_per_token, self.steps.mesh.size)
        self.log.write(record)
        self.progress.show(record)

    def tokens_per_second(self, step: int, seconds: float) -> float:
        """Rate over the last steps; over several, as one step's share of the clock is noisy."""
        before = (list(self.log.recent)[-RATE_WINDOW:] or [{"step": 0, "seconds": 0.0}])[0]
        tokens = (step - before["step"]) * self.config.steps.batch.num_tokens
        return tokens / max(seconds - before["seconds"], 1e-9)

    def evaluate(self) -> None:
        """Writes the newest step's metrics with the validation losses."""
        with self.clock_stopped():
            params, sets = self.state.params, self.validation
            losses = {metric: self.mean_loss(params, batches) for metric, batches in sets.items()}
            val_loss = losses["val_loss"]
            more = self.corpus.validation_metrics(val_loss)
            if self.steps.average is not None:
                average = self.steps.average(self.state)
                more["ema_val_loss"] = self.mean_loss(average, sets["val_loss"])
            with all_or_none():
                self.write_pending(**losses, val_perplexity=perplexity(val_loss), **more)
            if not math.isfinite(val_loss):
                raise self.diverged(f"val_loss is {val_loss} after step {self.step}")
            self.val_loss = val_loss

    def mean_loss(self, params: Any, batches: list[Any]) -> float:
        """Over some batches, without a change of anything."""
        losses = [self.steps.evaluate(params, batch) for batch in batches]
        return float(np.mean([float(loss) for loss in losses]))

    def save(self) -> None:
        """Writes the newest step's metrics, then a checkpoint of its state, if that is finite."""
        with self.clock_stopped():
            with all_or_none():
                self.write_pending()
                self.log.sync()  # a resume needs the records up to its checkpoint
            if not self.steps.all_finite(self.state):
                raise self.diverged(
                    f"a parameter or optimizer state is not finite after step {self.step}"
                )
            self.checkpoints.save(self.step, self.state, self.data.get_state(), self.val_loss)

    def diverged(self, what: str) -> TrainingFailedError:
        """The error of a run whose numbers are not finite any more."""
        self.checkpoints.wait()
        return TrainingFailedError(
            f"{what}; last good checkpoint: {self.checkpoints.describe_latest()}. "
            "Try a lower --learning-rate, a longer --warmup-steps or a lower --clip-norm.",
            diverged=True,
        )

    def plot(self) -> None:
        """Draws loss.png from metrics.jsonl."""
        self.log.sync()
        if self.log.recent and is_first():
            records = read_metrics(self.folder / METRICS_FILE)
            plot_run(records, self.folder / "loss.png", title=self.folder.name)


@contextlib.contextmanager
def open_run(
    config: ResolvedRun, steps: CompiledSteps, corpus: RunData, console: Console
) -> Iterator[Run]:
    """A `Run`, closed in the end."""
    with contextlib.ExitStack() as stack:
        yield Run(config, steps, corpus, console, stack)


def train_run(
    config: ResolvedRun, steps: CompiledSteps, corpus: RunData, console: Console
) -> dict[str, Any]:
    """Trains one run, writes everything that its folder holds, and returns the content of its
    summary.json. Raises as `Run.train`."""
    with StopRequest() as stop, open_run(config, steps, corpus, console) as run:
        try:
            run.train(stop)
            run.checkpoints.wait()
        except BaseException:
            run.plot()
            raise
        summary = summarize(config.variant, steps, run.log.recent)
        with all_or_none():
            run.plot()
            if is_first():
                write_json(config.folder / "summary.json", summary)
    return summary
