"""`train.py evaluate`: exact match of answers, as GSM-8k counts it, and the loss on answers or
text."""

import dataclasses
import math
import time
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import jax
from etils import epath
from jax.sharding import Mesh
from rich.console import Console

from training.checkpoints.pretrained import PretrainedModel, Weights, open_model
from training.config.options import UNSET, Folder, LocalPath
from training.config.ranges import check_ranges
from training.data.answer_batches import answer_batches
from training.data.corpus import read_to_validate
from training.data.prompts import Prompt, prompt_for
from training.data.questions import Example, has_questions, read_examples
from training.data.questions_corpus import AnswerRows
from training.errors import UserError, as_flag
from training.files import absolute, to_text, write_json, write_text, writing_to
from training.inference.answers import answers, final_number
from training.inference.loss import mean_loss, text_batches
from training.runs.metrics import perplexity
from training.runs.progress import ProgressBar
from training.runs.resolve import check_batch_size
from training.steps.mesh import make_mesh, parse_mesh

OUTPUTS_FILE = "outputs.jsonl"
LONGEST_WINDOW = 1024
LONGEST_ANSWER = 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Ask a model questions and count the answers whose number after #### is right, as GSM-8k's own
    scorer does; measure its loss on answers where some have no such number; or measure its loss,
    perplexity and bits per byte on any text."""

    model: Folder
    """Hugging Face folder of a Llama or Qwen2, or the folder of a run of train.py."""
    data: LocalPath
    """JSON lines or Parquet with the fields question and answer, as GSM-8k's test.jsonl, or with
    messages, of which the last is the answer; or text: stdlib, a file, a folder, a glob or hf:NAME
    as for pretraining, or what a folder of `train.py prepare` holds out."""
    weights: Weights = "last"
    """Of a run: the last ones, or their running average (--ema-decay)."""
    out: Annotated[Folder | None, UNSET] = None
    """Folder of outputs.jsonl and summary.json (default: runs/evaluate-MODEL-DATA)."""
    template: Annotated[str | None, UNSET] = None
    r"""Prompt, with {question} for the question; \n ends a line. Or chat, for the tokenizer's chat
    template, which messages have anyway (default: that which the model was fine-tuned with, else
    "Question: {question}\nAnswer:\n")."""
    batch_size: int = 32
    """Questions answered, or windows read, at a time."""
    seq_len: Annotated[int | None, UNSET] = None
    """Tokens of a window of text (default: as many as the model takes, at most 1024)."""
    max_new_tokens: Annotated[int | None, UNSET] = None
    """Longest answer to a question; the end of text ends one sooner (default: 256)."""
    limit: Annotated[int | None, UNSET] = None
    """Ask the first so many questions only (default: all)."""
    dtype: Annotated[Literal["float32", "bfloat16"] | None, UNSET] = None
    """Type of the computation (default: the model's own)."""
    mesh: Annotated[str | None, UNSET] = None
    """Devices per axis, as data=4,fsdp=2,tensor=2 or a part of it (default: all on the data
    axis)."""


def evaluate(config: EvaluateConfig, console: Console) -> dict[str, Any]:
    """Measures a model on questions or on text, and prints, writes and returns the result."""
    sizes = parse_mesh(config.mesh, jax.device_count())
    check_ranges(vars(config))
    check_batch_size(config.batch_size, sizes)
    source, mesh = open_model(config.model, config.weights), make_mesh(sizes)
    start = time.perf_counter()
    measure = _evaluate_questions if has_questions(config.data) else _evaluate_text
    folder, measures, said = measure(config, source, mesh, console)
    subject = {"model": str(config.model), "weights": config.weights, "data": str(config.data)}
    summary = subject | measures | {"seconds": round(time.perf_counter() - start, 3)}
    write_json(folder / "summary.json", summary)
    console.print(said, highlight=False, markup=False)
    return summary


def _evaluate_questions(
    config: EvaluateConfig, source: PretrainedModel, mesh: Mesh, console: Console
) -> tuple[epath.Path, dict[str, Any], str]:
    """Returns the folder, what its summary.json holds, and what is printed."""
    examples = read_examples(config.data)[: config.limit]
    asked = [example for example in examples if final_number(example.answer) is not None]
    _refuse(config, "text", ["seq_len"])
    prompt = prompt_for(config.data, config.template, source.prompt)
    if asked:
        prompts = prompt.encode(asked, source.tokenizer)
        _check_lengths(config, source, asked, list(map(len, prompts)))
    else:
        _refuse(config, "answers with a number after ####", ["max_new_tokens"])
    # Where all are asked for a number, their loss says less, and long solutions would be refused.
    rows = _answer_rows(config, source, prompt, examples) if len(asked) < len(examples) else None
    folder, size = _create_folder(config), config.batch_size
    model = source.load(mesh, config.dtype)
    measures: dict[str, Any] = {"template": prompt.template, "examples": len(examples)}
    said = []
    if rows is not None:
        loss = mean_loss(model, answer_batches(rows, size, len(rows)), mesh)
        measures |= {"loss": loss, "perplexity": perplexity(loss)}
        said.append(
            f"loss {loss:.4f}, perplexity {perplexity(loss):.2f} on {len(examples):,} answers"
        )
    if asked:
        most = config.max_new_tokens or LONGEST_ANSWER
        sizes = {"batch_size": size, "max_new_tokens": most}
        outputs = answers(model, source.tokenizer, prompts, mesh=mesh, **sizes)
        records = _write_outputs(outputs, asked, folder / OUTPUTS_FILE, console)
        correct = sum(record["correct"] for record in records)
        missing = sum(record["number"] is None for record in records)
        accuracy = correct / len(asked)
        measures |= {"asked": len(asked), "correct": correct, "accuracy": accuracy}
        measures |= {"without_number": missing}
        said.append(
            f"exact match {accuracy:.1%}: {correct:,} of {len(asked):,} ({missing:,} outputs "
            f"without a number); outputs in {folder / OUTPUTS_FILE}"
        )
    return folder, measures, "\n".join(said)


def _write_outputs(
    outputs: Iterator[tuple[int, str]], examples: list[Example], path: epath.Path, console: Console
) -> list[dict[str, Any]]:
    """The lines of outputs.jsonl, written."""
    records: dict[int, dict[str, Any]] = {}
    correct = 0
    with (
        ProgressBar(console, "question", len(examples)) as bar,
        path.open("w", encoding="utf-8") as file,
    ):
        for i, output in outputs:
            records[i] = _record(examples[i], output)
            file.write(to_text(records[i]) + "\n")
            file.flush()
            correct += records[i]["correct"]
            bar.update(len(records), f"exact match {correct / len(records):.1%}")
    # Written as they came, in case it is interrupted; in the end in the order of the questions.
    ordered = [records[i] for i in range(len(examples))]
    write_text(path, "".join(to_text(record) + "\n" for record in ordered))
    return ordered


def _record(example: Example, output: str) -> dict[str, Any]:
    """A line of outputs.jsonl."""
    reference, number = final_number(example.answer), final_number(output)
    return {
        "question": example.question,
        "reference": example.answer,
        "output": output,
        "reference_number": reference,
        "number": number,
        "correct": number == reference,
    }


def _answer_rows(
    config: EvaluateConfig, source: PretrainedModel, prompt: Prompt, examples: list[Example]
) -> AnswerRows:
    """The answers, to be read with their questions."""
    encoded, most = prompt.encode_examples(examples, source.tokenizer), source.config.max_position
    longest = max(encoded, key=lambda example: len(example.tokens))
    needed = len(longest.tokens) - 1
    if needed > most:
        raise UserError(
            f"{longest.where}: prompt and answer take {needed} tokens, and {config.model} takes at "
            f"most {most}: shorten or remove the line"
        )
    return AnswerRows(encoded, max(needed, min(LONGEST_WINDOW, most)), packing=True)


def _check_lengths(
    config: EvaluateConfig, source: PretrainedModel, examples: list[Example], lengths: list[int]
) -> None:
    """Refuses what the model cannot read, before anything is generated."""
    new, most = config.max_new_tokens or LONGEST_ANSWER, source.config.max_position
    length, where = max((n, example.where) for n, example in zip(lengths, examples, strict=True))
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
    config: EvaluateConfig, source: PretrainedModel, mesh: Mesh, console: Console
) -> tuple[epath.Path, dict[str, Any], str]:
    """The same for the loss on text, of documents that do not see each other if the model was
    trained so."""
    del console
    _refuse(config, "questions", ["template", "limit", "max_new_tokens"])
    most = source.config.max_position
    seq_len = config.seq_len or min(LONGEST_WINDOW, most)
    if seq_len > most:
        raise UserError(f"--seq-len {seq_len} is more than the model takes ({most})")
    tokens, num_bytes = read_to_validate(str(config.data), source.tokenizer)
    folder = _create_folder(config)
    end_of_text = source.tokenizer.eos_id if source.document_mask else None
    batches = text_batches(tokens, config.batch_size, seq_len, end_of_text)
    loss = mean_loss(source.load(mesh, config.dtype), batches, mesh)
    measures = {
        "tokens": len(tokens),
        "bytes": num_bytes,
        "loss": loss,
        "perplexity": perplexity(loss),
        "bits_per_byte": loss * len(tokens) / (math.log(2) * num_bytes),
        "seq_len": seq_len,
    }
    said = (
        f"loss {loss:.4f}, perplexity {perplexity(loss):.2f}, {measures['bits_per_byte']:.4f} bits "
        f"per byte: {len(tokens):,} tokens of {config.data} in windows of {seq_len}"
    )
    return folder, measures, said


def _refuse(config: EvaluateConfig, kind: str, options: list[str]) -> None:
    """Refuses options for a kind of data that these are not."""
    for name in options:
        if getattr(config, name) is not None:
            raise UserError(
                f"{as_flag(name)} is for {kind}, of which --data {config.data} has none: leave it "
                "out"
            )


def _create_folder(config: EvaluateConfig) -> epath.Path:
    name = f"evaluate-{absolute(config.model).name}-{config.data.name.partition('.')[0]}"
    name += "" if config.weights == "last" else f"-{config.weights}"
    folder = config.out or epath.Path("runs") / name
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists already: give another folder with --out")
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder
