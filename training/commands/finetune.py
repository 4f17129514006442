"""`train.py finetune`: from a model and questions with answers to a fine-tuned model's folder."""

import dataclasses
import math
from typing import Any

from flax import nnx
from jax.sharding import Mesh
from rich.console import Console

from models.configs import LlamaConfig
from training.checkpoints.origin import newest_parameters, with_parameters
from training.checkpoints.pretrained import MODEL, PretrainedModel, Weights, open_model, save_model
from training.config.finetuning import FinetuneConfig
from training.config.model import NumberOptions
from training.config.options import with_options
from training.config.resolved import ResolvedRun, Variant
from training.data.questions_corpus import FinetuneData, load_finetune_data
from training.distributed import all_or_none, is_first
from training.files import absolute
from training.runs.folder import check_run_folder
from training.runs.loop import train_run
from training.runs.resolve import check_config, resolve
from training.runs.summary import announce, summary_table
from training.steps.compiled import CompiledSteps, compile_steps
from training.steps.mesh import make_mesh
from training.steps.objective import answers_only
from training.steps.optimizers import get_entry
from training.steps.update import TrainState

# Default learning rate over the optimizer's own, which is for random weights.
RATE_RATIO = 0.1


def finetune(config: FinetuneConfig, console: Console) -> dict[str, Any]:
    """Trains a model on the answers to questions, writes it, prints the closing table, and returns
    the content of the run's summary.json. Raises as `train_run`."""
    with all_or_none():
        check_config(config)
        source = open_model(config.model)
        longest = source.config.max_position
        data = load_finetune_data(config.questions, source.tokenizer, source.prompt, longest)
        run = resolve_for(config, data)
        check_run_folder(run, data)
    announce(run, str(source.folder), f"{config.questions.data}: {data.description}", console)
    mesh = make_mesh(run.mesh)
    steps = compile_for(config, run, source, mesh)
    summary = train_run(run, steps, data, console)
    write_models(run, with_numbers(source, config.numbers), source, data, mesh)
    console.print(summary_table(summary, f"{run.folder / MODEL['last']} (step {summary['step']})"))
    return summary


def resolve_for(config: FinetuneConfig, data: FinetuneData) -> ResolvedRun:
    """The run with every default replaced, by its data the length of rows and the number of
    steps."""
    epoch = len(data.training) / config.batch.batch_size
    steps = config.steps or max(1, math.ceil(config.epochs * epoch))
    optimizer, model = config.run.optimizer, absolute(config.model).name
    return resolve(
        with_options(config, template=data.prompt.template),
        steps=steps,
        seq_len=data.training.seq_len,
        learning_rate=RATE_RATIO * get_entry(optimizer).learning_rate,
        folder=f"runs/finetune-{model}-{optimizer}-{config.run.seed}",
    )


def with_numbers(source: PretrainedModel, numbers: NumberOptions) -> LlamaConfig:
    """The model's configuration in the types of the command line."""
    return dataclasses.replace(
        source.config, dtype=numbers.dtype, param_dtype=numbers.param_dtype, remat=numbers.remat
    )


def compile_for(
    config: FinetuneConfig, run: ResolvedRun, source: PretrainedModel, mesh: Mesh
) -> CompiledSteps:
    """The compiled functions of a run that starts from a model."""
    numbers = config.numbers
    objective = answers_only(packing=config.questions.packing)
    steps = compile_steps(run.steps, with_numbers(source, numbers), mesh, objective)

    def init(variant: Variant) -> TrainState:
        model = source.load(mesh, numbers.dtype, numbers.param_dtype)
        return steps.init_from(variant, nnx.to_pure_dict(nnx.state(model, nnx.Param)))

    return dataclasses.replace(steps, init=init)


def write_models(
    run: ResolvedRun, model: LlamaConfig, source: PretrainedModel, data: FinetuneData, mesh: Mesh
) -> None:
    """Writes RUN/model from the run's last checkpoint, and with the average of the weights
    RUN/model-ema, if there is one; in place of those of fewer steps."""
    decays: dict[Weights, float] = {"last": 0.0}
    if run.steps.ema_decay:
        decays["ema"] = run.steps.ema_decay
    for weights, decay in decays.items():
        folder = run.folder / MODEL[weights]
        with all_or_none():
            params = newest_parameters(run.folder, model, mesh, decay)
            if is_first() and folder.exists():
                folder.rmtree()
            save_model(with_parameters(model, params), source, data.prompt, folder)
