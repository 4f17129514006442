"""The training loop: one run from its configuration to its summary."""

import contextlib
import dataclasses
import json
import math
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from rich.console import Console

from training.checkpoint import Checkpoints
from training.config import PretrainConfig, check_same, to_json
from training.corpus import Corpus
from training.data import train_loader, validation_batches
from training.distributed import all_or_none, is_first
from training.errors import TrainingFailedError, UserError, as_user_error
from training.interruption import AgreedStop, InterruptedRunError, StopRequest
from training.metrics import MetricsLog, ProgressLine, TrainingClock, perplexity
from training.plots import plot_run
from training.step import CompiledSteps, TrainState, peak_learning_rates
from training.summary import summarize

RATE_WINDOW = 20  # steps that tokens_per_second is averaged over


def check_run_folder(config: PretrainConfig, checksum: str) -> None:
    """Checks that a new run's folder is free, or that a resumed one's configuration is the same.

    Writes nothing, so that a run that fails to start leaves nothing behind.

    Raises:
        UserError: if a new run's folder is in use, if there is no run to resume, or if its
            configuration differs.
    """
    folder = config.out
    saved = folder / "config.json"
    if config.resume:
        if not saved.exists():
            raise UserError(f"--resume: there is no run in {folder} (no config.json)")
        check_same(saved, to_json(config, checksum))
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(
            f"{folder} exists already: continue that run with --resume, "
            "or give another folder with --out"
        )


def create_run_folder(config: PretrainConfig, checksum: str) -> None:
    """Creates the run's folder, if it is a new one, with its config.json; the first process does.

    Raises:
        UserError: if it cannot be written.
    """
    text = json.dumps(to_json(config, checksum), indent=2) + "\n"
    if not is_first():
        return
    try:
        config.out.mkdir(parents=True, exist_ok=True)
        (config.out / "config.json").write_text(text)
    except OSError as error:
        raise UserError(f"cannot write to {config.out}: {error.strerror}") from error


@dataclasses.dataclass
class Run:
    """A run under way. `train_run` is the way in; the methods are the steps of its loop."""

    config: PretrainConfig
    steps: CompiledSteps
    checkpoints: Checkpoints
    log: MetricsLog
    progress: ProgressLine
    clock: TrainingClock
    data: Any  # Grain iterator of {"tokens": int32 (batch, seq_len + 1)}
    validation: list[jax.Array]
    state: TrainState
    step: int  # steps dispatched
    pending: dict[str, jax.Array] | None = None  # metrics of a step, not read yet
    pending_step: int = 0

    def train(self, stop: StopRequest) -> None:
        """Runs the remaining steps.

        Raises:
            TrainingFailedError: at a non-finite loss, or a full disk.
            InterruptedRunError: after a signal, with the state saved.
        """
        peaks = self.steps.replicate(peak_learning_rates(self.config))
        agreed = AgreedStop(stop, self.steps.mesh)
        self.clock.start()
        while self.step < self.config.steps:
            tokens = self.steps.shard_batch(next(self.data)["tokens"])
            self.state, metrics = self.steps.train(self.state, tokens, peaks)
            self.step += 1
            # Reading the metrics of the step before, while this one runs, keeps the device busy.
            self.write_pending()
            self.pending, self.pending_step = metrics, self.step
            last = self.step == self.config.steps
            if last or self._due(self.config.eval_every):
                self.evaluate()
            signal_number = agreed.signal_number()
            if last or signal_number or self._due(self.config.checkpoint_every):
                self.save()
            if signal_number and not last:
                self.leave(signal_number)
        self.clock.stop()

    def _due(self, every: int) -> bool:
        return every > 0 and self.step % every == 0

    def write_pending(self, **extra: float) -> None:
        """Waits for the pending metrics, checks and writes them."""
        if self.pending is None:
            return
        names = ("loss", "grad_norm", "learning_rate")
        metrics = {name: float(self.pending[name]) for name in names}
        self.pending = None
        step = self.pending_step
        for name in ("loss", "grad_norm"):
            if not math.isfinite(metrics[name]):
                raise self.diverged(f"{name} is {metrics[name]} at step {step}")
        seconds = self.clock.seconds
        rate = self.tokens_per_second(step, seconds)
        record = {"step": step, **metrics, **extra}
        record |= {"seconds": round(seconds, 4), "tokens_per_second": round(rate, 1)}
        self.log.write(record)
        self.progress.show(record)

    def tokens_per_second(self, step: int, seconds: float) -> float:
        """Rate over the last steps; over several, as one step's share of the clock is noisy."""
        before = self.log.records[-RATE_WINDOW:][:1] or [{"step": 0, "seconds": 0.0}]
        tokens = (step - before[0]["step"]) * self.config.batch_size * self.config.seq_len
        return tokens / max(seconds - before[0]["seconds"], 1e-9)

    def evaluate(self) -> None:
        """Writes the newest step's metrics with the validation loss."""
        jax.block_until_ready(self.pending)
        self.clock.stop()
        losses = [self.steps.evaluate(self.state.params, batch) for batch in self.validation]
        val_loss = float(np.mean([float(loss) for loss in losses]))
        self.write_pending(val_loss=val_loss, val_perplexity=perplexity(val_loss))
        if not math.isfinite(val_loss):
            raise self.diverged(f"val_loss is {val_loss} after step {self.step}")
        self.clock.start()

    def save(self) -> None:
        """Writes the newest step's metrics, then a checkpoint of its state, if that is finite."""
        jax.block_until_ready(self.pending)
        self.clock.stop()
        self.write_pending()
        if not self.steps.all_finite(self.state):
            raise self.diverged(
                f"a parameter or optimizer state is not finite after step {self.step}"
            )
        self.checkpoints.save(self.step, self.state, self.data.get_state())
        self.clock.start()

    def leave(self, signal_number: int) -> None:
        """Completes the save and reports the interruption."""
        self.checkpoints.wait()
        raise InterruptedRunError(
            signal_number,
            f"stopped after step {self.step}; saved {self.checkpoints.describe_latest()}",
        )

    def diverged(self, what: str) -> TrainingFailedError:
        """The error of a run whose numbers are not finite any more."""
        self.checkpoints.wait()
        return TrainingFailedError(
            f"{what}; last good checkpoint: {self.checkpoints.describe_latest()}. "
            "Try a lower --learning-rate, a longer --warmup-steps or a lower --clip-norm.",
            diverged=True,
        )


