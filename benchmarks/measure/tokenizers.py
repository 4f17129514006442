"""Does a BPE trained on the corpus give a better model of text than bytes do, at equal cost?

Run from the repository's root: ``python -m benchmarks.measure.tokenizers``. Trains the small Llama
with two layers on the standard library's source through every tokenizer, each at several learning
rates, for as many steps as the same number of floating-point operations pays for, counted by the
compiler. Prints a table and writes benchmarks/results/tokenizers.json.
"""

import functools
import itertools
import pathlib
import tempfile
from typing import Any
from unittest import mock

import jax
import numpy as np
from rich.console import Console

from benchmarks.record import begin, command_line, write_json
from benchmarks.tables import markdown_table
from training.config.model import preset_model
from training.config.options import flat, with_options
from training.config.pretraining import PretrainConfig
from training.config.resolved import ResolvedRun
from training.data.corpus import Corpus, load_corpus
from training.runs.loop import train_run
from training.runs.metrics import read_metrics
from training.runs.resolve import resolve_pretraining
from training.steps.compiled import CompiledSteps, compile_steps
from training.steps.mesh import make_mesh
from training.steps.objective import next_token

TOKENIZERS = ("bytes", "bpe:1024", "bpe:2048", "bpe:4096")
LEARNING_RATES = (0.01, 0.02, 0.04, 0.08)
BASE = with_options(
    PretrainConfig(),
    preset="small",
    num_layers=2,
    optimizer="trion",
    fallback_learning_rate=0.003,
    batch_size=8,
    seq_len=256,
    eval_every=0,
    checkpoint_every=0,
    eval_batches=200,
)
"""All but the tokenizer, the learning rate and the number of steps."""

BYTE_STEPS = 600
"""Steps of the byte model: the operations that every other model may spend as well."""

CURVE_POINTS = 12
"""Points of the training curve that are kept, each a mean over the steps since the last one."""


def compile_for(config: ResolvedRun, corpus: Corpus) -> CompiledSteps:
    """The compiled functions of a run."""
    model = preset_model(config.options.model, config.options.numbers, corpus.tokenizer.vocab_size)
    return compile_steps(config.steps, model, make_mesh(config.mesh), next_token())


def step_flops(config: ResolvedRun, corpus: Corpus) -> float:
    """Floating-point operations of one training step, by the compiler's count.

    The scan over the layers is unrolled for the count: the compiler counts a loop's body once.
    """
    unrolled = functools.partial(jax.lax.scan, unroll=True)
    with mock.patch("jax.lax.scan", unrolled):
        return float(compile_for(config, corpus).train.cost_analysis()["flops"])


def training_curve(
    losses: np.ndarray, bits_per_nat: float, flops_per_step: float
) -> list[dict[str, float]]:
    """Mean training loss over equal stretches of a run.

    Args:
        losses: (steps,), in nats per token.
        bits_per_nat: bits per byte over nats per token.
        flops_per_step: operations of a step.

    Returns:
        Operations spent at the end of each stretch, and its mean bits per byte.
    """
    points = min(CURVE_POINTS, len(losses))
    ends = np.linspace(0, len(losses), points + 1).round().astype(int)
    return [
        {
            "flops": flops_per_step * int(end),
            "train_bits_per_byte": round(float(losses[start:end].mean()) * bits_per_nat, 4),
        }
        for start, end in itertools.pairwise(ends)
    ]


