"""Evaluation: batched greedy answers, scored as GSM-8k's own scorer does, and what it refuses."""

import io
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from huggingface_folders import DATA, forward, golden
from question_files import (
    CHAT_TEMPLATE,
    TEMPLATE,
    as_conversations,
    character_tokenizer,
    model_folder,
    sums,
    write_questions,
)
from rich.console import Console
from run_folders import prepared

import train
from models import huggingface
from training.checkpoints.pretrained import open_model
from training.commands import evaluate as evaluation
from training.commands.evaluate import EvaluateConfig
from training.data.prompts import Prompt
from training.data.questions import Example, read_examples
from training.data.tokenizers import Tokenizer
from training.errors import UserError
from training.inference.answers import answers, padded_width, plan_batches
from training.inference.generate import continue_prompts
from training.steps.mesh import make_mesh

NEW = 12


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with a tiny model and questions."""
    folder = tmp_path_factory.mktemp("files")
    write_questions(folder / "test.jsonl", sums(13, start=95))
    model_folder(folder / "tiny_llama")
    return folder


def run(files, out, **changes):
    """Evaluates; returns (summary, what was printed)."""
    defaults = {
        "model": files / "tiny_llama",
        "data": files / "test.jsonl",
        "template": TEMPLATE,
        "batch_size": 8,
        "max_new_tokens": NEW,
        "mesh": "data=1",
    }
    console = Console(file=io.StringIO(), width=200)
    config = EvaluateConfig(**(defaults | changes), out=out)
    return evaluation.evaluate(config, console), console.file.getvalue()


def outputs(folder):
    return [json.loads(line) for line in (folder / "outputs.jsonl").read_text().splitlines()]


def test_batches_hold_prompts_of_about_the_same_length():
    lengths = [9, 40, 3, 8, 41, 10, 2]
    batches = plan_batches(lengths, 3)
    assert sorted(i for batch in batches for i in batch) == list(range(7))
    assert [[lengths[i] for i in batch] for batch in batches] == [[2, 3, 8], [9, 10, 40], [41]]


def test_widths_are_few():
    widths = {padded_width(length, 1000) for length in range(1, 1001)}
    assert widths == {32, 64, 128, 256, 512, 1000}
    assert all(padded_width(length, 1000) >= length for length in range(1, 1001))


def test_outputs_are_each_prompts_own_continuation_in_the_order_of_the_file(files, tmp_path):
    run(files, tmp_path / "out")
    model = huggingface.load(files / "tiny_llama")
    tokenizer = Tokenizer(character_tokenizer(), "characters")
    prompt = Prompt(TEMPLATE, tokenizer.prefix_ids)
    records = outputs(tmp_path / "out")
    assert [record["question"] for record in records] == [x["question"] for x in sums(13, 95)]
    for record in records[:2] + records[-1:]:
        (tokens,) = prompt.encode([Example(record["question"], "", "")], tokenizer)
        alone = np.asarray(continue_prompts(model, jnp.asarray(tokens[None]), NEW))[0].tolist()
        alone = alone[: alone.index(tokenizer.eos_id)] if tokenizer.eos_id in alone else alone
        text = tokenizer.decode([token for token in alone if token < tokenizer.vocab_size])
        assert record["output"] == text


def test_the_last_answers_of_conversations_are_asked_for_by_the_chat_template(files, tmp_path):
    folder = model_folder(tmp_path / "chatting")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    data = write_questions(tmp_path / "chat.jsonl", as_conversations(sums(13, start=95)))
    summary, _ = run(files, tmp_path / "chat", model=folder, data=data, template=None)
    assert summary["template"] == "chat"
    run(files, tmp_path / "plain")
    assert outputs(tmp_path / "chat") == outputs(tmp_path / "plain")


@pytest.mark.slow
def test_the_mesh_changes_nothing(files, tmp_path):
    run(files, tmp_path / "one")
    run(files, tmp_path / "eight", mesh="data=2,fsdp=2,tensor=2")
    assert outputs(tmp_path / "one") == outputs(tmp_path / "eight")


def test_accuracy_counts_outputs_whose_number_is_right(files, tmp_path, monkeypatch):
    replies = {"95+4?": "#### 99", "96+5?": "so\n#### 1,01", "97+6?": "103", "98+0?": "#### 98."}

    def reply(model, tokenizer, prompts, **options):
        questions = [tokenizer.decode(tokens).removesuffix("\n") for tokens in prompts]
        return enumerate(replies.get(question, "#### -1") for question in questions)

    monkeypatch.setattr(evaluation, "answers", reply)
    summary, printed = run(files, tmp_path / "out")
    assert (summary["examples"], summary["correct"], summary["without_number"]) == (13, 2, 1)
    assert summary["accuracy"] == 2 / 13
    assert json.loads((tmp_path / "out/summary.json").read_text()) == summary
    assert [record["correct"] for record in outputs(tmp_path / "out")] == [True, True] + [
        False
    ] * 11
    assert [r["number"] for r in outputs(tmp_path / "out")][:4] == ["99", "101", None, "98."]
    assert "exact match 15.4%: 2 of 13 (1 outputs without a number)" in printed
    assert "question 13/13 | exact match 15.4%" in printed


def test_the_first_questions_only_on_request(files, tmp_path):
    summary, _ = run(files, tmp_path / "out", limit=3)
    assert summary["examples"] == len(outputs(tmp_path / "out")) == 3


def test_a_model_is_asked_as_it_was_fine_tuned(files, tmp_path):
    folder = model_folder(tmp_path / "model")
    Prompt("Say {question}\n", ()).save(folder)
    summary, _ = run(files, tmp_path / "out", model=folder, template=None, limit=1)
    assert summary["template"] == "Say {question}\n"


def test_an_answer_ends_at_its_end_of_text():
    class Ending(Tokenizer):
        """A tokenizer whose end of text is the token that the model says third."""

    data = golden("tiny_llama")
    tokenizer = Ending(character_tokenizer(), "characters")
    tokenizer.eos_id = int(data["greedy"][0, 2])
    model = huggingface.load(DATA / "tiny_llama")
    options = {"batch_size": 2, "max_new_tokens": 8, "mesh": make_mesh({"data": 1})}
    ((_, text),) = answers(model, tokenizer, [data["tokens"][0]], **options)
    first = [int(token) for token in data["greedy"][0, :2]]
    assert text == tokenizer.decode([token for token in first if token < tokenizer.vocab_size])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "none"}, "--model none: there is no such folder"),
        ({"data": "none.jsonl"}, "none.jsonl: no such file"),
        ({"template": "Q:"}, "--template 'Q:' has no {question}"),
        ({"batch_size": 0}, "--batch-size is 0, but must be at least 1"),
        ({"limit": 0}, "--limit is 0, but must be at least 1"),
        (
            {"batch_size": 9, "mesh": "data=8"},
            r"--batch-size 9 cannot be divided over 8 device\(s\)",
        ),
        ({"mesh": "dat=2"}, "unknown axis 'dat'"),
        (
            {"max_new_tokens": 60},
            r"test.jsonl, row \d+: its prompt of 8 tokens and --max-new-tokens 60 exceed the 64 "
            r"tokens that .*: give at most --max-new-tokens 57",
        ),
        ({"template": "x" * 90 + "{question}"}, r"its prompt of 97 tokens is longer than the 64"),
    ],
)
def test_bad_input_is_explained_and_leaves_no_folder(files, tmp_path, changes, message):
    changes = {k: Path(v) if k in ("model", "data") else v for k, v in changes.items()}
    with pytest.raises(UserError, match=message):
        run(files, tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_answers_without_a_number_are_evaluated_for_their_loss(files, tmp_path):
    """Those that have one are asked for it."""
    records = [*sums(2), {"question": "1+1?", "answer": "two"}]
    data = write_questions(tmp_path / "a.jsonl", records)
    summary, printed = run(files, tmp_path / "out", data=data, max_new_tokens=1)
    source, nats = open_model(files / "tiny_llama"), []
    prompt = Prompt(TEMPLATE, source.tokenizer.prefix_ids)
    examples = prompt.encode_examples(read_examples(data), source.tokenizer)
    tokens = np.stack([np.resize(example.tokens, 40) for example in examples])
    all_logits = np.asarray(forward(huggingface.load(source.folder), tokens), np.float64)
    for example, logits in zip(examples, all_logits, strict=True):
        length = len(example.tokens) - 1
        chosen = logits[np.arange(length), example.tokens[1:]]
        nats += (np.log(np.exp(logits[:length]).sum(-1)) - chosen)[example.learnt[1:]].tolist()
    assert summary["loss"] == pytest.approx(np.mean(nats), rel=1e-5)
    assert (summary["examples"], summary["asked"], len(outputs(tmp_path / "out"))) == (3, 2, 2)
    assert f"loss {summary['loss']:.4f}, perplexity " in printed


def test_options_and_data_that_do_not_belong_together_are_refused(files, tmp_path):
    text, plain, out = tmp_path / "text.txt", tmp_path / "plain.jsonl", tmp_path / "out"
    text.write_text("Some text. " * 50)
    write_questions(plain, [{"question": "1+1?", "answer": "two"}])
    unset = {"template": None, "max_new_tokens": None}
    for data, options, message in [
        (files / "test.jsonl", {"seq_len": 8}, "--seq-len is for text, of which --data"),
        (text, {"limit": 3}, r"--limit is for questions, .* has none: leave it out"),
        (text, {"template": "{question}"}, "--template is for questions"),
        (text, {"max_new_tokens": 8}, "--max-new-tokens is for questions"),
        (plain, {"max_new_tokens": 8}, "--max-new-tokens is for answers with a number after ####"),
        (prepared(text, tmp_path / "arrays"), {}, "prepared with another tokenizer than that of"),
    ]:
        with pytest.raises(UserError, match=message):
            run(files, out, data=Path(data), **unset | options)
        assert not out.exists()


def test_a_folder_in_use_is_refused(files, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"exists already: give another folder with --out"):
        run(files, tmp_path)


def test_the_command_line_writes_problems_and_evaluates(files, tmp_path, capsys):
    problems, out = tmp_path / "problems", tmp_path / "out"
    numbers = ["--train", "3", "--test", "2"]
    assert train.main(["problems", "--out", str(problems), *numbers]) == 0
    assert "3 problems in train.jsonl, 2 in test.jsonl, e.g." in capsys.readouterr().out
    command = ["evaluate", "--model", str(files / "tiny_llama"), "--mesh", "data=1"]
    command += ["--max-new-tokens", str(NEW), "--out", str(out), "--template", r"{question}\n"]
    assert train.main([*command, "--data", str(problems / "test.jsonl")]) == 2
    assert "is longer than the 64 tokens" in capsys.readouterr().err
    assert train.main([*command, "--data", str(files / "test.jsonl"), "--batch-size", "8"]) == 0
    assert "exact match 0.0%: 0 of 13" in capsys.readouterr().out
    assert json.loads((out / "summary.json").read_text())["template"] == TEMPLATE


def test_a_run_s_loss_on_a_text_is_that_of_its_windows(trainer, tmp_path, capsys):
    text = "".join(f"line {i} of {i * i} is a text.\n" for i in range(60))
    (tmp_path / "text.txt").write_text(text)
    trainer(trainer.config(tmp_path / "run"))
    options = ["--seq-len", "16", "--batch-size", "5", "--mesh", "data=1"]
    arguments = ["--model", tmp_path / "run", "--data", tmp_path / "text.txt"]
    out = tmp_path / "out"
    assert train.main(["evaluate", *map(str, arguments), "--out", str(out), *options]) == 0
    printed = capsys.readouterr().out
    summary = json.loads((out / "summary.json").read_text())
    model = open_model(tmp_path / "run").load(make_mesh({"data": 1}))
    tokens = np.frombuffer(text.encode(), np.uint8).astype(np.int32)
    windows = np.pad(tokens[:-1], (0, -(len(tokens) - 1) % 16)).reshape(-1, 16)
    logits = np.concatenate(np.asarray(forward(model, windows), np.float64))[: len(tokens) - 1]
    chosen = logits[np.arange(len(tokens) - 1), tokens[1:]]
    nats = np.mean(np.log(np.exp(logits).sum(-1)) - chosen)
    assert summary["tokens"] == summary["bytes"] == len(text)
    assert summary["loss"] == pytest.approx(nats, rel=1e-5)
    assert summary["perplexity"] == pytest.approx(np.exp(summary["loss"]))
    assert summary["bits_per_byte"] == pytest.approx(summary["loss"] / np.log(2))
    assert f"loss {summary['loss']:.4f}, perplexity" in printed
    assert train.main(["evaluate", *map(str, arguments), "--seq-len", "1000000"]) == 2
    assert "--seq-len 1000000 is more than the model takes" in capsys.readouterr().err
