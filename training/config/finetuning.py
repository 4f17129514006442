"""The options of `train.py finetune`: its own, and those of pretraining but the model's."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from training.config.pretraining import PretrainConfig
from training.config.resuming import CHANGEABLE
from training.data.questions import DEFAULT_TEMPLATE
from training.folders import Folder

_UNSET = tyro.conf.arg(help_behavior_hint="")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinetuneConfig(PretrainConfig):
    """Train a model further on questions and answers, with the loss on the answers only. OUT/model
    is then a Hugging Face folder."""

    model: Path = dataclasses.field()
    """Local Hugging Face folder of a Llama or Qwen2, or the folder of a run of `train.py
    pretrain`."""
    data: str = dataclasses.field()
    """JSON lines with the fields question and answer, as GSM-8k's train.jsonl."""
    validation: Annotated[Path | None, _UNSET] = None
    """The same to validate on (default: --validation-fraction of --data, taken from training)."""
    template: Annotated[str | None, _UNSET] = None
    r"""Prompt, with {question} for the question; \n ends a line (default: the model's, if it was
    fine-tuned here, else "Question: {question}\nAnswer:\n")."""
    packing: bool = False
    """Put several examples into a row where they fit, instead of padding each; they do not see each
    other."""
    epochs: float = 3.0
    """Passes over the data, where --steps is not given."""
    steps: Annotated[int | None, _UNSET] = None
    """Optimizer steps (default: those of --epochs)."""
    seq_len: Annotated[int | None, _UNSET] = None
    """Tokens per row (default: as many as the longest example takes; with --packing four times as
    many, as far as the model takes them)."""
    skip_long: bool = False
    """Leave out examples that are longer than --seq-len instead of refusing them."""
    learning_rate: Annotated[float | None, _UNSET] = None
    """Peak learning rate of the matrices (default: a tenth of the optimizer's for pretraining small
    Llamas; large models take less)."""
    out: Annotated[Folder | None, _UNSET] = dataclasses.field(default=None, metadata=CHANGEABLE)
    """Folder of the run (default: runs/finetune-MODEL-OPTIMIZER-SEED)."""

    # What the model brings with it.
    preset: tyro.conf.Suppress[str] = ""
    hidden_size: tyro.conf.Suppress[int | None] = None
    num_layers: tyro.conf.Suppress[int | None] = None
    tokenizer: tyro.conf.Suppress[str] = ""
    verify: tyro.conf.Suppress[bool] = False
    init_from: tyro.conf.Suppress[Folder | None] = None
    init_state: tyro.conf.Suppress[Literal["new", "shared"]] = "new"


__all__ = ["DEFAULT_TEMPLATE", "FinetuneConfig"]
