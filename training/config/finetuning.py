"""The options of `train.py finetune`."""

import dataclasses
from typing import Annotated

from training.config.groups import RunOptions, TrainingOptions
from training.config.options import CHANGEABLE, UNSET, Folder, LocalPath


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuestionOptions:
    """The questions and answers, and the rows that they are put in."""

    data: str
    """JSON lines with the fields question and answer, as GSM-8k's train.jsonl; or with messages, a
    list of role and content that ends with the assistant's answer."""
    validation: Annotated[LocalPath | None, UNSET] = None
    """The same to validate on (default: --validation-fraction of --data, taken from training)."""
    validation_fraction: float = 0.05
    """Share of --data held out for validation, where there is no --validation."""
    template: Annotated[str | None, UNSET] = None
    r"""Prompt, with {question} for the question; \n ends a line. Or chat, for the tokenizer's chat
    template, which messages have anyway (default: the model's, if it was fine-tuned here, else
    "Question: {question}\nAnswer:\n")."""
    packing: bool = False
    """Put several examples into a row where they fit, instead of padding each; they do not see each
    other."""
    seq_len: Annotated[int | None, UNSET] = None
    """Tokens per row (default: as many as the longest example takes; with --packing four times as
    many, as far as the model takes them)."""
    skip_long: bool = False
    """Leave out examples that are longer than --seq-len instead of refusing them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinetuneConfig(TrainingOptions):
    """Train a model further on questions and answers, with the loss on the answers only. OUT/model
    is then a Hugging Face folder."""

    model: Folder
    """Hugging Face folder of a Llama or Qwen2, or the folder of a run of `train.py
    pretrain`."""
    epochs: float = 3.0
    """Passes over the data, where --steps is not given."""
    steps: Annotated[int | None, UNSET] = None
    """Optimizer steps (default: those of --epochs)."""
    learning_rate: Annotated[float | None, UNSET] = None
    """Peak learning rate of the matrices (default: a tenth of the optimizer's for pretraining small
    Llamas; large models take less)."""
    out: Annotated[Folder | None, UNSET] = dataclasses.field(default=None, metadata=CHANGEABLE)
    """Folder of the run (default: runs/finetune-MODEL-OPTIMIZER-SEED)."""
    questions: QuestionOptions
    run: RunOptions = dataclasses.field(default_factory=RunOptions)
