"""Options that all commands that train have, in groups."""

import dataclasses
from typing import Annotated, Literal

from training.config.hyperparameters import Hyperparameters
from training.config.model import NumberOptions
from training.config.options import CHANGEABLE, UNSET


@dataclasses.dataclass(frozen=True)
class BatchOptions:
    """How much is read at a time."""

    batch_size: int = 16
    """Sequences per optimizer step, over all devices and micro-batches."""
    eval_batches: int = 16
    """Most validation batches read at each evaluation."""


@dataclasses.dataclass(frozen=True)
class MethodOptions:
    """Options of optimizers in general."""

    rank: Annotated[int | float | None, UNSET] = None
    """Rank of low-rank optimizers: an integer, or a fraction of each matrix's compressed side
    (default: 0.25)."""
    fallback_learning_rate: Annotated[float | None, UNSET] = None
    """Peak learning rate of embeddings, norms and head under a matrix optimizer (default: the
    same as the matrices')."""
    weight_decay: float = 0.0
    """Decoupled weight decay of matrices and embeddings; norms and biases are never decayed."""
    clip_norm: float = 1.0
    """Largest global norm of the gradient; 0 switches clipping off."""
    ema_decay: float = 0.0
    """Keep a running average of the weights, of about the last 1 / (1 - this) steps, and evaluate
    it too (ema_val_loss); evaluate, generate and export take it (--weights ema). 0: none."""


@dataclasses.dataclass(frozen=True)
class ScheduleOptions:
    """The learning rate over a run."""

    schedule: Literal["cosine", "linear", "wsd", "constant"] = "cosine"
    """Learning rate after the warm-up. wsd is constant, then falls linearly in the last
    --decay-fraction of the steps. A resume of wsd or constant may have more --steps."""
    warmup_steps: Annotated[int | None, UNSET] = None
    """Steps of linear warm-up (default: a tenth of all; of a run that is resumed, its own)."""
    final_learning_rate_ratio: float = 0.1
    """Learning rate at the last step over its peak (cosine, linear and wsd)."""
    decay_fraction: float = 0.2
    """Share of the steps in which the learning rate decays (wsd)."""


@dataclasses.dataclass(frozen=True)
class DeviceOptions:
    """How a step is spread over devices, and fitted into their memory."""

    mesh: Annotated[str | None, UNSET] = dataclasses.field(default=None, metadata=CHANGEABLE)
    """Devices per axis, as data=4,fsdp=2,tensor=2 or a part of it: data copies the parameters, fsdp
    splits them and the optimizer's state, tensor splits the matrix products (default: all devices
    on the data axis)."""
    zero: bool = dataclasses.field(default=False, metadata=CHANGEABLE)
    """Split the optimizer's state and work over the data axis (ZeRO-1)."""
    accumulate_steps: int = dataclasses.field(default=1, metadata=CHANGEABLE)
    """Micro-batches that a batch is split into, to save memory; the update is the same."""


@dataclasses.dataclass(frozen=True)
class CheckpointOptions:
    """Which checkpoints are written, and kept."""

    checkpoint_every: int = dataclasses.field(default=100, metadata=CHANGEABLE)
    """Steps between checkpoints; one more is written at the end. 0: only at the end."""
    keep_checkpoints: int = dataclasses.field(default=2, metadata=CHANGEABLE)
    """How many of the newest checkpoints are kept."""
    keep_best: int = dataclasses.field(default=0, metadata=CHANGEABLE)
    """How many with the lowest validation loss are kept besides, of those written at a step with an
    evaluation."""
    keep_every: int = dataclasses.field(default=0, metadata=CHANGEABLE)
    """Keep those of every so many steps besides. 0: none."""


