"""`train.py generate` and `export`: texts go on as the model says, here and elsewhere."""

import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from huggingface_folders import forward
from question_files import BOS_ID, CHAT_TEMPLATE, model_folder

import train
from models import huggingface
from training.checkpoints.pretrained import open_model
from training.inference.answers import text_of
from training.inference.generate import continue_prompts
from training.steps.mesh import make_mesh


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return model_folder(tmp_path_factory.mktemp("models") / "tiny_llama")


def printed(capsys, *arguments):
    """What a command that succeeds prints."""
    assert train.main(list(map(str, arguments))) == 0
    return capsys.readouterr().out


def test_a_prompt_goes_on_with_the_most_likely_tokens(folder, capsys):
    tokenizer = open_model(folder).tokenizer
    prompt = jnp.array([[BOS_ID, *tokenizer.encode("3+4?")]])
    eos = tokenizer.eos_id
    tokens = np.asarray(continue_prompts(huggingface.load(folder), prompt, 12, eos_id=eos))[0]
    expected = text_of(tokens, tokenizer)
    out = printed(capsys, "generate", "--model", folder, "--prompt", "3+4?", "--max-new-tokens", 12)
    assert out == f"3+4?{expected}\n"


def test_a_message_is_put_by_the_chat_template(folder, tmp_path, capsys):
    command = ("generate", "--max-new-tokens", 12, "--model")
    assert train.main([*map(str, command), str(folder), "--chat"]) == 2
    assert "error: --chat: the tokenizer of --model has no chat template" in capsys.readouterr().err
    chatting = shutil.copytree(folder, tmp_path / "chatting")
    (chatting / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    out = printed(capsys, *command, chatting, "--chat", "--prompt", "3+4?")
    plain = printed(capsys, *command, chatting, "--prompt", "3+4?\n")
    assert plain == "3+4?\n" + out


def test_what_looks_like_markup_is_printed_as_it_is(folder, capsys):
    prompt = "x[1:b:2] {d:x:3}"
    command = ("generate", "--model", folder, "--max-new-tokens", 1, "--prompt", prompt)
    assert printed(capsys, *command).startswith(prompt)


@pytest.mark.slow
def test_draws_differ_and_come_again_by_their_seed(folder, capsys):
    draw = lambda seed: printed(
        capsys,
        *("generate", "--model", folder, "--prompt", "7", "--max-new-tokens", 8),
        *("--temperature", 1.5, "--samples", 3, "--seed", seed),
    )
    assert draw(0) == draw(0) != draw(1)
    assert draw(0).count("7") >= 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max-new-tokens", "0"], "--max-new-tokens is 0, but must be at least 1"),
        (["--temperature", "-1"], "--temperature is -1.0, but must be 0 or more"),
        (["--temperature", "1", "--top-p", "0"], "--top-p is 0.0, but must be above 0"),
        (["--samples", "2"], "--samples and --top-p are for draws: give a --temperature"),
        (["--max-new-tokens", "100000"], "give at most --max-new-tokens "),
    ],
)
def test_options_that_make_no_sense_are_refused(folder, capsys, options, message):
    assert train.main(["generate", "--model", str(folder), *options]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_an_exported_run_has_its_logits_and_continues_texts_alike(trainer, tmp_path, capsys):
    run, folder = tmp_path / "run", tmp_path / "exported"
    trainer(trainer.config(run))
    assert "exported" in printed(capsys, "export", run, folder)
    tokens = jnp.arange(12).reshape(2, 6)
    mesh = make_mesh({"data": 1})
    expected = forward(open_model(run).load(mesh), tokens)
    np.testing.assert_allclose(forward(huggingface.load(folder), tokens), expected, atol=1e-5)
    assert open_model(folder).tokenizer.encode("né").tolist() == [110, 195, 169]
    go_on = lambda model: printed(
        capsys, "generate", "--model", model, "--prompt", "file", "--max-new-tokens", 8
    )
    assert go_on(run) == go_on(folder)
    assert train.main(["export", str(run), str(folder)]) == 2
    assert f"{folder} exists already" in capsys.readouterr().err