@contextlib.contextmanager
def open_run(
    config: PretrainConfig, steps: CompiledSteps, corpus: Corpus, console: Console
) -> Iterator[Run]:
    """A run at its first step, or where its newest checkpoint left it, and closed in the end."""
    index, count = steps.process_rows
    with all_or_none(), as_user_error():
        data = train_loader(
            corpus.training,
            config.batch_size,
            config.seq_len,
            config.seed,
            shard_index=index,
            shard_count=count,
        )
        validation = validation_batches(
            corpus.validation, config.batch_size, config.seq_len, config.eval_batches
        )
        if not config.resume:
            create_run_folder(config, corpus.checksum)
    with contextlib.ExitStack() as stack:
        checkpoints = Checkpoints(config.out / "checkpoints", config.keep_checkpoints)
        stack.callback(checkpoints.close)
        step = checkpoints.latest_step() or 0
        if step:
            state, data_state = checkpoints.restore(step, steps.abstract_state)
            data.set_state(data_state)
        else:
            state = steps.init(config)
        with all_or_none():
            # Not before its checkpoint is known to fit, so that a resume that fails changes nothing
            create_run_folder(config, corpus.checksum)
            if is_first():
                corpus.save_to_run(config.out)
        log = MetricsLog(config.out / "metrics.jsonl", step, write=is_first())
        stack.callback(log.close)
        tokens_per_step = config.batch_size * config.seq_len
        progress = ProgressLine(console, config.steps, step, tokens_per_step)
        yield Run(
            config=config,
            steps=steps,
            checkpoints=checkpoints,
            log=log,
            progress=stack.enter_context(progress),
            clock=TrainingClock(log.records[-1]["seconds"] if log.records else 0.0),
            data=data,
            validation=[steps.shard_whole_batch(batch) for batch in validation],
            state=state,
            step=step,
        )


def train_run(
    config: PretrainConfig, steps: CompiledSteps, corpus: Corpus, console: Console
) -> dict[str, Any]:
    """Trains one run and writes everything that its folder holds.

    Args:
        config: resolved; its folder, `out`, has passed `check_run_folder`.
        steps: compiled for this configuration.
        corpus: its data.
        console: for progress.

    Returns:
        The content of summary.json.

    Raises:
        UserError: for data or a folder that cannot be used.
        TrainingFailedError: for a non-finite loss or a full disk.
        InterruptedRunError: after a signal, with the state saved.
    """
    folder = config.out
    with (
        StopRequest() as stop,
        open_run(config, steps, corpus, console) as run,
        run.checkpoints.full_disk_explained(),
    ):
        try:
            run.train(stop)
            run.checkpoints.wait()
        finally:
            if run.log.records and is_first():
                plot_run(run.log.records, folder / "loss.png", title=folder.name)
        summary = summarize(config, steps, run.log.records)
        with all_or_none():
            if is_first():
                (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    return summary