def measure(
    config: ResolvedRun,
    corpus: Corpus,
    flops: float,
    learning_rates: tuple[float, ...],
    console: Console,
) -> dict[str, Any]:
    """Trains one tokenizer's model at every learning rate.

    Args:
        config: of a run, with the number of steps that the operations pay for.
        corpus: through its tokenizer.
        flops: operations of a step.
        learning_rates: peaks of the matrices.
        console: for progress.
    """
    steps = compile_for(config, corpus)
    runs, parameters = [], 0
    for rate in learning_rates:
        with tempfile.TemporaryDirectory() as folder:
            out = pathlib.Path(folder) / "run"
            run = resolve_pretraining(with_options(config.options, learning_rate=rate, out=out))
            summary = train_run(run, steps, corpus, console)
            losses = np.array([record["loss"] for record in read_metrics(out / "metrics.jsonl")])
        parameters = summary["parameters"]
        runs.append(
            {
                "learning_rate": rate,
                "val_loss": summary["val_loss"],
                "val_bits_per_byte": round(corpus.bits_per_byte(summary["val_loss"]), 4),
                "seconds": round(summary["seconds"], 1),
                "curve": training_curve(losses, corpus.bits_per_byte(1.0), flops),
            }
        )
        bits = runs[-1]["val_bits_per_byte"]
        console.print(f"{corpus.tokenizer.name}, learning rate {rate}: {bits}")
    num_steps, batch = config.steps.schedule.steps, config.steps.batch
    tokens = num_steps * batch.num_tokens
    (source,) = corpus.sources
    bytes_per_token = source.num_bytes("validation") / len(source.validation)
    return {
        "vocabulary": corpus.tokenizer.vocab_size,
        "bytes_per_token": round(bytes_per_token, 4),
        "parameters": parameters,
        "flops_per_step": flops,
        "steps": num_steps,
        "flops": flops * num_steps,
        "tokens": tokens,
        "text_bytes": round(tokens * source.num_bytes("training") / len(source.training)),
        "context_bytes": round(batch.seq_len * bytes_per_token),
        "runs": runs,
        "best": min(runs, key=lambda run: run["val_bits_per_byte"])["val_bits_per_byte"],
    }


def experiment(
    base: PretrainConfig,
    tokenizers: tuple[str, ...],
    learning_rates: tuple[float, ...],
    byte_steps: int,
    console: Console,
) -> dict[str, Any]:
    """All models at the cost of `byte_steps` steps of the first tokenizer's.

    Returns:
        tokenizer -> what `measure` returns.
    """
    results: dict[str, Any] = {}
    budget = None
    for name in tokenizers:
        config = resolve_pretraining(with_options(base, tokenizer=name, steps=byte_steps))
        corpus = load_corpus(config.options.corpus)
        flops = step_flops(config, corpus)
        budget = budget or flops * byte_steps
        steps = round(budget / flops)
        config = resolve_pretraining(with_options(base, tokenizer=name, steps=steps))
        results[name] = measure(config, corpus, flops, learning_rates, console)
    return results


def table(results: dict[str, Any]) -> str:
    """The results as Markdown, a row per tokenizer."""
    rates = [run["learning_rate"] for run in next(iter(results.values()))["runs"]]
    header = ("tokenizer", "bytes per token", "parameters", "GFLOP per step", "steps", "text read")
    header += tuple(f"bits per byte, lr {rate:g}" for rate in rates)
    rows = [
        (
            name,
            f"{row['bytes_per_token']:.2f}",
            f"{row['parameters']:,}",
            f"{row['flops_per_step'] / 1e9:.2f}",
            row["steps"],
            f"{row['text_bytes'] / 1e6:.2f} MB",
            *(f"{run['val_bits_per_byte']:.3f}" for run in row["runs"]),
        )
        for name, row in results.items()
    ]
    return markdown_table(header, rows)


def main() -> None:
    """Measures, prints and writes the results."""
    parser = command_line(__doc__, "tokenizers", rounds=None)
    parser.add_argument("--byte-steps", type=int, default=BYTE_STEPS)
    options = begin(parser)
    results = experiment(BASE, TOKENIZERS, LEARNING_RATES, options.byte_steps, Console())
    setting = {
        key: flat(BASE)[key]
        for key in (
            "preset",
            "num_layers",
            "optimizer",
            "fallback_learning_rate",
            "batch_size",
            "seq_len",
            "eval_batches",
            "data",
        )
    }
    write_json(options.out, {"setting": setting, "tokenizers": results}, options.commit)
    print(table(results))


if __name__ == "__main__":
    main()
