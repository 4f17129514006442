"""Fine-tuning end to end: from a Hugging Face folder or a run to a model folder, and resumed."""

import io
import json
import re
import signal
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from huggingface_folders import forward, parameters
from question_files import (
    BOS_ID,
    CHAT_TEMPLATE,
    TEMPLATE,
    as_conversations,
    model_folder,
    sums,
    write_questions,
)
from rich.console import Console
from run_folders import curve

import train
from models import huggingface
from models.configs import parameter_count
from training.checkpoints.pretrained import check_tokenizer, open_model
from training.commands import finetune as finetuning
from training.config.finetuning import FinetuneConfig, QuestionOptions
from training.config.options import with_options
from training.data.questions import Example, split_examples
from training.data.tokenizers import Tokenizer
from training.errors import UserError
from training.runs.interruption import InterruptedRunError
from training.steps.mesh import make_mesh


@pytest.fixture(scope="module", autouse=True)
def compiled_once():
    """Runs that differ in what is not compiled in share their compiled functions."""
    compiled = {}
    compile_steps = finetuning.compile_steps

    def cached(options, model, mesh, objective):
        key = repr((options, model, mesh, objective.batch_shapes(options.batch)))
        if key not in compiled:
            compiled[key] = compile_steps(options, model, mesh, objective)
        return compiled[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finetuning, "compile_steps", cached)
        yield


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with tiny models and questions."""
    folder = tmp_path_factory.mktemp("files")
    write_questions(folder / "train.jsonl", sums(40))
    for name in ("tiny_llama", "tiny_qwen2"):
        model_folder(folder / name, name)
    return folder


def config_of(files, out, **changes):
    defaults = {
        "template": TEMPLATE,
        "seq_len": 40,
        "optimizer": "adamw",
        "learning_rate": 1e-3,
        "batch_size": 8,
        "steps": 4,
        "ema_decay": 0.5,
        "mesh": "data=1",
        "checkpoint_every": 1,
        "eval_every": 2,
    }
    questions = QuestionOptions(data=str(files / "train.jsonl"))
    config = FinetuneConfig(model=files / "tiny_llama", questions=questions)
    return with_options(config, **(defaults | changes), out=out)


def run(config):
    """Fine-tunes; returns (summary, what was printed)."""
    console = Console(file=io.StringIO(), width=200)
    return finetuning.finetune(config, console), console.file.getvalue()


@pytest.fixture(scope="module")
def tuned(files, tmp_path_factory):
    """The folder of a finished run of AdamW, its summary and what it printed."""
    folder = tmp_path_factory.mktemp("tuned") / "run"
    return folder, *run(config_of(files, folder))


def test_the_run_has_metrics_a_summary_and_a_model(files, tuned):
    folder, summary, printed = tuned
    names = {path.name for path in (folder / "model").iterdir()}
    assert names == {"config.json", "model.safetensors", "tokenizer.json", "prompt.json"}
    assert [record["step"] for record in curve(folder)] == [1, 2, 3, 4]
    assert summary["val_loss"] == curve(folder)[-1]["val_loss"] < curve(folder)[1]["val_loss"]
    assert json.loads((folder / "config.json").read_text())["template"] == TEMPLATE
    assert "38 examples to train on in 38 rows of" in printed
    assert ", 2 held out" in printed


def test_the_model_is_the_last_checkpoints_and_reads_back_with_its_prompt(files, tuned):
    folder, _, _ = tuned
    source = open_model(folder)  # a run of finetune stands for its model
    assert source.prompt.template == TEMPLATE
    assert source.prompt.prefix_ids == (BOS_ID,)
    assert source.fine_tuned
    before = parameters(huggingface.load(files / "tiny_llama"))
    after = parameters(source.load(make_mesh({"data": 1})))
    moved = [float(np.abs(after[path] - before[path]).max()) for path in before]
    assert min(moved) > 1e-5
    assert max(moved) < 4 * 1.1e-3  # four steps of AdamW at 1e-3
    fields = json.loads((folder / "model/config.json").read_text())
    assert fields["eos_token_id"] == source.tokenizer.eos_id
    original = (files / "tiny_llama/tokenizer.json").read_bytes()
    assert (folder / "model/tokenizer.json").read_bytes() == original


def test_the_average_of_the_weights_is_a_model_beside_the_last_ones(tuned):
    folder, summary, printed = tuned
    mesh = make_mesh({"data": 1})
    last, mean = (parameters(open_model(folder, which).load(mesh)) for which in ("last", "ema"))
    config = open_model(folder).config
    assert summary["ema_bytes"] == 4 + 4 * parameter_count(config)
    assert f"validation loss {summary['ema_val_loss']:.4f}" in " ".join(printed.split())
    moved = [float(np.abs(last[path] - mean[path]).max()) for path in last]
    assert 0 < min(moved) <= max(moved) < 2e-3  # of four steps of AdamW at 1e-3


def test_the_first_loss_is_the_answers_loss_of_the_model_as_it_was(files, tmp_path):
    """Counted apart from the training step: every answer's mean, on the whole validation part."""
    summary, _ = run(config_of(files, tmp_path / "run", learning_rate=1e-12))
    tokenizer = Tokenizer((files / "tiny_llama/tokenizer.json").read_text(), "x")
    model = huggingface.load(files / "tiny_llama")
    examples = [Example(**record, where="") for record in sums(40)]
    _, held_out = split_examples(examples, 0.05)
    losses = []
    for example in held_out:
        prompt = [BOS_ID, *tokenizer.encode(example.question + "\n")]
        tokens = [*prompt, *tokenizer.encode(example.answer), tokenizer.eos_id]
        padded = np.zeros((1, 41), np.int32)
        padded[0, : len(tokens)] = tokens
        logits = np.asarray(forward(model, padded)[0], np.float64)
        log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        losses += [-log_p[i - 1, tokens[i]] for i in range(len(prompt), len(tokens))]
    assert summary["val_loss"] == pytest.approx(np.mean(losses), rel=1e-4)


