"""A run with all its options decided, in parts; each room is given the one that it works with.

The fields of the parts are called as the options are.
"""

import dataclasses
from typing import Literal

from etils import epath

from training.config.finetuning import FinetuneConfig
from training.config.groups import SpikeOptions
from training.config.hyperparameters import Hyperparameters
from training.config.pretraining import InitOptions, PretrainConfig


@dataclasses.dataclass(frozen=True)
class Method:
    """An optimizer, but for its learning rates and its seed."""

    optimizer: str
    rank: int | float | None  # None: it has none
    weight_decay: float
    clip_norm: float
    zero: bool
    hyperparameters: Hyperparameters


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The learning rate over its peak, over the steps of a run."""

    steps: int
    warmup_steps: int
    schedule: Literal["cosine", "linear", "wsd", "constant"]
    final_learning_rate_ratio: float
    decay_fraction: float

    @property
    def decay_start(self) -> int:
        """Steps before wsd's rate decays."""
        return self.steps - round(self.decay_fraction * self.steps)


@dataclasses.dataclass(frozen=True)
class BatchShape:
    """Batches over all processes, and how many there are at most to validate on."""

    batch_size: int  # rows
    seq_len: int  # predicted tokens of a row
    eval_batches: int

    @property
    def num_tokens(self) -> int:
        """Predicted tokens in a batch."""
        return self.batch_size * self.seq_len


@dataclasses.dataclass(frozen=True)
class StepOptions:
    """What a step is compiled from, beside the model and the mesh."""

    method: Method
    spikes: SpikeOptions
    schedule: Schedule
    batch: BatchShape
    accumulate_steps: int
    ema_decay: float  # 0: no average of the weights is kept
    rounding: Literal["nearest", "stochastic"]


@dataclasses.dataclass(frozen=True)
class Variant:
    """What is not compiled in: runs may differ in it and share their steps."""

    learning_rate: float  # peak, of the matrices
    fallback_learning_rate: float  # of the rest; the same, for an optimizer that has no such thing
    seed: int


@dataclasses.dataclass(frozen=True)
class ResolvedRun:
    """A run."""

    # with every default replaced by its value, as config.json has them
    options: PretrainConfig | FinetuneConfig
    folder: epath.Path
    mesh: dict[str, int]  # sizes of its axes
    steps: StepOptions  # what is compiled
    variant: Variant  # what is not
    init: InitOptions

    @property
    def resumed_folder(self) -> epath.Path | None:
        """The folder, if the run goes on from what is in it."""
        return self.folder if self.options.run.resume else None