@dataclasses.dataclass(frozen=True)
class WatchingOptions:
    """What is measured of a run, and where else that goes. None of it changes a run."""

    eval_every: int = dataclasses.field(default=100, metadata=CHANGEABLE)
    """Steps between evaluations; one more is made at the end. 0: only at the end."""
    log_every: int = dataclasses.field(default=1, metadata=CHANGEABLE)
    """Steps between records of metrics; the last step and those with an evaluation have one too."""
    profile: Annotated[str | None, UNSET] = dataclasses.field(default=None, metadata=CHANGEABLE)
    """Steps to trace, as FIRST:LAST, into RUN/profile, for TensorBoard or Perfetto (default:
    none)."""
    log: str = dataclasses.field(default="", metadata=CHANGEABLE)
    """Where metrics go besides RUN/metrics.jsonl, comma-separated: tensorboard (event files in
    RUN/tensorboard) and wandb (Weights & Biases, which its WANDB_... variables set up, e.g.
    WANDB_MODE=offline)."""
    diagnostics_every: int = dataclasses.field(default=0, metadata=CHANGEABLE)
    """Steps between looks at every matrix: energy that its subspace captures, overlap with its
    subspaces before, size of its update; written to RUN/diagnostics.jsonl and drawn in
    RUN/diagnostics.png. 0: none."""


@dataclasses.dataclass(frozen=True)
class SpikeOptions:
    """Which updates are left out."""

    skip_updates: Annotated[Literal["nonfinite", "outlier"] | None, UNSET] = None
    """Leave out updates whose loss or gradient is not finite (nonfinite), or besides those whose
    gradient's norm is an outlier (outlier); metrics count them as skipped_updates. By default none
    is left out, and a loss that is not finite ends the run."""
    outlier_factor: float = 5.0
    """A gradient's norm is an outlier above this many times the mean norm so far (of about the last
    100 updates; never in the first 20)."""


@dataclasses.dataclass(frozen=True)
class ProcessOptions:
    """Several processes that train together, and how this one finds the others."""

    distributed: bool = False
    """Train in several processes together, started with the same options on folders that they
    share; a batch is spread over the devices of all."""
    coordinator: Annotated[str | None, UNSET] = None
    """Address of process 0, as host:port with a free port (default: the cluster environment's)."""
    num_processes: Annotated[int | None, UNSET] = None
    """How many processes there are (default: the cluster environment's)."""
    process_id: Annotated[int | None, UNSET] = None
    """Which of them this is, from 0 (default: the cluster environment's)."""
    coordinator_timeout: int = 60
    """Longest wait in seconds for the coordinator and the other processes; JAX then aborts the
    process (SIGABRT) with DEADLINE_EXCEEDED and a stack trace."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """The groups that every command that trains has."""

    batch: BatchOptions = dataclasses.field(default_factory=BatchOptions)
    method: MethodOptions = dataclasses.field(default_factory=MethodOptions)
    schedule: ScheduleOptions = dataclasses.field(default_factory=ScheduleOptions)
    numbers: NumberOptions = dataclasses.field(default_factory=NumberOptions)
    devices: DeviceOptions = dataclasses.field(default_factory=DeviceOptions)
    checkpoints: CheckpointOptions = dataclasses.field(default_factory=CheckpointOptions)
    watching: WatchingOptions = dataclasses.field(default_factory=WatchingOptions)
    spikes: SpikeOptions = dataclasses.field(default_factory=SpikeOptions)
    hyperparameters: Hyperparameters = dataclasses.field(default_factory=Hyperparameters)
    processes: ProcessOptions = dataclasses.field(default_factory=ProcessOptions)


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """Which run it is, of those that differ in nothing else."""

    optimizer: str = "trion"
    """Optimizer by name; an unknown name lists them all."""
    seed: int = 0
    """Seeds the weights, the order of the data and the optimizer."""
    resume: bool = dataclasses.field(default=False, metadata=CHANGEABLE)
    """Continue the run in --out from its newest checkpoint."""
    allow_changed_data: bool = dataclasses.field(default=False, metadata=CHANGEABLE)
    """Resume although files of the data have changed or vanished."""
