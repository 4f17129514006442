"""One run from its configuration to its summary."""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

from rich.console import Console

from training.checkpoints.manager import Checkpoints
from training.checkpoints.origin import CHECKPOINTS
from training.checkpoints.resume import begin, find_start
from training.config.finetuning import FinetuneConfig
from training.config.options import to_json
from training.config.pretraining import InitOptions, PretrainConfig
from training.config.resolved import ResolvedRun
from training.json_files import write_json
from training.runs.diagnostics import Diagnostics
from training.runs.distributed import all_or_none, is_first
from training.runs.folder import RunData, check_extension, create_run_folder
from training.runs.interruption import StopRequest
from training.runs.metrics import (
    METRICS_FILE,
    MetricsLog,
    ProgressLine,
    TrainingClock,
    read_metrics,
)
from training.runs.run import Run
from training.runs.summary import summarize
from training.runs.trace import Trace
from training.runs.writers import open_writers
from training.steps.compiled import CompiledSteps
from training.steps.update import step_arguments


@contextlib.contextmanager
def open_run(
    config: ResolvedRun, steps: CompiledSteps, corpus: RunData, console: Console
) -> Iterator[Run]:
    """A run at its first step, or where its newest checkpoint left it, and closed in the end."""
    batch, options, folder = config.steps.batch, config.options, config.folder
    with all_or_none():
        data = corpus.train_batches(batch, config.variant.seed, *steps.process_rows)
        validation = corpus.validation_batches(batch)
    say = functools.partial(console.print, markup=False, highlight=False)
    start = None
    if not config.resumed_folder:
        start = begin(config.init, config.variant, steps, say)
        with all_or_none():
            create_run_folder(folder, _record(options, start.init, corpus.checksum))
    with contextlib.ExitStack() as stack:
        checkpoints = Checkpoints(folder / CHECKPOINTS, options.checkpoints)
        stack.callback(checkpoints.close)
        stack.enter_context(checkpoints.full_disk_explained())
        start = start or find_start(folder, config.variant, steps, checkpoints, say)
        if start.data_state is not None:
            data.set_state(start.data_state)
        if config.resumed_folder:
            with all_or_none():
                check_extension(config, start.step)
        record = _record(options, start.init, corpus.checksum)
        with all_or_none():
            # Not before its checkpoint is known to fit, so that a resume that fails changes nothing
            create_run_folder(folder, record)
            if is_first():
                corpus.save_to_run(folder)
        with all_or_none():
            log, diagnostics = _open_files(stack, config, steps, start.step, record)
        num_steps = config.steps.schedule.steps
        progress = ProgressLine(console, num_steps, start.step, batch.num_tokens)
        yield Run(
            folder=folder,
            num_steps=num_steps,
            checkpoint_every=options.checkpoints.checkpoint_every,
            eval_every=options.watching.eval_every,
            log_every=options.watching.log_every,
            trace=stack.enter_context(Trace(folder, options.watching.profile)),
            steps=steps,
            arguments=steps.replicate(step_arguments(config.variant)),
            checkpoints=checkpoints,
            log=log,
            diagnostics=diagnostics,
            progress=stack.enter_context(progress),
            clock=TrainingClock(_seconds_at(start.step, log)),
            corpus=corpus,
            data=data,
            validation={
                metric: [steps.shard_whole_batch(rows) for rows in batches]
                for metric, batches in validation.items()
            },
            state=start.state,
            step=start.step,
        )


def _seconds_at(step: int, log: MetricsLog) -> float:
    """Of training until a step, by the last record before it."""
    last = log.recent[-1] if log.recent else None
    return last["seconds"] * step / last["step"] if last else 0.0


def _record(
    options: PretrainConfig | FinetuneConfig, init: InitOptions, checksum: str
) -> dict[str, Any]:
    """The content of config.json."""
    if isinstance(options, PretrainConfig):
        options = dataclasses.replace(options, init=init)
    return to_json(options, checksum)


def _open_files(
    stack: contextlib.ExitStack,
    config: ResolvedRun,
    steps: CompiledSteps,
    step: int,
    record: dict[str, Any],
) -> tuple[MetricsLog, Diagnostics]:
    """What is written of a run from a step on; the stack closes it."""
    folder, watching = config.folder, config.options.watching
    log = MetricsLog(folder / METRICS_FILE, step, write=is_first())
    stack.callback(log.close)
    if is_first() and watching.log:
        records = read_metrics(folder / METRICS_FILE)
        log.copy_to(stack.enter_context(open_writers(watching.log, folder, records, record)))
    diagnostics = Diagnostics(
        folder, watching.diagnostics_every, step, steps.overlaps, write=is_first()
    )
    stack.callback(diagnostics.close)
    return log, diagnostics


def train_run(
    config: ResolvedRun, steps: CompiledSteps, corpus: RunData, console: Console
) -> dict[str, Any]:
    """Trains one run and writes everything that its folder holds.

    Args:
        config: of the run; its folder has passed `check_run_folder`.
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
