"""--config FILE: options of a file, which those of the command line override."""

import json

import pytest

import train
from training.config.options import flat
from training.config.pretraining import PretrainConfig
from training.config.record import to_json
from training.errors import UserError


def written(path, text):
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.yaml", "steps: 7\nlearning-rate: 0.5\nzero: true\nremat: false\nnesterov: false\n"),
        (
            "a.json",
            '{"steps": 7, "learning_rate": 0.5, "zero": true, "nesterov": false, "rank": null}',
        ),
    ],
)
def test_a_file_gives_options_and_the_command_line_overrides_them(tmp_path, name, text):
    file = written(tmp_path / name, text)
    values = flat(train.parse(["--config", file, "--optimizer", "muon"]))
    expected = {"steps": 7, "learning_rate": 0.5, "zero": True, "remat": False}
    assert values == values | expected | {"optimizer": "muon", "nesterov": False}
    assert train.parse(["pretrain", "--steps", "9", f"--config={file}"]).steps == 9


def test_a_run_s_config_json_is_the_run_in_another_folder(tmp_path):
    options = ["--optimizer", "tandem", "--rank", "0.5", "--blocks", "2", "--remat"]
    config = train.parse([*options, "--data", "a b", "c", "--data-weights", "2", "0.5"])
    record = to_json(config, "abc") | {"out": "runs/first", "resume": True}
    again = train.parse(["--config", written(tmp_path / "config.json", json.dumps(record))])
    assert again == config
    assert isinstance(again, PretrainConfig)


def test_a_run_of_one_optimizer_says_nothing_of_anothers_options(tmp_path):
    config = train.parse(["--optimizer", "tandem", "--learning-rate", "0.5", "--steps", "7"])
    record = to_json(config, "abc") | {"rank": 0.25, "fallback_learning_rate": 0.1}
    file = written(tmp_path / "config.json", json.dumps(record))
    for arguments in (["--optimizer", "adamw"], ["--optimizer=adamw"]):
        values = flat(train.parse(["--config", file, *arguments]))
        expected = {"optimizer": "adamw", "steps": 7, "learning_rate": None, "rank": None}
        assert values == values | expected | {"fallback_learning_rate": None}


def test_a_flag_of_a_file_is_true_or_false_and_can_be_switched_off(tmp_path):
    file = written(tmp_path / "a.yaml", "document-mask: true\n")
    assert flat(train.parse(["--config", file]))["document_mask"]
    assert not flat(train.parse(["--config", file, "--no-document-mask"]))["document_mask"]


def test_arguments_without_a_name_may_come_from_a_file(tmp_path):
    export = ["export", "--config", written(tmp_path / "a.yaml", "run: a\nfolder: b\nweights: ema")]
    first = ["export", "--config", written(tmp_path / "b.yaml", "folder: b")]
    report = ["report", "--config", written(tmp_path / "c.yaml", "runs: [a, b]\nout: c.png")]
    paths = lambda config, *names: [str(getattr(config, name)) for name in names]
    assert paths(train.parse(export), "run", "folder", "weights") == ["a", "b", "ema"]
    own = train.parse([*export, "--weights", "last", "c", "d"])
    assert paths(own, "run", "folder", "weights") == ["c", "d", "last"]
    assert paths(train.parse([*first, "c"]), "run", "folder") == ["c", "b"]
    assert list(map(str, train.parse(report).runs)) == ["a", "b"]
    assert list(map(str, train.parse([*report, "--out", "d.png", "d"]).runs)) == ["d"]


def test_the_home_folder_may_be_meant(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    file = written(tmp_path / "a.yaml", "out: ~/run\n")
    for arguments in (["--out", "~/run"], ["--config", "~/a.yaml"], ["--config", file]):
        assert str(flat(train.parse(arguments))["out"]) == str(tmp_path / "run")
    problems = train.parse(["problems", "--out", "~/problems"])
    assert problems.out == tmp_path / "problems"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("document_mask: 'false'", "document_mask is 'false', but must be true or false"),
        ("steeps: 7", r"'steeps' is no option of this command\. Did you mean 'steps'\?"),
        ("[1, 2]", "must hold options as name: value"),
        ("a: b: c", "is not valid: mapping values"),
    ],
)
def test_what_is_no_option_is_named(tmp_path, text, message):
    file = written(tmp_path / "a.yaml", text)
    with pytest.raises(UserError, match=message):
        train.parse(["--config", file])


def test_a_file_that_is_not_there_is_named():
    with pytest.raises(UserError, match=r"--config no\.json: cannot be read: No such file"):
        train.parse(["--config", "no.json"])
    with pytest.raises(UserError, match="--config needs a file"):
        train.parse(["--config"])
