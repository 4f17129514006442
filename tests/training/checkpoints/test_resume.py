"""Going on after damage, and with changed options: what may differ, and what is said."""

import os
import re
import shutil

import pytest
from run_folders import curve

import train
from training.checkpoints.manager import Checkpoints
from training.checkpoints.pretrained import open_model
from training.checkpoints.trees import by_path
from training.config.groups import CheckpointOptions
from training.config.options import CHANGEABLE, options_of
from training.errors import UserError
from training.steps.mesh import make_mesh


def one_line(printed):
    return " ".join(printed.split())


def cut_largest_file(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    path = max(files, key=lambda path: path.stat().st_size)
    os.truncate(path, path.stat().st_size // 2)


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


@pytest.fixture(scope="module")
def finished(trainer, tmp_path_factory):
    """The folder of a run of six steps, with checkpoints at 4 and 6."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    trainer(trainer.config(folder))
    return folder


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def weights(folder, step, trainer, config):
    checkpoints = Checkpoints(folder / "checkpoints", CheckpointOptions())
    state, _ = checkpoints.read(step, trainer.steps(config).abstract_state)
    checkpoints.close()
    return by_path(state.params)


@pytest.mark.product(every=4)
@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (cut_largest_file, r"state/ocdbt\S+ has [\d,]+ bytes instead of [\d,]+"),
        (lambda folder: (folder / "state/_METADATA").unlink(), "state/_METADATA is missing"),
        (empty, "files.json is missing: it is not complete"),
        (lambda folder: (folder / "data/metadata").write_text("{"), "data/metadata has 1 bytes"),
    ],
)
def test_a_damaged_checkpoint_is_moved_aside_and_the_one_before_continued(
    trainer, finished, run, damage, reason
):
    damage(run / "checkpoints/6")
    contents = sorted(path.name for path in (run / "checkpoints/6").rglob("*"))
    _, printed = trainer(trainer.config(run, resume=True))
    printed = one_line(printed)
    assert f"checkpoint {run}/checkpoints/6 cannot be read: " in printed
    assert re.search(reason, printed)
    assert f"moved it to {run}/unreadable-checkpoints/6" in printed
    assert "continuing from the checkpoint before, of step 4" in printed
    kept = run / "unreadable-checkpoints/6"
    assert sorted(path.name for path in kept.rglob("*")) == contents
    assert curve(run) == curve(finished)
    config = trainer.config(run)
    ours, theirs = (weights(folder, 6, trainer, config) for folder in (run, finished))
    assert all((ours[path] == theirs[path]).all() for path in theirs)


def test_without_a_readable_checkpoint_nothing_is_changed_and_all_reasons_are_given(trainer, run):
    cut_largest_file(run / "checkpoints/4")
    empty(run / "checkpoints/6")
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    with pytest.raises(UserError) as failure:
        trainer(trainer.config(run, resume=True))
    lines = str(failure.value).splitlines()
    assert lines[0] == (
        f"cannot resume {run}: none of its checkpoints can be read; nothing was changed"
    )
    assert lines[1] == "  6: files.json is missing: it is not complete"
    assert lines[2].startswith("  4: state/ocdbt")
    assert lines[3].startswith("Restore one of these folders of")
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_a_damaged_checkpoint_is_one_line_to_those_who_read_a_run(run, capfd):
    """`train.py evaluate` and `finetune`, that is, which change nothing of its folder."""
    source = open_model(run)
    cut_largest_file(run / "checkpoints/6")
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    with pytest.raises(UserError, match=r"checkpoints/6 cannot be read: state/ocdbt") as failure:
        source.load(make_mesh({"data": 1}))
    assert "\n" not in str(failure.value)
    assert str(failure.value).endswith("move the folder away to use the checkpoint before it")
    assert capfd.readouterr().err == ""
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    shutil.rmtree(run / "checkpoints/6")
    source.load(make_mesh({"data": 1}))


def test_another_configuration_is_refused_and_the_way_to_it_named(trainer, run):
    with pytest.raises(UserError) as failure:
        trainer(trainer.config(run, optimizer="sgd", num_layers=2, resume=True))
    message = str(failure.value)
    assert "  optimizer: 'adamw' before, 'sgd' now\n" in message
    assert "  num_layers: 1 before, 2 now\n" in message
    assert message.endswith(
        f"start a new run with another --out; with --init-from {run} that begins with the "
        "parameters of this one."
    )


def test_options_say_whether_a_resume_may_change_them(trainer, run):
    config = trainer.config(run)
    changeable = {
        option.name for option in options_of(config.options) if option.metadata == CHANGEABLE
    }
    assert changeable == {
        *("out", "resume", "allow_changed_data", "verify", "mesh", "zero", "remat"),
        *("accumulate_steps", "checkpoint_every", "keep_checkpoints", "keep_best", "keep_every"),
        *("eval_every", "log_every", "profile", "log", "diagnostics_every", "validation_sets"),
    }


@pytest.mark.slow
def test_a_run_goes_on_on_fewer_devices_with_more_micro_batches(trainer, tmp_path):
    whole = trainer.config(tmp_path / "whole", optimizer="sgd", mesh="data=4")
    trainer(whole)
    run = shutil.copytree(tmp_path / "whole", tmp_path / "run")
    shutil.rmtree(run / "checkpoints/6")
    fewer = {"mesh": "data=1", "accumulate_steps": 4, "remat": True}
    trainer(trainer.config(run, optimizer="sgd", resume=True, **fewer))
    assert [record["step"] for record in curve(run)] == [1, 2, 3, 4, 5, 6]
    losses = [record["val_loss"] for path in (run, whole.folder) for record in curve(path)[-1:]]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--init-state", "shared"], "--init-state shared is for --init-from RUN: add that"),
        (["--keep-best", "-1"], "--keep-best is -1, but must be 0 or more"),
        (["--rounding", "stochastic"], "--rounding stochastic is for --param-dtype bfloat16"),
        (["--outlier-factor", "1"], "--outlier-factor is 1.0, but must be greater than 1"),
    ],
)
def test_bad_options_are_named_and_nothing_is_written(
    arguments, message, corpus_folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    small = ["--hidden-size", "32", "--num-layers", "1", "--seq-len", "16", "--batch-size", "8"]
    assert train.main([*small, "--data", str(corpus_folder), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_damaged_config_is_named(trainer, run):
    (run / "config.json").write_text('{"optimizer": ')
    with pytest.raises(UserError, match=r"config.json is damaged \(Expecting value.*another --out"):
        trainer(trainer.config(run, resume=True))
