"""The command line: exit statuses and messages, and a real SIGTERM."""

import os
import re
import signal
import threading
import time

import pytest
from run_folders import curve, write_texts

import train
from training.config.options import flat


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write_texts(tmp_path_factory.mktemp("text"))


@pytest.fixture
def tiny(text):
    """Options of a run of seconds."""
    options = {
        "hidden-size": 32,
        "num-layers": 1,
        "seq-len": 16,
        "batch-size": 8,
        "eval-batches": 2,
        "data": text,
        "validation-fraction": 0.2,
        "mesh": "data=1",
        "optimizer": "adamw",
    }
    return [part for name, value in options.items() for part in (f"--{name}", str(value))]


def test_pretrain_is_the_default_command():
    assert train.parse([]) == train.parse(["pretrain"])
    assert train.parse(["--steps", "3"]) == train.parse(["pretrain", "--steps", "3"])
    values = flat(train.parse([]))
    assert values == values | {"preset": "small", "optimizer": "trion", "data": ("stdlib",)}


@pytest.mark.parametrize("word", ["none", "None"])
def test_none_leaves_a_part_out_and_is_not_its_default(word):
    options = ["--momentum", word, "--neuron-decay", word, "--error-feedback", word]
    chosen = flat(train.parse(options))
    assert {chosen[name] for name in ("momentum", "neuron_decay", "error_feedback")} == {"none"}
    assert flat(train.parse(["--momentum", "0.5"]))["momentum"] == 0.5
    assert flat(train.parse([]))["momentum"] is None


@pytest.mark.parametrize(
    ("option", "message"),
    [("--momentum", "could not convert string to float"), ("--error-feedback", "float32 or none")],
)
def test_what_is_neither_a_value_nor_none_is_refused(option, message, capsys):
    with pytest.raises(SystemExit):
        train.parse([option, "int9"])
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_rank_is_an_integer_or_a_fraction():
    ranks = [train.parse(["--rank", text]).method.rank for text in ("128", "0.25")]
    assert ranks == [128, 0.25]
    assert [type(rank) for rank in ranks] == [int, float]


