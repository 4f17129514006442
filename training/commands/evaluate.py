"""`train.py evaluate`: exact match of answers, as GSM-8k counts it, or the loss on text."""

import dataclasses
import json
import math
import time
from typing import Annotated, Any, Literal

import jax
from etils import epath
from jax.sharding import Mesh
from rich.console import Console

from training.checkpoints.pretrained import PretrainedModel, Weights, open_model
from training.config.options import UNSET
from training.config.ranges import check_ranges
from training.data.prompts import prompt_for
from training.data.questions import Example, has_questions, read_examples
from training.data.tokenization import text_stream
from training.errors import UserError
from training.files import Folder, LocalPath, absolute, write_json
from training.inference.answers import answers
from training.inference.exact_match import final_number, reference_number
from training.inference.text_loss import text_loss
from training.runs.metrics import perplexity
from training.runs.progress import ProgressBar
from training.runs.resolve import check_batch_size
from training.steps.mesh import make_mesh, parse_mesh

OUTPUTS_FILE = "outputs.jsonl"
LONGEST_WINDOW = 1024


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Ask a model questions and count the answers whose number after #### is right, as GSM-8k's own
    scorer does; or measure its loss, perplexity and bits per byte on any text."""

    model: Folder
    """Hugging Face folder of a Llama or Qwen2, or the folder of a run of train.py."""
    data: LocalPath
    """JSON lines with the fields question and answer, as GSM-8k's test.jsonl, or with messages, of
    which the last is the answer; or text: stdlib, a file, a folder, a glob or hf:NAME as for
    pretraining."""
    weights: Weights = "last"
    """Of a run: the last ones, or their running average (--ema-decay)."""
    out: Annotated[Folder | None, UNSET] = None
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
    """Measures a model on questions or on text, prints the result and writes it.

    Returns:
        The content of summary.json.

    Raises:
        UserError: for a model, data, options or a folder that cannot be used.
    """
    sizes = parse_mesh(config.mesh, jax.device_count())
    check_ranges(vars(config))
    check_batch_size(config.batch_size, sizes)
    source, mesh = open_model(config.model, config.weights), make_mesh(sizes)
    if has_questions(config.data):
        folder, measures, said = _evaluate_answers(config, source, mesh, console)
    else:
        folder, measures, said = _evaluate_text(config, source, mesh)
    subject = {"model": str(config.model), "weights": config.weights, "data": str(config.data)}
    summary = subject | measures
    write_json(folder / "summary.json", summary)
    console.print(said, highlight=False, markup=False)
    return summary


def _evaluate_answers(
    config: EvaluateConfig, source: PretrainedModel, mesh: Mesh, console: Console
) -> tuple[epath.Path, dict[str, Any], str]:
    """Writes the answers; returns the folder, what its summary.json holds, and what is printed."""
    data = config.data
    prompt = prompt_for(data, config.template, source.prompt)
    examples = read_examples(data)[: config.limit]
    references = [reference_number(example) for example in examples]
    prompts = prompt.encode(examples, source.tokenizer)
    _check_lengths(config, source, examples, [len(tokens) for tokens in prompts])
    folder = _create_folder(config)
    model = source.load(mesh, config.dtype)
    start, correct = time.perf_counter(), 0
    records: dict[int, dict[str, Any]] = {}
    sizes = {"batch_size": config.batch_size, "max_new_tokens": config.max_new_tokens}
    outputs = answers(model, source.tokenizer, prompts, mesh=mesh, **sizes)
    path = folder / OUTPUTS_FILE
    with (
        ProgressBar(console, "question", len(examples)) as bar,
        path.open("w", encoding="utf-8") as file,
    ):
        for i, output in outputs:
            records[i] = _record(examples[i], references[i], output)
            file.write(json.dumps(records[i]) + "\n")
            file.flush()
            correct += records[i]["correct"]
            bar.update(len(records), f"exact match {correct / len(records):.1%}")
    # Written as they came, in case it is interrupted; in the end in the order of the questions.
    ordered = [json.dumps(records[i]) + "\n" for i in range(len(examples))]
    path.write_text("".join(ordered))
    missing = sum(record["number"] is None for record in records.values())
    seconds = time.perf_counter() - start
    measures = {
        "template": prompt.template,
        "examples": len(records),
        "correct": correct,
        "accuracy": correct / len(records),
        "without_number": missing,
        "seconds": round(seconds, 3),
    }
    said = (
        f"exact match {measures['accuracy']:.1%}: {correct:,} of {len(records):,} ({missing:,} "
        f"outputs without a number) in {seconds:.0f} s; outputs in {path}"
    )
    return folder, measures, said


def _record(example: Example, reference: str, output: str) -> dict[str, Any]:
    """A line of outputs.jsonl."""
    number = final_number(output)
    return {
        "question": example.question,
        "reference": example.answer,
        "output": output,
        "reference_number": reference,
        "number": number,
        "correct": number == reference,
    }


def _check_lengths(
    config: EvaluateConfig, source: PretrainedModel, examples: list[Example], lengths: list[int]
) -> None:
    """Refuses what the model cannot read, before anything is generated."""
    new, most = config.max_new_tokens, source.config.max_position
    length, where = max((n, example.where) for n, example in zip(lengths, examples, strict=True))
    if not min(lengths):
        example = examples[lengths.index(0)]
        raise UserError(f"{example.where}: its question has no tokens. Remove it.")
    if length + new - 1 > most:
        raise UserError(
            f"{where}: its prompt of {length} tokens and --max-new-tokens {new} exceed the {most} "
            f"tokens that {config.model} takes: give at most --max-new-tokens {most - length + 1}, "
            "or remove the line"
            if length <= most
            else f"{where}: its prompt of {length} tokens is longer than the {most} tokens that "
            f"{config.model} takes: shorten or remove the line"
        )


def _evaluate_text(
    config: EvaluateConfig, source: PretrainedModel, mesh: Mesh
) -> tuple[epath.Path, dict[str, Any], str]:
    """The same for the loss on text, of documents that do not see each other if the model was
    trained so."""
    most = source.config.max_position
    seq_len = config.seq_len or min(LONGEST_WINDOW, most)
    if seq_len > most:
        raise UserError(f"--seq-len {seq_len} is more than the model takes ({most})")
    folder = _create_folder(config)
    start = time.perf_counter()
    tokens, num_bytes = text_stream(str(config.data), source.tokenizer)
    end_of_text = source.tokenizer.eos_id if source.document_mask else None
    model, batch = source.load(mesh, config.dtype), config.batch_size
    loss = text_loss(model, tokens, mesh, batch, seq_len, end_of_text)
    bits = loss * len(tokens) / (math.log(2) * num_bytes)
    measures = {
        "tokens": len(tokens),
        "bytes": num_bytes,
        "loss": loss,
        "perplexity": perplexity(loss),
        "bits_per_byte": bits,
        "seq_len": seq_len,
        "seconds": round(time.perf_counter() - start, 3),
    }
    said = (
        f"loss {loss:.4f}, perplexity {perplexity(loss):.2f}, {bits:.4f} bits per byte: "
        f"{len(tokens):,} tokens of {config.data} in windows of {seq_len}"
    )
    return folder, measures, said


def _create_folder(config: EvaluateConfig) -> epath.Path:
    name = f"evaluate-{absolute(config.model).name}-{config.data.name.partition('.')[0]}"
    name += "" if config.weights == "last" else f"-{config.weights}"
    folder = config.out or epath.Path("runs") / name
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists already: give another folder with --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}") from error
    return folder