@pytest.mark.slow
def test_conversations_are_learnt_as_the_chat_template_puts_them(files, tuned, tmp_path):
    data = write_questions(tmp_path / "chat.jsonl", as_conversations(sums(40)))
    config = config_of(files, tmp_path / "run", data=str(data), template=None)
    with pytest.raises(UserError, match=r"row \d+: the tokenizer of --model has no chat template"):
        run(config)
    folder = model_folder(tmp_path / "chatting")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    config = with_options(config, model=folder)
    run(config)
    assert curve(config.out) == curve(tuned[0])
    assert json.loads((config.out / "config.json").read_text())["template"] == "chat"
    source = open_model(config.out)  # and so are questions that are put to it
    asked = [source.prompt.encode([Example("1+1?", "", "")], source.tokenizer)]
    asked += [open_model(tuned[0]).prompt.encode([Example("1+1?", "", "")], source.tokenizer)]
    np.testing.assert_array_equal(*asked)


@pytest.mark.slow
def test_a_resumed_run_is_bit_for_bit_the_whole_one(files, tmp_path, signal_at):
    config = config_of(
        files, tmp_path / "whole", optimizer="trion", packing=True, seq_len=60, template=None
    )
    run(config)
    parts = with_options(config, out=tmp_path / "parts")
    signal_at(2, signal.SIGTERM)
    with pytest.raises(InterruptedRunError, match=r"stopped after step \d; saved"):
        run(parts)
    assert len(curve(parts.out)) < 4
    with pytest.raises(UserError, match=r"parts: this fine-tuning run has not written its model"):
        open_model(parts.out)
    run(with_options(parts, resume=True))
    assert curve(parts.out) == curve(config.out)
    for name in ("model", "model-ema"):
        one, other = (out / name / "model.safetensors" for out in (parts.out, config.out))
        assert one.read_bytes() == other.read_bytes()


def test_a_refused_resume_leaves_the_model(files, tuned):
    folder, *_ = tuned
    fewer = config_of(files, folder, steps=2, schedule="constant", warmup_steps=0, resume=True)
    with pytest.raises(UserError, match="cannot resume"):
        run(fewer)
    check_tokenizer(folder, open_model(folder).tokenizer)  # pretraining may begin with the run


@pytest.mark.slow
def test_eight_devices_and_micro_batches_train_to_the_losses_of_one(files, tmp_path, tuned):
    layout = {"mesh": "data=2,fsdp=2", "zero": True, "accumulate_steps": 2}
    run(config_of(files, tmp_path / "run", **layout))
    for name in ("loss", "grad_norm", "val_loss"):
        one, several = (
            [record[name] for record in curve(folder) if name in record]
            for folder in (tuned[0], tmp_path / "run")
        )
        np.testing.assert_allclose(several, one, rtol=2e-4)