@pytest.mark.product(every=4)
@pytest.mark.parametrize("command", sorted(train.COMMANDS))
def test_help_explains_every_option(command, capsys):
    with pytest.raises(SystemExit) as leaving:
        train.parse([command, "--help"])
    assert leaving.value.code == 0
    printed = capsys.readouterr().out
    assert "from a file: --config FILE" in printed
    options = re.split(r"\n[ │]*(?=--[a-z])", printed)[1:]
    assert options
    for option in options:
        words = " ".join(option.replace("│", " ").split()).partition(" ")[2]
        explanation = re.sub(r"\{.*?\}|\((default|required).*", "", words)
        assert re.search(r"\b[a-z]{3,}\b", explanation), option


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--optimizer", "trian"], "unknown optimizer 'trian'. Did you mean 'trion'"),
        (["--preset", "smal"], "small"),
        (["--rank", "0"], "--rank is 0, but must be an integer >= 1 or a fraction in (0, 1]"),
        (["--rank", "1.5"], "--rank is 1.5, but must be"),
        (["--rank", "-3"], "--rank is -3, but must be"),
        (["--steps", "0"], "--steps is 0, but must be at least 1"),
        (["--learning-rate", "-1"], "--learning-rate is -1.0, but must be greater than 0"),
        (["--batch-size", "9"], "--batch-size 9 cannot be divided over 8 device(s)"),
        (["--mesh", "data"], "--mesh data: expected axis=size,..."),
        (["--mesh", "model=2"], "--mesh model=2: unknown axis 'model'. Known: data, fsdp, tensor"),
        (["--mesh", "data=4,fsdp=4"], "--mesh data=4,fsdp=4: only 8 device(s)"),
        (["--zero", "--mesh", "fsdp=8"], "--zero splits the optimizer's state over the data axis"),
        (["--zero", "--optimizer", "muon"], "--zero does not go with muon"),
        (["--mesh", "data=99"], "--mesh data=99: only 8 device(s)"),
        (["--optimizer", "adamw", "--momentum", "0.9"], "--momentum is not an option of adamw"),
        (["--optimizer", "adamw", "--rank", "4"], "--rank is not an option of adamw"),
        (["--momentum", "none"], "--momentum none is for normuon and tandem; trion needs one"),
        (["--momentum", "7"], "momentum=7.0 must lie in [0, 1]"),
        (["--out", "run[1]"], "run[1]: Orbax takes *, ? and [ in a path for patterns"),
        (["--data", "no-such-folder"], "no-such-folder"),
        (["--data"], "--data names nothing: give a file"),
        (["--data-weights", "3", "1"], "--data-weights 3 1: expected a number for each of --data"),
        (["--data-weights", "0"], "--data-weights 0: all must be greater than 0; leave out of"),
        (["--validation-sets", "a.txt"], "--validation-sets a.txt: expected NAME=DATA, another"),
        (["--validation-sets", "a=none"], "'none': no such file or folder"),
        (["--tokenizer", "byte"], "unknown tokenizer 'byte'. Did you mean 'bytes'"),
        (["--seq-len", "99999"], "--seq-len 99999 is longer than preset 'small' takes"),
        (["--hidden-size", "33"], "--hidden-size 33"),
        (["--resume"], "there is no run in"),
        (["--seed", "-1"], "--seed is -1, but must be 0 or more"),
    ],
)
def test_bad_input_is_one_line_on_stderr_and_status_2(
    arguments, message, text, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    data = [] if "--data" in arguments else ["--data", str(text)]
    assert train.main([*data, *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ")
    assert message in printed.err
    assert "Traceback" not in printed.err
    assert list(tmp_path.iterdir()) == []  # nothing is left of a run that never began


def test_status_2_for_options_that_do_not_parse():
    with pytest.raises(SystemExit) as leaving:
        train.main(["--steps", "many"])
    assert leaving.value.code == 2


def test_sigterm_saves_and_the_command_with_resume_ends_the_run(tiny, tmp_path, capsys):
    tiny = [*tiny, "--steps", "100", "--checkpoint-every", "35", "--eval-every", "25"]
    parts = tmp_path / "parts"

    def terminate():
        while _lines(parts / "metrics.jsonl") < 5:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=terminate, daemon=True).start()
    assert train.main([*tiny, "--out", str(parts)]) == 143
    assert 5 <= len(curve(parts)) < 100
    stopped, command = capsys.readouterr().err.splitlines()  # and no warning besides
    assert stopped.startswith(f"stopped after step {len(curve(parts))}; saved {parts}")
    assert command.startswith("continue with: python train.py --hidden-size 32")
    assert command.endswith("--resume")

    assert train.main([*tiny, "--out", str(parts)]) == 2
    assert f"error: {parts} exists already: continue that run with --resume" in (
        capsys.readouterr().err
    )
    assert train.main([*tiny, "--out", str(parts), "--resume", "--b1", "0.5", "--seed", "3"]) == 2
    message = capsys.readouterr().err
    assert "b1: None before, 0.5 now" in message
    assert "seed: 0 before, 3 now" in message
    assert train.main([*tiny, "--out", str(parts), "--resume", "--keep-checkpoints", "1"]) == 0
    assert "validation loss (perplexity)" in capsys.readouterr().out
    assert [record["step"] for record in curve(parts)] == list(range(1, 101))


def _lines(path):
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_divergence_is_status_1(tiny, tmp_path, capsys):
    tiny[tiny.index("adamw")] = "sgd"
    arguments = ["--learning-rate", "1e30", "--clip-norm", "0", "--warmup-steps", "0"]
    assert train.main([*tiny, *arguments, "--steps", "5", "--out", str(tmp_path / "run")]) == 1
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert "at step 2; last good checkpoint: none was written" in message
