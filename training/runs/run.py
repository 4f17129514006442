"""A run under way: its steps, and what is read, written and saved between them."""

import dataclasses
import math
from typing import Any

import grain
import jax
import numpy as np
from etils import epath

from training.checkpoints.manager import Checkpoints
from training.errors import TrainingFailedError
from training.reports.plots import plot_run
from training.runs.diagnostics import Diagnostics
from training.runs.distributed import is_first
from training.runs.folder import RunData
from training.runs.interruption import AgreedStop, InterruptedRunError, StopRequest
from training.runs.metrics import (
    METRICS_FILE,
    MetricsLog,
    ProgressLine,
    TrainingClock,
    perplexity,
    read_metrics,
)
from training.runs.trace import Trace
from training.runs.utilization import device_metrics
from training.steps.compiled import CompiledSteps
from training.steps.spikes import checked_metrics
from training.steps.update import StepArguments, TrainState

RATE_WINDOW = 20  # records that tokens_per_second is averaged over


@dataclasses.dataclass
class Run:
    """A run under way. `train_run` is the way in; the methods are the steps of its loop."""

    folder: epath.Path
    num_steps: int  # of the whole run
    checkpoint_every: int
    eval_every: int
    log_every: int
    trace: Trace
    steps: CompiledSteps
    arguments: StepArguments
    checkpoints: Checkpoints
    log: MetricsLog
    diagnostics: Diagnostics
    progress: ProgressLine
    clock: TrainingClock
    corpus: RunData
    data: grain.DatasetIterator  # of this process's rows
    validation: dict[str, list[Any]]  # metric -> batches on the devices
    state: TrainState
    step: int  # steps dispatched
    pending: dict[str, jax.Array] | None = None  # metrics of a step, not read yet
    pending_step: int = 0
    val_loss: float | None = None  # of the state of `evaluated_step`
    evaluated_step: int = 0

    def train(self, stop: StopRequest) -> None:
        """Runs the remaining steps.

        Raises:
            TrainingFailedError: at a non-finite loss, or a full disk.
            InterruptedRunError: after a signal, with the state saved.
        """
        agreed = AgreedStop(stop, self.steps.mesh)
        self.clock.start()
        while self.step < self.num_steps:
            batch = self.steps.shard_batch(next(self.data))
            if self.diagnostics.due(self.step + 1):
                self.look(batch)
            self.trace.before(self.step + 1)
            self.state, metrics = self.steps.train(self.state, batch, self.arguments)
            self.step += 1
            # Reading the metrics of the step before, while this one runs, keeps the device busy.
            self.write_pending()
            self.pending, self.pending_step = metrics, self.step
            self.trace.after(self.step, metrics)
            last = self.step == self.num_steps
            if last or self._due(self.eval_every):
                self.evaluate()
            signal_number = agreed.signal_number()
            if last or signal_number or self._due(self.checkpoint_every):
                self.save()
            if signal_number and not last:
                self.leave(signal_number)
        self.clock.stop()

    def look(self, batch: Any) -> None:
        """Measures the matrices at the step that comes next, in its own time."""
        jax.block_until_ready(self.pending)
        self.clock.stop()
        look = self.steps.look(self.state, batch, self.arguments)
        self.diagnostics.record(self.step + 1, look)
        self.clock.start()

    def _due(self, every: int) -> bool:
        return every > 0 and self.step % every == 0

    def write_pending(self, **extra: float) -> None:
        """Waits for the pending metrics, checks and writes them."""
        if self.pending is None:
            return
        metrics, problem = checked_metrics(jax.device_get(self.pending), self.steps.options.spikes)
        self.pending = None
        step = self.pending_step
        if problem:
            raise self.diverged(f"{problem} at step {step}")
        if step % self.log_every and step < self.num_steps and not extra:
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
        recent = list(self.log.recent)[-RATE_WINDOW:]
        before = recent[0] if recent else {"step": 0, "seconds": 0.0}
        tokens = (step - before["step"]) * self.steps.options.batch.num_tokens
        return tokens / max(seconds - before["seconds"], 1e-9)

    def evaluate(self) -> None:
        """Writes the newest step's metrics with the validation losses."""
        jax.block_until_ready(self.pending)
        self.clock.stop()
        losses = {}
        for metric, batches in self.validation.items():
            values = [self.steps.evaluate(self.state.params, batch) for batch in batches]
            losses[metric] = float(np.mean([float(value) for value in values]))
        val_loss = losses["val_loss"]
        self.write_pending(
            **losses,
            val_perplexity=perplexity(val_loss),
            **self.corpus.validation_metrics(val_loss),
        )
        if not math.isfinite(val_loss):
            raise self.diverged(f"val_loss is {val_loss} after step {self.step}")
        self.val_loss, self.evaluated_step = val_loss, self.step
        self.clock.start()

    def save(self) -> None:
        """Writes the newest step's metrics, then a checkpoint of its state, if that is finite."""
        jax.block_until_ready(self.pending)
        self.clock.stop()
        self.write_pending()
        self.log.sync()  # a resume needs the records up to its checkpoint
        if not self.steps.all_finite(self.state):
            raise self.diverged(
                f"a parameter or optimizer state is not finite after step {self.step}"
            )
        val_loss = self.val_loss if self.evaluated_step == self.step else None
        self.checkpoints.save(self.step, self.state, self.data.get_state(), val_loss)
        self.clock.start()

    def leave(self, signal_number: int) -> None:
        """Completes the save and reports the interruption."""
        self.checkpoints.wait()
        raise InterruptedRunError(
            signal_number,
            f"stopped after step {self.step}; saved {self.checkpoints.describe_latest()}",
        )

    def plot(self) -> None:
        """Draws loss.png from metrics.jsonl."""
        self.log.sync()
        if self.log.recent and is_first():
            records = read_metrics(self.folder / METRICS_FILE)
            plot_run(records, self.folder / "loss.png", title=self.folder.name)

    def diverged(self, what: str) -> TrainingFailedError:
        """The error of a run whose numbers are not finite any more."""
        self.checkpoints.wait()
        return TrainingFailedError(
            f"{what}; last good checkpoint: {self.checkpoints.describe_latest()}. "
            "Try a lower --learning-rate, a longer --warmup-steps or a lower --clip-norm.",
            diverged=True,
        )
