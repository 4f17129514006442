"""From the options of a run, as given, to a run whose options are all decided."""

import jax
from etils import epath

from training.config.finetuning import FinetuneConfig
from training.config.options import flat, part, with_options
from training.config.pretraining import InitOptions, PretrainConfig
from training.config.ranges import check_ranges
from training.config.record import recorded_options
from training.config.resolved import ResolvedRun, StepOptions, Variant
from training.errors import UserError
from training.runs.trace import parse_profile
from training.runs.writers import parse_writers
from training.steps.mesh import batch_shards, mesh_text, parse_mesh
from training.steps.optimizers import (
    accepted_options,
    build_optimizer,
    check_accepted,
    check_zero,
    get_entry,
)


def check_config(config: PretrainConfig | FinetuneConfig) -> dict[str, int]:
    """Checks what needs neither data nor a model; returns the sizes of the mesh's axes."""
    devices, optimizer = config.devices, config.run.optimizer
    mesh = parse_mesh(devices.mesh, jax.device_count(), jax.process_count())
    check_accepted(flat(config), [optimizer])
    check_ranges(flat(config))
    parse_writers(config.watching.log)
    if config.watching.profile:
        parse_profile(config.watching.profile)
    check_batch_size(config.batch.batch_size, mesh, devices.accumulate_steps)
    if devices.zero and mesh.get("data", 1) == 1:
        raise UserError(
            f"--zero splits the optimizer's state over the data axis, and --mesh {mesh_text(mesh)} "
            "has none of 2 or more devices: give one, e.g. --mesh data=2, or leave --zero out "
            "(fsdp splits that state by itself)"
        )
    if devices.zero:
        check_zero(optimizer)
    return mesh


def check_batch_size(batch_size: int, mesh: dict[str, int], micro_batches: int = 1) -> None:
    """Checks that a batch can be split over a mesh."""
    shards = batch_shards(mesh)
    parts = shards * micro_batches
    if batch_size % parts:
        raise UserError(
            f"--batch-size {batch_size} cannot be divided over {shards} device(s) (those of the "
            f"axes data and fsdp) x {micro_batches} micro-batch(es): use a multiple of {parts}, or "
            f"a smaller --mesh (now {mesh_text(mesh)})"
        )


def resolve_pretraining(config: PretrainConfig) -> ResolvedRun:
    """The run that `train.py pretrain` would make; raises as `check_config`."""
    optimizer = config.run.optimizer
    return resolve(
        config,
        steps=config.steps,
        seq_len=config.model.seq_len,
        learning_rate=get_entry(optimizer).learning_rate,
        folder=f"runs/{config.model.preset}-{optimizer}-{config.run.seed}",
    )


def resolve(
    config: PretrainConfig | FinetuneConfig,
    *,
    steps: int,
    seq_len: int,
    learning_rate: float,
    folder: str,
) -> ResolvedRun:
    """Checks the options and replaces every "default: ..." of theirs by its value; the learning
    rate and the folder are for options that have none."""
    mesh = check_config(config)
    method, schedule, seed = config.method, config.schedule, config.run.seed
    accepted = accepted_options(config.run.optimizer)
    rank = (0.25 if method.rank is None else method.rank) if "rank" in accepted else None
    peak = config.learning_rate or learning_rate
    fallback = method.fallback_learning_rate or peak
    out = epath.Path(config.out or folder)
    warmup_steps = schedule.warmup_steps
    if warmup_steps is None:
        # A run that is resumed with more steps has warmed up already.
        saved = recorded_options(out) if config.run.resume else {}
        warmup_steps = saved.get("warmup_steps", steps // 10)
    options = with_options(
        config,
        steps=steps,
        seq_len=seq_len,
        learning_rate=peak,
        fallback_learning_rate=fallback if "fallback_learning_rate" in accepted else None,
        rank=rank,
        warmup_steps=warmup_steps,
        mesh=mesh_text(mesh),
        out=out,
    )
    steps_options, variant = part(StepOptions, flat(options)), Variant(peak, fallback, seed)
    # Made once in vain: a value that the optimizer refuses is refused before anything is read.
    build_optimizer(
        steps_options.method, learning_rate=peak, fallback_learning_rate=fallback, seed=seed
    )
    return ResolvedRun(
        options=options,
        folder=out,
        mesh=mesh,
        steps=steps_options,
        variant=variant,
        init=config.init if isinstance(config, PretrainConfig) else InitOptions(),
    )
