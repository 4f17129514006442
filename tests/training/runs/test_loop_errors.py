"""What stops a run, or keeps it from starting: explained, and without loss of what is done."""

import dataclasses
import errno
import json
import os

import jax
import jax.numpy as jnp
import pytest
from run_folders import curve

import training.runs.loop
import training.runs.metrics
from training.errors import TrainingFailedError, UserError
from training.runs.folder import check_run_folder
from training.runs.metrics import MetricsLog

FULL_DISKS = {
    "metrics.jsonl later": (),
    "metrics.jsonl as it is opened": (training.runs.metrics, "write_text"),
    "loss.png": (training.runs.loop, "plot_run"),
    "summary.json": (training.runs.loop, "write_json"),
}


def write_at_a_full_disk(log, record, write=MetricsLog.write):
    """The real file, on a disk that has no room from the third record on."""
    if record["step"] == 3:
        with open("/dev/full", "wb") as full:
            os.dup2(full.fileno(), log._file.fileno())
    write(log, record)


@pytest.mark.product(every=2)
@pytest.mark.parametrize("where", FULL_DISKS)
def test_a_disk_that_fills_up_anywhere_is_explained_and_the_run_can_be_continued(
    trainer, tmp_path, monkeypatch, where
):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if target := FULL_DISKS[where]:
        monkeypatch.setattr(*target, full)
    else:
        monkeypatch.setattr(MetricsLog, "write", write_at_a_full_disk)
    config = trainer.config(tmp_path / "run")
    with pytest.raises(
        TrainingFailedError, match=f"no space left to save {config.folder}.*--resume"
    ):
        trainer(config)
    monkeypatch.undo()
    assert not (config.folder / "summary.json").exists()
    summary, _ = trainer(trainer.changed(config, resume=True))
    assert summary["step"] == 6
    assert [record["step"] for record in curve(config.folder)] == [1, 2, 3, 4, 5, 6]


def changed_at(step, steps, change):
    """Steps of which one makes `change(state, metrics)` of its results."""

    def train(state, tokens, peaks):
        state, metrics = steps.train(state, tokens, peaks)
        return change(state, metrics) if state.step == step else (state, metrics)

    return dataclasses.replace(steps, train=train)


def test_a_non_finite_loss_stops_the_run_and_names_step_and_checkpoint(trainer, tmp_path):
    config = trainer.config(tmp_path / "run")
    nan = lambda state, metrics: (state, metrics | {"loss": jnp.float32(jnp.nan)})
    with pytest.raises(TrainingFailedError, match=r"loss is nan at step 5") as failure:
        trainer(config, changed_at(5, trainer.steps(config), nan))
    assert failure.value.diverged
    assert f"last good checkpoint: {tmp_path}/run/checkpoints/4" in str(failure.value)


def test_a_validation_loss_that_is_not_finite_stops_the_run_with_metrics_that_are_json(
    trainer, tmp_path
):
    config = trainer.config(tmp_path / "run")
    steps = trainer.steps(config)
    broken = dataclasses.replace(steps, evaluate=lambda *_: jnp.float32(jnp.nan))
    with pytest.raises(TrainingFailedError, match="val_loss is nan after step 3"):
        trainer(config, broken)
    last = (tmp_path / "run/metrics.jsonl").read_text().splitlines()[-1]
    record = json.loads(last, parse_constant=pytest.fail)  # called for NaN and Infinity
    assert (record["step"], record["val_loss"], record["val_perplexity"]) == (3, None, None)
    assert (tmp_path / "run/loss.png").exists()


def test_a_state_that_is_not_finite_is_never_saved(trainer, tmp_path):
    config = trainer.config(tmp_path / "run")

    def nan(state, metrics):
        params = jax.tree.map(lambda x: x * jnp.nan, state.params)
        return state._replace(params=params), metrics

    with pytest.raises(TrainingFailedError, match="not finite after step 4") as failure:
        trainer(config, changed_at(4, trainer.steps(config), nan))
    assert f"last good checkpoint: {tmp_path}/run/checkpoints/2" in str(failure.value)


def test_a_folder_in_use_is_refused_and_named(trainer, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=rf"{tmp_path} exists already.*--resume.*--out"):
        check_run_folder(trainer.config(tmp_path), None)


def test_a_finished_run_without_its_metrics_is_named(trainer, tmp_path):
    config = trainer.config(tmp_path / "run")
    trainer(config)
    (tmp_path / "run/metrics.jsonl").unlink()
    with pytest.raises(UserError, match=r"the run is finished, but its metrics.jsonl is missing"):
        trainer(trainer.changed(config, resume=True))


def test_too_little_data_leaves_no_folder_behind(trainer, tmp_path):
    config = trainer.config(tmp_path / "run")
    steps = trainer.steps(config)
    with pytest.raises(UserError, match="the training data are too small"):
        trainer(trainer.changed(config, batch_size=10_000), steps)
    assert not (tmp_path / "run").exists()