@pytest.mark.slow
def test_a_bfloat16_qwen_is_trained_and_written_in_bfloat16(files, tmp_path):
    types = {"dtype": "bfloat16", "param_dtype": "bfloat16"}
    run(config_of(files, tmp_path / "run", model=files / "tiny_qwen2", **types))
    model = huggingface.load(tmp_path / "run/model")
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(model))} == {np.dtype("bfloat16")}
    assert model.config.qkv_bias


@pytest.mark.slow
def test_a_run_of_pretrain_is_a_model_too(files, trainer, tmp_path):
    trainer(trainer.config(tmp_path / "base"))
    base = open_model(tmp_path / "base")
    assert (base.config.num_layers, base.config.vocab_size) == (1, 264)
    assert base.tokenizer.name == "bytes"
    run(config_of(files, tmp_path / "run", model=tmp_path / "base", learning_rate=1e-12))
    tuned = open_model(tmp_path / "run")
    assert tuned.tokenizer.encode("né").tolist() == [110, 195, 169]
    assert (tuned.tokenizer.eos_id, tuned.prompt.template) == (256, TEMPLATE)
    check_tokenizer(tmp_path / "run", base.tokenizer)
    mesh = make_mesh({"data": 1})
    one, other = (parameters(source.load(mesh)) for source in (base, tuned))
    for path in one:
        np.testing.assert_allclose(one[path], other[path], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "none"}, "--model none: there is no such folder"),
        ({"template": "Q:"}, "--template 'Q:' has no {question}"),
        ({"data": "none.jsonl"}, "none.jsonl: no such file"),
        ({"validation": "none.jsonl"}, "none.jsonl: no such file"),
        ({"optimizer": "trian"}, "unknown optimizer 'trian'. Did you mean 'trion'"),
        ({"rank": 4}, "--rank is not an option of adamw"),
        ({"batch_size": 0}, "--batch-size is 0, but must be at least 1"),
        ({"epochs": 0.0, "steps": None}, "--epochs is 0.0, but must be greater than 0"),
        ({"seq_len": 20}, r"examples are longer than --seq-len 20; the longest, .*row \d+, takes"),
        ({"seq_len": 65}, r"--seq-len 65 is longer than --model takes \(64\)"),
        ({"seq_len": 5, "skip_long": True}, r"no example of .*train.jsonl fits --seq-len 5"),
        (
            {"template": "x" * 60 + "{question}", "seq_len": None},
            r"row \d+: prompt and answer take \d+ tokens, and .*takes at most 64: leave such",
        ),
    ],
)
def test_bad_input_is_explained_and_leaves_no_folder(files, tmp_path, changes, message):
    changes = {k: Path(v) if k in ("model", "validation") else v for k, v in changes.items()}
    with pytest.raises(UserError, match=message):
        run(config_of(files, tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_long_examples_can_be_left_out(files, tmp_path):
    records = [*sums(40), {"question": "9+9?", "answer": "so " * 30 + "\n#### 18"}]
    data = write_questions(tmp_path / "long.jsonl", records)
    config = config_of(files, tmp_path / "run", data=str(data))
    with pytest.raises(UserError, match=r"1 of 41 examples are longer .*row 41, takes.*--skip-lo"):
        run(config)
    _, printed = run(with_options(config, skip_long=True))
    assert "1 too long and left out" in printed


@pytest.mark.slow
def test_changed_data_are_noticed_at_a_resume(files, tmp_path):
    data = write_questions(tmp_path / "a.jsonl", sums(20))
    config = config_of(files, tmp_path / "run", data=str(data))
    run(config)
    write_questions(data, sums(21))
    with pytest.raises(UserError, match=r"its data are not what they were:\n.*a.jsonl has changed"):
        run(with_options(config, resume=True))


def test_help_shows_the_options_of_finetune_and_none_that_make_a_model(capsys):
    with pytest.raises(SystemExit) as leaving:
        train.parse(["finetune", "--help"])
    assert leaving.value.code == 0
    printed = " ".join(re.sub(r"[│╭╮╰╯─]", " ", capsys.readouterr().out).split())
    for option in ("--model", "--packing", "--template", "--param-dtype", "--residual-decay"):
        assert option in printed
    for option in ("--preset", "--hidden-size", "--tokenizer", "--verify"):
        assert option not in printed
    assert "default: a tenth of the optimizer's" in printed
