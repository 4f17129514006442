"""What does the training loop cost beside its own jitted step, and does the data keep up?

Run from the repository's root: ``python -m benchmarks.measure.loop``. Trains the default small
Llama by train.py's own loop (data, metrics.jsonl, progress line, stop requests), and makes the same
number of steps with nothing but the compiled step, turn by turn in one run. Then draws batches from
the same text in memory and from memory-mapped arrays. Prints both and writes
benchmarks/results/loop.json.
"""

import dataclasses
import io
import pathlib
import tempfile
import time
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
from rich.console import Console

from benchmarks.record import begin, command_line, write_json
from benchmarks.tables import markdown_table
from benchmarks.timing import ROUNDS, Spread, check_rounds, median, ratio
from training.commands.prepare import PrepareConfig, prepare
from training.config.model import preset_model
from training.config.options import flat, with_options
from training.config.pretraining import CorpusOptions, PretrainConfig
from training.config.resolved import ResolvedRun
from training.data.corpus import Corpus, load_corpus
from training.data.questions_corpus import FinetuneData
from training.runs.interruption import StopRequest
from training.runs.loop import Run, open_run
from training.runs.resolve import resolve_pretraining
from training.steps.compiled import CompiledSteps, compile_steps
from training.steps.mesh import make_mesh
from training.steps.objective import next_token
from training.steps.update import step_arguments

PIPELINE_SECONDS = 2.0
HOST_STEPS = 500


class BareSteps:
    """The compiled step again and again on one batch, its metrics read by nobody.

    Args:
        config: of the run.
        steps: the loop's own.
        corpus: for the batch.
    """

    def __init__(self, config: ResolvedRun, steps: CompiledSteps, corpus: Corpus | FinetuneData):
        self._steps = steps
        self._state = steps.init(config.variant)
        self._batch = steps.shard_batch(next(corpus.train_batches(config.steps.batch, 0, 0, 1)))
        self._arguments = steps.replicate(step_arguments(config.variant))

    def seconds(self, count: int) -> float:
        """For each of `count` steps."""
        start = time.perf_counter()
        for _ in range(count):
            self._state, metrics = self._steps.train(self._state, self._batch, self._arguments)
        jax.block_until_ready((self._state, metrics))
        return (time.perf_counter() - start) / count


def loop_seconds(run: Run, stop: StopRequest, count: int) -> float:
    """For each of `count` steps of the loop, by the loop's own clock.

    The clock, which gives metrics.jsonl its seconds and tokens_per_second, stands still only while
    the loop evaluates and saves: here once at the end of every turn, where nothing is written.
    """
    run.num_steps = run.step + count
    before = run.clock.seconds
    with mock.patch.object(run.checkpoints, "save"):
        run.train(stop)
    return (run.clock.seconds - before) / count


def host_seconds(run: Run, stop: StopRequest, count: int) -> float:
    """The processor's seconds per step of the loop alone, around a step that does nothing.

    Other programs on the machine hardly disturb it, as they do the clock's.
    """
    metrics = {name: jnp.float32(1) for name in ("loss", "grad_norm", "learning_rate")}
    nothing = lambda state, batch, arguments: (state, metrics)
    run.steps = dataclasses.replace(run.steps, train=nothing)
    loop_seconds(run, stop, 2)
    start = time.process_time()
    loop_seconds(run, stop, count)
    return (time.process_time() - start) / count


def compare(
    config: ResolvedRun, folder: pathlib.Path, rounds: int, count: int
) -> tuple[dict[str, list[float]], float]:
    """Seconds per step of the loop and of the bare step, one number a round; `host_seconds`.

    Args:
        config: of the run.
        folder: for it.
        rounds: turns of each.
        count: steps in a turn.
    """
    config = resolve_pretraining(with_options(config.options, out=folder / "run"))
    corpus = load_corpus(config.options.corpus)
    model = preset_model(config.options.model, config.options.numbers, corpus.tokenizer.vocab_size)
    steps = compile_steps(config.steps, model, make_mesh(config.mesh), next_token())
    samples: dict[str, list[float]] = {"loop": [], "step": []}
    with (
        StopRequest() as stop,
        open_run(config, steps, corpus, Console(file=io.StringIO())) as run,
    ):
        bare = BareSteps(config, steps, corpus)
        bare.seconds(2)
        loop_seconds(run, stop, 2)
        for _ in range(rounds):
            samples["step"].append(bare.seconds(count))
            samples["loop"].append(loop_seconds(run, stop, count))
        return samples, host_seconds(run, stop, HOST_STEPS)


def overhead(samples: dict[str, list[float]]) -> Spread:
    """What the loop takes more than the bare step, as a fraction of it."""
    return Spread(*(value - 1 for value in ratio(samples, "loop", "step")))


def pipeline_rates(config: ResolvedRun, folder: pathlib.Path) -> dict[str, list[float]]:
    """Tokens per second of batches from memory and from mapped files, one number a round."""
    prepared, (data,) = folder / "prepared", config.options.corpus.data
    prepare(PrepareConfig(data=data, out=prepared), Console(file=io.StringIO()))
    sources = {"in memory": data, "memory-mapped": str(prepared)}
    rates: dict[str, list[float]] = {name: [] for name in sources}
    batches = {
        name: load_corpus(CorpusOptions((source,))).train_batches(config.steps.batch, 0)
        for name, source in sources.items()
    }
    for _ in range(ROUNDS):
        for name, iterator in batches.items():
            rates[name].append(_rate(config.steps.batch.num_tokens, iterator))
    return rates


def _rate(num_tokens: int, batches: Any) -> float:
    next(batches)
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < PIPELINE_SECONDS:
        next(batches)
        count += 1
    return count * num_tokens / (time.perf_counter() - start)


def main() -> None:
    """Measures both, prints a table and writes the JSON."""
    parser = command_line(__doc__, "loop", rounds=40)
    parser.add_argument("--steps", type=int, default=4, help="in a round")
    arguments = begin(parser)
    check_rounds(arguments.rounds)
    once = {"checkpoint_every": 0, "eval_every": 0, "eval_batches": 1}
    config = resolve_pretraining(with_options(PretrainConfig(), **once, mesh="data=1"))
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        samples, host = compare(config, folder, arguments.rounds, arguments.steps)
        rates = pipeline_rates(config, folder)
    medians = {source: median(values) for source, values in rates.items()}
    model_rate = config.steps.batch.num_tokens / median(samples["step"])
    rows = [
        ("bare step", f"{median(samples['step']):.4f} s", f"{model_rate:,.0f}", ""),
        (
            "loop",
            f"{median(samples['loop']):.4f} s",
            "",
            f"{overhead(samples):+.1%} on the bare step",
        ),
        ("its own work", f"{host:.4f} s", "", f"{host / median(samples['step']):.2%} of it"),
        *(
            (f"data, {source}", "", f"{rate:,.0f}", f"{rate / model_rate:,.0f} × the model's")
            for source, rate in medians.items()
        ),
    ]
    print(markdown_table(("", "per step", "tokens/s", ""), rows))
    settings = {
        name: flat(config.options)[name]
        for name in ("preset", "optimizer", "batch_size", "seq_len", "data", "mesh")
    }
    write_json(
        arguments.out,
        {
            "settings": settings | {"rounds": arguments.rounds, "steps": arguments.steps},
            "seconds_per_step": samples,
            "loop_host_seconds_per_step": host,
            "model_tokens_per_second": model_rate,
            "pipeline_tokens_per_second": medians,
            "pipeline_samples": rates,
        },
        arguments.commit,
    )


if __name__ == "__main__":
    main()
