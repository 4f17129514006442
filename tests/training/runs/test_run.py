"""What a run records, traces and may be extended to."""

import dataclasses
import io
import signal
import types

import jax
import pytest
from rich.console import Console
from run_folders import values

from training.config.record import to_json
from training.errors import UserError
from training.files import write_json
from training.runs.folder import check_extension, check_run_folder
from training.runs.interruption import InterruptedRunError
from training.runs.loop import open_run
from training.runs.metrics import read_metrics
from training.runs.summary import final_train_loss
from training.runs.trace import PROFILE_FOLDER
from training.runs.utilization import device_metrics

WSD = {"schedule": "wsd", "decay_fraction": 0.5, "warmup_steps": 1}


def test_records_are_of_every_nth_step_of_evaluations_and_of_the_last(trainer, tmp_path):
    config = trainer.config(tmp_path / "run", log_every=4, eval_every=3, steps=7)
    trainer(config)
    assert values(tmp_path / "run", "step") == [3, 4, 6, 7]


def test_a_profile_is_a_trace_in_the_runs_folder(trainer, tmp_path):
    trainer(trainer.config(tmp_path / "run", profile="2:3", eval_every=0, checkpoint_every=0))
    assert list((tmp_path / "run" / PROFILE_FOLDER).rglob("*.trace.json.gz"))


@pytest.mark.parametrize("text", ["3", "3:2", "0:2", "a:b"])
def test_a_profile_of_no_steps_is_refused(trainer, tmp_path, text):
    with pytest.raises(UserError, match=f"--profile {text}: expected FIRST:LAST"):
        trainer.config(tmp_path / "run", profile=text)


@pytest.mark.slow
def test_wsd_goes_on_to_more_steps_as_if_they_had_been_asked_for_at_once(
    trainer, tmp_path, signal_at
):
    whole = trainer.config(tmp_path / "whole", **WSD, steps=10)
    part = trainer.config(tmp_path / "part", **WSD, steps=6)
    steps = trainer.compiled(whole)
    trainer(whole, steps)
    signal_at(2, signal.SIGTERM)
    with pytest.raises(Exception, match=r"stopped after step \d"):
        trainer(part, trainer.compiled(part))
    longer = trainer.changed(part, steps=10, resume=True)
    assert longer.steps == whole.steps
    trainer(longer, steps)
    assert values(tmp_path / "part") == values(tmp_path / "whole")


def test_wsd_does_not_go_on_from_a_decayed_rate(trainer, tmp_path):
    run = trainer.config(tmp_path / "run", **WSD, steps=6)
    (tmp_path / "run").mkdir()
    write_json(tmp_path / "run" / "config.json", to_json(run.options, ""))
    longer = trainer.changed(run, steps=10, resume=True)
    check_extension(longer, 3)
    check_extension(dataclasses.replace(longer, steps=run.steps), 5)
    with pytest.raises(UserError, match=r"at step 4 with --steps 10 after --steps 6: .*step 3"):
        check_extension(longer, 4)


def test_a_resume_with_more_steps_has_warmed_up_already(trainer, tmp_path):
    run = trainer.config(tmp_path / "run", schedule="constant", steps=20)
    (tmp_path / "run").mkdir()
    data = trainer.corpus(run)
    write_json(tmp_path / "run" / "config.json", to_json(run.options, data.checksum))
    longer = {"schedule": "constant", "steps": 60, "resume": True}
    check_run_folder(trainer.config(tmp_path / "run", **longer), data)
    with pytest.raises(UserError, match="warmup_steps: 2 before, 6 now"):
        check_run_folder(trainer.config(tmp_path / "run", **longer, warmup_steps=6), data)


def test_a_cosine_does_not_go_on_to_more_steps(trainer, tmp_path):
    run = trainer.config(tmp_path / "run", warmup_steps=1)
    (tmp_path / "run").mkdir()
    data = trainer.corpus(run)
    write_json(tmp_path / "run" / "config.json", to_json(run.options, data.checksum))
    with pytest.raises(UserError, match="steps: 6 before, 10 now"):
        check_run_folder(trainer.changed(run, steps=10, resume=True), data)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("TPU v5 lite", 0.5),
        ("TPU v5", 0.2146),
        ("NVIDIA H100 80GB HBM3", 0.0996),
        ("NVIDIA H100 PCIe", 0.1303),
        ("cpu", None),
    ],
)
def test_the_share_of_the_peak_is_told_of_devices_that_are_known(monkeypatch, kind, expected):
    device = types.SimpleNamespace(
        device_kind=kind, memory_stats=lambda: {"peak_bytes_in_use": 5} if expected else None
    )
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    metrics = device_metrics(197e12, num_devices=2)
    assert metrics == ({"mfu": expected, "peak_memory_bytes": 5} if expected else {})


def test_the_final_loss_is_of_the_last_tenth_of_the_steps_whatever_is_recorded():
    every = [{"step": step, "loss": float(step)} for step in range(1, 101)]
    assert final_train_loss(every) == 95.5  # of steps 91 to 100
    assert final_train_loss([record for record in every if record["step"] % 5 == 0]) == 97.5


def test_a_resume_with_fewer_steps_than_are_done_is_refused(trainer, tmp_path):
    run = trainer.config(tmp_path / "run", schedule="constant", warmup_steps=1)
    (tmp_path / "run").mkdir()
    write_json(tmp_path / "run" / "config.json", to_json(run.options, ""))
    check_extension(run, 6)
    with pytest.raises(UserError, match=r"with --steps 4: 4 are done already"):
        check_extension(trainer.changed(run, steps=4, resume=True), 4)


def test_the_clock_of_a_resume_begins_at_its_checkpoint(trainer, tmp_path, signal_at):
    config = trainer.config(tmp_path / "run", log_every=2, eval_every=0, checkpoint_every=0)
    signal_at(2, signal.SIGTERM)
    with pytest.raises(InterruptedRunError, match="stopped after step 3"):
        trainer(config)
    (before,) = read_metrics(tmp_path / "run" / "metrics.jsonl")
    with open_resumed(trainer, config) as run:
        assert run.step == 3
        assert run.clock.seconds == pytest.approx(before["seconds"] * 3 / 2)


def open_resumed(trainer, config):
    again = trainer.changed(config, resume=True)
    console = Console(file=io.StringIO())
    return open_run(again, trainer.steps(again), trainer.corpus(again), console)
