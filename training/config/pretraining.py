"""What a training run is: its options, their defaults, and the checks that need no data.

The dataclasses below are the command line (tyro reads the field names, types and docstrings), and
`config.json` in a run's folder is the fully resolved `PretrainConfig` plus the data's checksum.
"""

import dataclasses
import os
from typing import Annotated, Any, Literal

import tyro
from etils import epath

from training.config.hyperparameters import Hyperparameters
from training.config.processes import DistributedOptions
from training.config.resuming import CHANGEABLE
from training.config.watching import WatchingOptions, check_watching
from training.errors import UserError, as_flag
from training.folders import Folder
from training.steps.mesh import batch_shards, mesh_text
from training.steps.spikes import SpikeOptions

# Options whose default is not a number say in their text what it is.
_UNSET = tyro.conf.arg(help_behavior_hint="")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Everything that two runs of a comparison share."""

    preset: str = "small"
    """Model size; see models/configs.py."""
    hidden_size: Annotated[int | None, _UNSET] = None
    """Overrides the preset's width; heads and MLP scale with it."""
    num_layers: Annotated[int | None, _UNSET] = None
    """Overrides the preset's depth."""
    steps: int = 500
    """Optimizer steps."""
    batch_size: int = 16
    """Sequences per optimizer step, over all devices and micro-batches."""
    seq_len: int = 256
    """Tokens per sequence."""
    data: str = "stdlib"
    """stdlib (this Python's own source); a file, a folder or a glob of text, JSON lines or Parquet;
    a data set as hf:NAME:CONFIG:SPLIT; or a folder that `train.py prepare` has written."""
    tokenizer: str = "bytes"
    """bytes, bpe:SIZE (trained on the training part of the data), or the path of a tokenizer.json
    or of its folder."""
    verify: bool = dataclasses.field(default=False, metadata=CHANGEABLE)
    """Read prepared data once before training and compare their checksums."""
    validation_fraction: float = 0.05
    """Share of the text held out for validation; prepared data come with theirs."""
    eval_batches: int = 16
    """Most validation batches read at each evaluation."""
    rank: Annotated[int | float | None, _UNSET] = None
    """Rank of low-rank optimizers: an integer, or a fraction of each matrix's compressed side
    (default: 0.25)."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Learning rate after the warm-up."""
    warmup_steps: Annotated[int | None, _UNSET] = None
    """Steps of linear warm-up (default: a tenth of --steps)."""
    final_learning_rate_ratio: float = 0.1
    """Learning rate at the last step over its peak (cosine and linear)."""
    weight_decay: float = 0.0
    """Decoupled weight decay of matrices and embeddings; norms and biases are never decayed."""
    clip_norm: float = 1.0
    """Largest global norm of the gradient; 0 switches clipping off."""
    accumulate_steps: int = dataclasses.field(default=1, metadata=CHANGEABLE)
    """Micro-batches that a batch is split into, to save memory; the update is the same."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the computation."""
    param_dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the parameters."""
    rounding: Literal["nearest", "stochastic"] = "nearest"
    """How updated bfloat16 parameters are rounded: to nearest, which loses updates below half of
    their last bit, or up or down at random, right on average."""
    remat: bool = dataclasses.field(default=False, metadata=CHANGEABLE)
    """Recompute activations in the backward pass instead of keeping them."""
    mesh: Annotated[str | None, _UNSET] = dataclasses.field(default=None, metadata=CHANGEABLE)
    """Devices per axis, as data=4,fsdp=2,tensor=2 or a part of it: data copies the parameters, fsdp
    splits them and the optimizer's state, tensor splits the matrix products (default: all devices
    on the data axis)."""
    zero: bool = dataclasses.field(default=False, metadata=CHANGEABLE)
    """Split the optimizer's state and work over the data axis (ZeRO-1)."""
    checkpoint_every: int = dataclasses.field(default=100, metadata=CHANGEABLE)
    """Steps between checkpoints; one more is written at the end. 0: only at the end."""
    keep_checkpoints: int = dataclasses.field(default=2, metadata=CHANGEABLE)
    """How many of the newest checkpoints are kept."""
    keep_best: int = dataclasses.field(default=0, metadata=CHANGEABLE)
    """How many with the lowest validation loss are kept besides, of those written at a step with an
    evaluation."""
    keep_every: int = dataclasses.field(default=0, metadata=CHANGEABLE)
    """Keep those of every so many steps besides. 0: none."""
    eval_every: int = dataclasses.field(default=100, metadata=CHANGEABLE)
    """Steps between evaluations; one more is made at the end. 0: only at the end."""
    hyperparameters: tyro.conf.OmitArgPrefixes[Hyperparameters] = dataclasses.field(
        default_factory=Hyperparameters
    )
    spikes: tyro.conf.OmitArgPrefixes[SpikeOptions] = dataclasses.field(
        default_factory=SpikeOptions
    )
    watching: tyro.conf.OmitArgPrefixes[WatchingOptions] = dataclasses.field(
        default_factory=WatchingOptions
    )
    processes: tyro.conf.OmitArgPrefixes[DistributedOptions] = dataclasses.field(
        default_factory=DistributedOptions
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainConfig(TrainingConfig):
    """Train a Llama from random weights."""

    optimizer: str = "trion"
    """Optimizer by name; an unknown name lists them all."""
    learning_rate: Annotated[float | None, _UNSET] = None
    """Peak learning rate of the matrices (default: the optimizer's own)."""
    fallback_learning_rate: Annotated[float | None, _UNSET] = None
    """Peak learning rate of embeddings, norms and head under a matrix optimizer (default: the
    same as --learning-rate)."""
    seed: int = 0
    """Seeds the weights, the order of the data and the optimizer."""
    out: Annotated[Folder | None, _UNSET] = dataclasses.field(default=None, metadata=CHANGEABLE)
    """Folder of the run, gs://... for one in a bucket (default: runs/PRESET-OPTIMIZER-SEED)."""
    resume: bool = dataclasses.field(default=False, metadata=CHANGEABLE)
    """Continue the run in --out from its newest checkpoint."""
    allow_changed_data: bool = dataclasses.field(default=False, metadata=CHANGEABLE)
    """Resume although files of the data have changed or vanished."""
    init_from: Annotated[Folder | None, _UNSET] = None
    """Begin with the parameters of another run of the same model and tokenizer: its folder, for its
    newest checkpoint, or a checkpoint's, RUN/checkpoints/STEP. For another optimizer, say."""
    init_state: Literal["new", "shared"] = "new"
    """The optimizer's state under --init-from: new, or with what both optimizers' states have in
    common, e.g. the moments of embeddings and norms."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompareConfig(TrainingConfig):
    """Train the same model on the same data with several optimizers and tabulate the results.
    Finished runs found in --out are reused."""

    optimizers: str = "adamw,muon,trion,dct_adamw"
    """Comma-separated names."""
    seeds: int = 3
    """Runs per optimizer, with seeds 0, 1, ..."""
    learning_rates: str = ""
    """Peak learning rates to use, as trion=0.02,adamw=0.003 (default: the optimizer's own)."""
    fallback_learning_rate: Annotated[float | None, _UNSET] = None
    """Peak learning rate of embeddings, norms and head under a matrix optimizer (default: the
    same as the matrices')."""
    tune: bool = False
    """Find each optimizer's learning rate first: a factor-2 grid at seed 0, extended until the
    best one is inside it."""
    out: Folder = dataclasses.field(default=epath.Path("runs/compare"))
    """Folder of the runs, table.md, results.json and curves.png."""


def check(config: TrainingConfig, mesh: dict[str, int]) -> None:
    """Checks the numbers of a configuration against each other and the mesh.

    Args:
        config: as given.
        mesh: sizes of its axes, from `training.steps.mesh.parse_mesh`.

    Raises:
        UserError: naming the option, its value and what it must be.
    """
    for name in ("steps", "batch_size", "seq_len", "eval_batches", "accumulate_steps"):
        _require(getattr(config, name) >= 1, config, name, "at least 1")
    intervals = ("checkpoint_every", "eval_every", "keep_every", "keep_best")
    for name in (*intervals, "clip_norm", "weight_decay"):
        _require(getattr(config, name) >= 0, config, name, "0 or more")
    _require(config.keep_checkpoints >= 1, config, "keep_checkpoints", "at least 1")
    _require(0 < config.validation_fraction < 1, config, "validation_fraction", "between 0 and 1")
    ratio = config.final_learning_rate_ratio
    _require(0 <= ratio <= 1, config, "final_learning_rate_ratio", "from 0 to 1")
    _require(getattr(config, "seed", 0) >= 0, config, "seed", "0 or more")
    for name in ("learning_rate", "fallback_learning_rate"):
        value = getattr(config, name, None)
        _require(value is None or value > 0, config, name, "greater than 0")
    if isinstance(config.rank, float):
        _require(0 < config.rank <= 1, config, "rank", "an integer >= 1 or a fraction in (0, 1]")
    elif config.rank is not None:
        _require(config.rank >= 1, config, "rank", "an integer >= 1 or a fraction in (0, 1]")
    if config.warmup_steps is not None:
        _require(config.warmup_steps >= 0, config, "warmup_steps", "0 or more")
    config.spikes.check()
    if getattr(config, "init_state", "new") == "shared" and config.init_from is None:
        raise UserError("--init-state shared is for --init-from RUN: add that")
    if config.rounding == "stochastic" and config.param_dtype != "bfloat16":
        raise UserError("--rounding stochastic is for --param-dtype bfloat16")
    check_watching(config.watching)
    shards = batch_shards(mesh)
    parts = shards * config.accumulate_steps
    if config.batch_size % parts:
        raise UserError(
            f"--batch-size {config.batch_size} cannot be divided over {shards} device(s) (those of "
            f"the axes data and fsdp) x {config.accumulate_steps} micro-batch(es): use a multiple "
            f"of {parts}, or a smaller --mesh (now {mesh_text(mesh)})"
        )
    if config.zero and mesh.get("data", 1) == 1:
        raise UserError(
            f"--zero splits the optimizer's state over the data axis, and --mesh {mesh_text(mesh)} "
            "has none of 2 or more devices: give one, e.g. --mesh data=2, or leave --zero out "
            "(fsdp splits that state by itself)"
        )


def _require(condition: bool, config: TrainingConfig, name: str, expected: str) -> None:
    if not condition:
        raise UserError(f"{as_flag(name)} is {getattr(config, name)}, but must be {expected}")


def resolve(
    config: PretrainConfig,
    mesh: dict[str, int],
    default_learning_rate: float,
    *,
    low_rank: bool,
    has_fallback: bool,
) -> PretrainConfig:
    """Replaces every "default: ..." of the options by its value, so that the result is complete.

    Args:
        config: as given, checked.
        mesh: sizes of its axes.
        default_learning_rate: the optimizer's.
        low_rank: whether the optimizer has a rank; it stays None otherwise.
        has_fallback: whether it treats leaves that are not matrices by another optimizer.
    """
    learning_rate = config.learning_rate or default_learning_rate
    fallback_learning_rate = config.fallback_learning_rate or learning_rate
    rank = 0.25 if config.rank is None else config.rank
    warmup_steps = config.steps // 10 if config.warmup_steps is None else config.warmup_steps
    out = config.out or epath.Path("runs") / f"{config.preset}-{config.optimizer}-{config.seed}"
    return dataclasses.replace(
        config,
        learning_rate=learning_rate,
        fallback_learning_rate=fallback_learning_rate if has_fallback else None,
        rank=rank if low_rank else None,
        warmup_steps=warmup_steps,
        mesh=mesh_text(mesh),
        out=epath.Path(out),
    )


def to_json(config: TrainingConfig, data_checksum: str) -> dict[str, Any]:
    """A configuration as the flat JSON object of `config.json`."""
    values = dataclasses.asdict(config)
    for group in ("hyperparameters", "spikes", "watching"):
        values.update(values.pop(group))
    values.pop("processes")  # where and how a run is made is not what it is
    values = {
        key: str(value) if isinstance(value, os.PathLike) else value
        for key, value in values.items()
    }
    return values | {"data_checksum": data_checksum}
