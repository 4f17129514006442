"""`train.py finetune`: from a model and questions with answers to a fine-tuned model's folder."""

import dataclasses
import math
from typing import Any

import jax
from etils import epath
from flax import nnx
from jax.sharding import Mesh
from rich.console import Console

from models.configs import LlamaConfig
from training.checkpoints.pretrained import (
    MODEL,
    PretrainedModel,
    newest_parameters,
    open_model,
    save_model,
    with_parameters,
)
from training.commands.pretrain import resolve_config
from training.config.finetuning import FinetuneConfig
from training.data.questions_corpus import FinetuneData, load_finetune_data, steps_of
from training.errors import UserError
from training.runs.distributed import all_or_none
from training.runs.folder import check_run_folder
from training.runs.loop import train_run
from training.runs.summary import summary_table
from training.steps.answer_loss import answers_only
from training.steps.compiled import CompiledSteps, compile_steps
from training.steps.mesh import make_mesh, parse_mesh
from training.steps.optimizers import get_entry
from training.steps.update import TrainState

# Default learning rate over the optimizer's own, which is for random weights.
RATE_RATIO = 0.1


def finetune(config: FinetuneConfig, console: Console) -> dict[str, Any]:
    """Trains a model on the answers to questions, writes it, and prints the closing table.

    Args:
        config: as given; resolved here.
        console: for progress and the table.

    Returns:
        The content of the run's summary.json.

    Raises:
        UserError: for a model, data, options or a folder that cannot be used.
        TrainingFailedError: for a non-finite loss or a full disk.
        InterruptedRunError: after a signal, with the state saved.
    """
    with all_or_none():
        check_options(config)
        source = open_model(config.model)
        config = dataclasses.replace(config, out=run_folder(config))
        data = load_finetune_data(config, source)
        config = resolve_for(config, data)
        check_run_folder(config, data.checksum)
    announce(config, source, data, console)
    mesh = make_mesh(parse_mesh(config.mesh, jax.device_count()))
    steps = compile_for(config, source, mesh)
    summary = train_run(config, steps, data, console)
    with all_or_none():
        write_model(config, source, data, mesh)
    console.print(summary_table(summary, f"{config.out / MODEL} (step {summary['step']})"))
    return summary


def check_options(config: FinetuneConfig) -> None:
    """Checks everything that needs neither data nor a model.

    Raises:
        UserError: naming the option, its value and the remedy.
    """
    # None is left to the data; anything else is checked as it is.
    steps = 1 if config.steps is None else config.steps
    seq_len = 1 if config.seq_len is None else config.seq_len
    resolve_config(_with_defaults(config, steps=steps, seq_len=seq_len))
    if not 0 < config.epochs < math.inf:
        raise UserError(f"--epochs is {config.epochs}, but must be greater than 0")


def run_folder(config: FinetuneConfig) -> epath.Path:
    """`--out`, or its default."""
    name = f"finetune-{config.model.resolve().name}-{config.optimizer}-{config.seed}"
    return epath.Path(config.out or f"runs/{name}")


def _with_defaults(config: FinetuneConfig, *, steps: int, seq_len: int) -> FinetuneConfig:
    rate = config.learning_rate
    if rate is None:
        rate = RATE_RATIO * get_entry(config.optimizer).learning_rate
    return dataclasses.replace(config, learning_rate=rate, steps=steps, seq_len=seq_len)


def resolve_for(config: FinetuneConfig, data: FinetuneData) -> FinetuneConfig:
    """The configuration with every default replaced by its value.

    Args:
        config: with its folder.
        data: of the run, which decides the length of rows and the number of steps.

    Raises:
        UserError: naming an option, its value and what it must be.
    """
    steps = config.steps or steps_of(config.epochs, len(data.training), config.batch_size)
    config = _with_defaults(config, steps=steps, seq_len=data.seq_len)
    config = dataclasses.replace(config, template=data.prompt.template, preset=config.model.name)
    return resolve_config(config)


def model_config(config: FinetuneConfig, source: PretrainedModel) -> LlamaConfig:
    """The model's configuration in the types of the command line."""
    return dataclasses.replace(
        source.config, dtype=config.dtype, param_dtype=config.param_dtype, remat=config.remat
    )


def compile_for(config: FinetuneConfig, source: PretrainedModel, mesh: Mesh) -> CompiledSteps:
    """The compiled functions of a run that starts from a model.

    Args:
        config: resolved.
        source: the model.
        mesh: of the run.
    """
    objective = answers_only(packing=config.packing)
    steps = compile_steps(config, model_config(config, source), mesh, objective)

    def init(run: FinetuneConfig) -> TrainState:
        model = source.load(mesh, run.dtype, run.param_dtype)
        return steps.init_from(run, nnx.to_pure_dict(nnx.state(model, nnx.Param)))

    return dataclasses.replace(steps, init=init)


def write_model(
    config: FinetuneConfig, source: PretrainedModel, data: FinetuneData, mesh: Mesh
) -> None:
    """Writes OUT/model from the run's last checkpoint, unless it is there already.

    Raises:
        UserError: it cannot be written.
    """
    folder = config.out / MODEL
    if folder.exists():
        return
    model = model_config(config, source)
    params = newest_parameters(config.out, model, mesh)
    save_model(with_parameters(model, params), source, data.prompt, folder)


def announce(
    config: FinetuneConfig, source: PretrainedModel, data: FinetuneData, console: Console
) -> None:
    """Says what is about to happen."""
    rank = "" if config.rank is None else f", rank {config.rank}"
    zero = ", ZeRO" if config.zero else ""
    packed = ", packed" if config.packing else ""
    console.print(
        f"{source.folder} | {config.optimizer}, learning rate {config.learning_rate:g}{rank} | "
        f"{config.steps} steps of {config.batch_size} x {config.seq_len} tokens{packed} | "
        f"{config.mesh}{zero} ({jax.default_backend()})\n{config.data}: {data.description}",
        highlight=False,
        markup=False,
    )
