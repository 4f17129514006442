"""The options of `train.py pretrain` and `train.py compare`: the dataclasses are the command line
(tyro reads the field names, types and docstrings)."""

import dataclasses
from typing import Annotated, Literal

from etils import epath

from training.config.groups import RunOptions, TrainingOptions
from training.config.model import ModelOptions
from training.config.options import CHANGEABLE, UNSET, Folder


@dataclasses.dataclass(frozen=True)
class CorpusOptions:
    """The text."""

    data: tuple[str, ...] = ("stdlib",)
    """stdlib (this Python's own source); a file, a folder or a glob of text, JSON lines or Parquet;
    a data set as hf:NAME:CONFIG:SPLIT; a folder that `train.py prepare` has written; or several of
    these."""
    data_weights: Annotated[tuple[float, ...], UNSET] = ()
    """Shares in every batch of the sources that --data names, as 3 1; a source that is read to its
    end begins anew (default: their sizes). The validation loss is of all by their sizes."""
    validation_sets: Annotated[tuple[str, ...], UNSET] = dataclasses.field(
        default=(), metadata=CHANGEABLE
    )
    """Other texts to validate on, as NAME=DATA, with their losses as val_loss/NAME; prepared data
    for what they hold out. A resume may have others."""
    tokenizer: str = "bytes"
    """bytes, bpe:SIZE (trained on the training part of the data, of the first source), or the path
    of a tokenizer.json or of its folder."""
    verify: bool = dataclasses.field(default=False, metadata=CHANGEABLE)
    """Read prepared data once before training and compare their checksums."""
    validation_fraction: float = 0.05
    """Share of the text held out for validation; prepared data come with theirs."""
    document_mask: bool = False
    """Documents that share a row do not see each other."""


@dataclasses.dataclass(frozen=True)
class InitOptions:
    """What a run begins with."""

    init_from: Annotated[Folder | None, UNSET] = None
    """Begin with the parameters of another run of the same model and tokenizer: its folder, for its
    newest checkpoint, or a checkpoint's, RUN/checkpoints/STEP. For another optimizer, say."""
    init_state: Literal["new", "shared"] = "new"
    """The optimizer's state under --init-from: new, or with what both optimizers' states have in
    common, e.g. the moments of embeddings and norms."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainConfig(TrainingOptions):
    """Train a Llama from random weights."""

    steps: int = 250
    """Optimizer steps."""
    learning_rate: Annotated[float | None, UNSET] = None
    """Peak learning rate of the matrices (default: the optimizer's own)."""
    out: Annotated[Folder | None, UNSET] = dataclasses.field(default=None, metadata=CHANGEABLE)
    """Folder of the run, gs://... for one in a bucket (default: runs/PRESET-OPTIMIZER-SEED)."""
    run: RunOptions = dataclasses.field(default_factory=RunOptions)
    init: InitOptions = dataclasses.field(default_factory=InitOptions)
    model: ModelOptions = dataclasses.field(default_factory=ModelOptions)
    corpus: CorpusOptions = dataclasses.field(default_factory=CorpusOptions)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompareConfig(TrainingOptions):
    """Train the same model on the same data with several optimizers and tabulate the results.
    Finished runs found in --out are reused."""

    optimizers: str = "adamw,muon,trion,dct_adamw"
    """Comma-separated names."""
    seeds: int = 3
    """Runs per optimizer, with seeds 0, 1, ..."""
    steps: int = 500
    """Optimizer steps."""
    learning_rates: str = ""
    """Peak learning rates to use, as trion=0.02,adamw=0.003 (default: the optimizer's own)."""
    tune: bool = False
    """Find each optimizer's learning rate first: a factor-2 grid at seed 0, extended until the
    best one is inside it."""
    out: Folder = dataclasses.field(default=epath.Path("runs/compare"))
    """Folder of the runs, table.md, results.json and curves.png."""
    model: ModelOptions = dataclasses.field(default_factory=ModelOptions)
    corpus: CorpusOptions = dataclasses.field(default_factory=CorpusOptions)
