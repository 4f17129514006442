"""`train.py pretrain`: from options to a trained model and its closing table."""

from typing import Any

import jax
from rich.console import Console

from training.config.model import model_config
from training.config.pretraining import PretrainConfig, check, resolve
from training.data.corpus import Corpus, load_corpus
from training.runs.distributed import all_or_none
from training.runs.folder import check_run_folder
from training.runs.loop import train_run
from training.runs.summary import summary_table
from training.steps.compiled import compile_steps
from training.steps.mesh import make_mesh, parse_mesh
from training.steps.optimizers import accepted_options, check_options, check_zero, get_entry


def resolve_config(config: PretrainConfig) -> PretrainConfig:
    """Checks everything that needs neither data nor a model and fills in the defaults.

    Raises:
        UserError: naming the option, its value and the remedy.
    """
    mesh = parse_mesh(config.mesh, jax.device_count(), jax.process_count())
    entry = get_entry(config.optimizer)
    check_options(config, [config.optimizer])
    check(config, mesh)
    if config.zero:
        check_zero(config.optimizer)
    accepted = accepted_options(config.optimizer)
    return resolve(
        config,
        mesh,
        entry.learning_rate,
        low_rank="rank" in accepted,
        has_fallback="fallback_learning_rate" in accepted,
    )


def pretrain(config: PretrainConfig, console: Console) -> dict[str, Any]:
    """Trains one model from random weights and prints the closing table.

    Args:
        config: as given; resolved here.
        console: for progress and the table.

    Returns:
        The content of the run's summary.json.
    """
    with all_or_none():
        config = resolve_config(config)
        corpus = load_corpus(config)
        model = model_config(config, corpus.vocab_size)
        check_run_folder(config, corpus.checksum)
    announce(config, corpus, console)
    steps = compile_steps(config, model, make_mesh(parse_mesh(config.mesh, jax.device_count())))
    summary = train_run(config, steps, corpus, console)
    console.print(summary_table(summary, f"{config.out} (step {summary['step']})"))
    return summary


def announce(config: PretrainConfig, corpus: Corpus, console: Console) -> None:
    """Says what is about to happen."""
    rank = "" if config.rank is None else f", rank {config.rank}"
    zero = ", ZeRO" if config.zero else ""
    count = jax.process_count()
    processes = f", {count} processes" if count > 1 else ""
    console.print(
        f"{config.preset} Llama | {config.optimizer}, learning rate {config.learning_rate:g}"
        f"{rank} | {config.steps} steps of {config.batch_size} x {config.seq_len} "
        f"tokens | {config.mesh}{zero} ({jax.default_backend()}{processes})\n"
        f"{config.data}: {corpus.description}",
        highlight=False,
    )
