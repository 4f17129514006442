"""`train.py evaluate`: exact match of answers, as GSM-8k counts it, or the loss on text."""

import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TextIO

import jax
import numpy as np
from jax.sharding import Mesh
from rich.console import Console

from models.llama import Llama
from training.checkpoints.pretrained import PretrainedModel, open_model
from training.commands.evaluate_text import evaluate_text
from training.config.options import UNSET
from training.config.ranges import check_ranges
from training.data.prompts import prompt_for
from training.data.questions import Example, has_questions, read_examples
from training.errors import UserError
from training.inference.answers import answer, plan_batches
from training.inference.exact_match import final_number, is_exact_match, reference_number
from training.json_files import write_json
from training.runs.metrics import progress_bar
from training.steps.mesh import batch_shards, make_mesh, mesh_text, parse_mesh

OUTPUTS_FILE = "outputs.jsonl"
SUMMARY_FILE = "summary.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Ask a model questions and count the answers whose number after #### is right, as GSM-8k's own
    scorer does; or measure its loss, perplexity and bits per byte on any text."""

    model: Path
    """Local Hugging Face folder of a Llama or Qwen2, or the folder of a run of train.py."""
    data: Path
    """JSON lines with the fields question and answer, as GSM-8k's test.jsonl, or with messages, of
    which the last is the answer; or text: stdlib, a file, a folder, a glob or hf:NAME as for
    pretraining."""
    out: Annotated[Path | None, UNSET] = None
    """Folder of outputs.jsonl and summary.json (default: runs/evaluate-MODEL-DATA)."""
    template: Annotated[str | None, UNSET] = None
    r"""Prompt, with {question} for the question; \n ends a line. Or chat, for the tokenizer's chat
    template, which messages have anyway (default: that which the model was fine-tuned with, else
    "Question: {question}\nAnswer:\n")."""
    batch_size: int = 32
    """Questions answered, or windows of text read, at a time."""
    seq_len: Annotated[int | None, UNSET] = None
    """Tokens of a window of text (default: as many as the model takes, at most 1024)."""
    max_new_tokens: int = 256
    """Longest answer; the end of text ends one sooner."""
    limit: Annotated[int | None, UNSET] = None
    """Ask the first so many questions only (default: all)."""
    dtype: Annotated[Literal["float32", "bfloat16"] | None, UNSET] = None
    """Type of the computation (default: the model's own)."""
    mesh: Annotated[str | None, UNSET] = None
    """Devices per axis, as data=4,fsdp=2,tensor=2 or a part of it (default: all on the data
    axis)."""


def evaluate(config: EvaluateConfig, console: Console) -> dict[str, Any]:
    """Generates the answers, writes them and their score.

    Args:
        config: as given.
        console: for the progress bar and the accuracy.

    Returns:
        The content of summary.json.

    Raises:
        UserError: for a model, data, options or a folder that cannot be used.
    """
    sizes = parse_mesh(config.mesh, jax.device_count())
    _check(config, batch_shards(sizes), mesh_text(sizes))
    source = open_model(config.model)
    if not has_questions(config.data):
        return _evaluate_text(config, source, make_mesh(sizes), console)
    data = config.data.expanduser()
    prompt = prompt_for(data, config.template, source.prompt)
    examples = read_examples(data)[: config.limit]
    references = [reference_number(example) for example in examples]
    prompts = prompt.encode(examples, source.tokenizer)
    _check_lengths(config, source, examples, [len(tokens) for tokens in prompts])
    folder = _create_folder(config)
    mesh = make_mesh(sizes)
    model = source.load(mesh, config.dtype)
    start = time.perf_counter()
    records: dict[int, dict[str, Any]] = {}
    with _ProgressBar(console, len(examples)) as bar, _open(folder / OUTPUTS_FILE) as file:
        for indices, outputs in _batches_of_outputs(config, source, model, prompts, mesh):
            for i, output in zip(indices, outputs, strict=True):
                records[i] = _record(examples[i], references[i], output)
                file.write(json.dumps(records[i]) + "\n")
            file.flush()
            bar.show(len(records), _num_correct(records))
    # Written as they came, in case it is interrupted; in the end in the order of the questions.
    ordered = [json.dumps(records[i]) + "\n" for i in range(len(examples))]
    (folder / OUTPUTS_FILE).write_text("".join(ordered), "utf-8")
    summary = {
        "model": str(config.model),
        "data": str(config.data),
        "template": prompt.template,
        "examples": len(records),
        "correct": _num_correct(records),
        "accuracy": _num_correct(records) / len(records),
        "without_number": sum(record["number"] is None for record in records.values()),
        "seconds": round(time.perf_counter() - start, 3),
    }
    write_json(folder / SUMMARY_FILE, summary)
    console.print(
        f"exact match {summary['accuracy']:.1%}: {summary['correct']:,} of {summary['examples']:,} "
        f"({summary['without_number']:,} outputs without a number) in {summary['seconds']:.0f} s; "
        f"outputs in {folder / OUTPUTS_FILE}",
        highlight=False,
        markup=False,
    )
    return summary


def _batches_of_outputs(
    config: EvaluateConfig,
    source: PretrainedModel,
    model: Llama,
    prompts: list[np.ndarray],
    mesh: Mesh,
) -> Iterator[tuple[list[int], list[str]]]:
    """Which prompts are answered together, and their answers, one batch after the other."""
    for indices in plan_batches([len(tokens) for tokens in prompts], config.batch_size):
        chosen = [prompts[i] for i in indices]
        sizes = {"batch_size": config.batch_size, "max_new_tokens": config.max_new_tokens}
        yield indices, answer(model, source.tokenizer, chosen, mesh=mesh, **sizes)


def _evaluate_text(
    config: EvaluateConfig, source: PretrainedModel, mesh: Mesh, console: Console
) -> dict[str, Any]:
    """The loss on text, in summary.json too."""
    most = source.config.max_position
    if config.seq_len is not None and config.seq_len > most:
        raise UserError(f"--seq-len {config.seq_len} is more than the model takes ({most})")
    folder = _create_folder(config)
    measures = evaluate_text(
        str(config.data),
        source,
        source.load(mesh, config.dtype),
        mesh,
        batch_size=config.batch_size,
        seq_len=config.seq_len,
        console=console,
    )
    summary = {"model": str(config.model), "data": str(config.data), **measures}
    write_json(folder / SUMMARY_FILE, summary)
    return summary


def _record(example: Example, reference: str, output: str) -> dict[str, Any]:
    """A line of outputs.jsonl."""
    return {
        "question": example.question,
        "reference": example.answer,
        "output": output,
        "reference_number": reference,
        "number": final_number(output),
        "correct": is_exact_match(output, reference),
    }


def _num_correct(records: dict[int, dict[str, Any]]) -> int:
    return sum(record["correct"] for record in records.values())


def _check(config: EvaluateConfig, shards: int, mesh: str) -> None:
    check_ranges(vars(config))
    if config.batch_size % shards:
        raise UserError(
            f"--batch-size {config.batch_size} cannot be divided over {shards} device(s): use a "
            f"multiple of {shards}, or a smaller --mesh (now {mesh})"
        )


def _check_lengths(
    config: EvaluateConfig, source: PretrainedModel, examples: list[Example], lengths: list[int]
) -> None:
    """Refuses what the model cannot read, before anything is generated."""
    new, most = config.max_new_tokens, source.config.max_position
    longest = max(range(len(examples)), key=lambda i: lengths[i])
    if not min(lengths):
        example = examples[lengths.index(0)]
        raise UserError(f"{example.where}: its question has no tokens. Remove it.")
    if lengths[longest] + new - 1 > most:
        raise UserError(
            f"{examples[longest].where}: its prompt of {lengths[longest]} tokens and "
            f"--max-new-tokens {new} exceed the {most} tokens that {config.model} takes: give at "
            f"most --max-new-tokens {most - lengths[longest] + 1}, or remove the line"
            if lengths[longest] <= most
            else f"{examples[longest].where}: its prompt of {lengths[longest]} tokens is longer "
            f"than the {most} tokens that {config.model} takes: shorten or remove the line"
        )


def _create_folder(config: EvaluateConfig) -> Path:
    name = f"evaluate-{config.model.resolve().name}-{config.data.name.partition('.')[0]}"
    folder = config.out or Path("runs") / name
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists already: give another folder with --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}") from error
    return folder


def _open(path: Path) -> TextIO:
    return path.open("w", encoding="utf-8")


class _ProgressBar:
    """Questions answered and the accuracy so far: live on a terminal, else a line now and then.

    Args:
        console: where to.
        total: number of questions.
    """

    def __init__(self, console: Console, total: int):
        self._console = console
        self._total = total
        self._printed = 0
        self._bar = progress_bar("question", console)
        self._task = self._bar.add_task("evaluate", total=total, text="compiling")

    def __enter__(self) -> "_ProgressBar":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, done: int, correct: int) -> None:
        """Shows how many are done, and how many of them are right."""
        text = f"exact match {correct / done:.1%}"
        self._bar.update(self._task, completed=done, text=text)
        tenth = done * 10 // self._total
        if not self._console.is_terminal and tenth > self._printed:
            self._printed = tenth
            self._console.print(f"question {done}/{self._total} | {text}", highlight=False)
