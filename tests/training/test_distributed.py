"""Several processes: starting, agreeing, stopping, and continuing in any number of them."""

import json
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from compilation import xla_flags
from run_folders import values

import train
from training import distributed
from training.config.groups import ProcessOptions
from training.distributed import all_or_none, processes_where
from training.errors import UserError

REPOSITORY = Path(train.__file__).parent


@pytest.fixture
def port():
    """A port of this machine that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--coordinator", "a:1"], "--coordinator is for --distributed runs: add --distributed"),
        (
            ["--distributed", "--coordinator", "a:1", "--num-processes", "2"],
            "--distributed with --coordinator, --num-processes needs --process-id too",
        ),
        (
            ["--coordinator", "node0", "--num-processes", "2", "--process-id", "0"],
            "--coordinator node0: expected host:port, e.g. 10.0.0.1:12345",
        ),
        (
            ["--coordinator", "a:1", "--num-processes", "2", "--process-id", "2"],
            "--process-id is 2, but must be from 0 to 1 (--num-processes 2)",
        ),
        (
            ["--coordinator", "a:1", "--num-processes", "0", "--process-id", "0"],
            "--num-processes is 0, but must be at least 1",
        ),
        (["--distributed", "--coordinator-timeout", "0"], "--coordinator-timeout is 0"),
    ],
)
def test_bad_options_are_one_line_and_status_2(options, message, capsys):
    if "--process-id" in options:
        options = ["--distributed", *options]
    assert train.main(options) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}")
    assert len(error.splitlines()) == 1


def test_without_options_and_without_a_cluster_the_options_are_named(monkeypatch):
    def initialize(*arguments, **keywords):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    before = jax.config.jax_enable_preemption_service
    try:
        with pytest.raises(UserError, match=r"no cluster environment .* give --coordinator host:p"):
            distributed.start(ProcessOptions(distributed=True))
    finally:
        jax.config.update("jax_enable_preemption_service", before)


@pytest.mark.slow
def test_what_a_time_out_means_is_said_before_jax_aborts(port):
    options = ["--distributed", "--coordinator", f"127.0.0.1:{port}", "--num-processes", "2"]
    done = subprocess.run(
        [sys.executable, "train.py", *options, "--process-id", "1", "--coordinator-timeout", "1"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == -signal.SIGABRT
    first = done.stderr.splitlines()[0]
    assert first.startswith(f"process 1 of 2 waits up to 1 s for the others at 127.0.0.1:{port}. ")
    assert "DEADLINE_EXCEEDED" in first
    assert "DEADLINE_EXCEEDED" in done.stderr.removeprefix(first)  # JAX still says so


@pytest.mark.parametrize("error", [UserError("mine"), OSError("mine"), ValueError("mine")])
def test_any_error_is_told_to_the_others_and_raised_here(monkeypatch, error):
    assert processes_where(True) == [0]
    assert processes_where(False) == []
    told = []
    monkeypatch.setattr(distributed, "processes_where", told.append)
    with pytest.raises(type(error), match="mine"), all_or_none():
        raise error
    assert told == [True]


def test_an_error_of_another_process_ends_this_one(monkeypatch):
    monkeypatch.setattr(distributed, "processes_where", lambda condition: [1, 3])
    message = "because process 1, 3 failed; its own message says why"
    with pytest.raises(UserError, match=message), all_or_none():
        pass


def command(out, *options):
    """A run of a tiny model on 40 steps."""
    settings = {
        "hidden-size": 32,
        "num-layers": 1,
        "seq-len": 16,
        "batch-size": 8,
        "eval-batches": 1,
        "validation-fraction": 0.2,
        "optimizer": "sgd",
        "steps": 40,
        "checkpoint-every": 4,
        "eval-every": 20,
        "out": out,
    }
    parts = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    return [*parts, *options]


class Processes:
    """Two processes of four devices each that run train.py; killed at the end, whatever happens.

    Args:
        port: free.
        arguments: of both.
        seconds: that all may take.
    """

    def __init__(self, port, arguments, seconds=300):
        flags = {"XLA_FLAGS": xla_flags(devices=4), "JAX_PLATFORMS": "cpu"}
        numbers = ["--distributed", "--coordinator", f"127.0.0.1:{port}", "--num-processes", "2"]
        self._deadline = time.monotonic() + seconds
        self.processes = [
            subprocess.Popen(
                [sys.executable, "train.py", *arguments, *numbers, "--process-id", str(process_id)],
                cwd=REPOSITORY,
                env=os.environ | flags,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for process_id in range(2)
        ]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()
        for process in self.processes:
            process.communicate()

    def kill(self):
        for process in self.processes:
            process.kill()

    def wait_for_step(self, folder, step):
        """Returns once a step is in metrics.jsonl."""
        path = folder / "metrics.jsonl"
        while not path.exists() or len(path.read_text().splitlines()) < step:
            assert time.monotonic() < self._deadline, "too slow"
            assert all(process.poll() is None for process in self.processes), self.wait()
            time.sleep(0.01)

    def wait(self):
        """Exit status, stdout and stderr of each."""
        results = []
        for process in self.processes:
            left = max(1.0, self._deadline - time.monotonic())
            printed, errors = process.communicate(timeout=left)
            results.append((process.returncode, printed, errors))
        return results


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, corpus_folder):
    """The folder of a run by one process with eight devices that nothing happens to."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    assert train.main([*command(folder, "--data", str(corpus_folder)), "--mesh", "data=8"]) == 0
    return folder


def assert_same_curve(folder, expected):
    for name in ("loss", "val_loss"):
        np.testing.assert_allclose(values(folder, name), values(expected, name), rtol=1e-5)


@pytest.mark.slow
def test_two_processes_killed_at_any_step_resume_to_the_losses_of_one(
    port, tmp_path, corpus_folder, undisturbed
):
    arguments = command(tmp_path / "run", "--data", str(corpus_folder), "--mesh", "data=4,fsdp=2")
    with Processes(port, arguments) as running:
        running.wait_for_step(tmp_path / "run", random.Random(2024).randrange(6, 36))
        running.kill()
        assert [status for status, *_ in running.wait()] == [-signal.SIGKILL] * 2
    assert 6 <= len(values(tmp_path / "run")) < 40
    with Processes(port, [*arguments, "--resume"]) as running:
        (status, printed, errors), (other_status, other_printed, other_errors) = running.wait()
    assert (status, other_status) == (0, 0), errors + other_errors
    assert_same_curve(tmp_path / "run", undisturbed)
    assert json.loads((tmp_path / "run/summary.json").read_text())["step"] == 40
    # Only the first process has anything to say; Gloo's connections report themselves.
    assert "(cpu, 2 processes)" in printed
    assert "validation loss (perplexity)" in printed
    assert "loss" not in other_printed
    assert "Llama" not in other_printed


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both_and_one_continues(
    port, tmp_path, corpus_folder, undisturbed
):
    arguments = command(tmp_path / "run", "--data", str(corpus_folder))
    with Processes(port, [*arguments, "--mesh", "fsdp=8"]) as running:
        running.wait_for_step(tmp_path / "run", 3)
        running.processes[1].send_signal(signal.SIGTERM)
        (status, _, errors), (other_status, _, other_errors) = running.wait()
    assert (status, other_status) == (143, 143), errors + other_errors
    step = len(values(tmp_path / "run"))
    assert 3 <= step < 40
    assert f"stopped after step {step}; saved {tmp_path}/run/checkpoints/{step}\n" in errors
    assert "stopped after" not in other_errors
    assert train.main([*arguments, "--resume", "--mesh", "data=2", "--accumulate-steps", "2"]) == 0
    assert_same_curve(tmp_path / "run", undisturbed)


@pytest.mark.slow
def test_two_processes_turn_to_the_same_earlier_checkpoint(
    port, tmp_path, corpus_folder, undisturbed
):
    run = shutil.copytree(undisturbed, tmp_path / "run")
    files = [path for path in (run / "checkpoints/40").rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    os.truncate(largest, 100)
    arguments = command(run, "--data", str(corpus_folder), "--mesh", "data=4,fsdp=2", "--resume")
    with Processes(port, arguments) as running:
        (status, printed, errors), (other_status, other_printed, other_errors) = running.wait()
    assert (status, other_status) == (0, 0), errors + other_errors
    assert f"{run}/checkpoints/40 cannot be read: state/ocdbt" in printed
    assert "continuing from the checkpoint before, of step 36" in printed
    assert "checkpoint" not in other_printed
    assert (run / "unreadable-checkpoints/40").is_dir()
    assert_same_curve(run, undisturbed)


@pytest.mark.slow
def test_a_folder_that_process_0_cannot_write_ends_both(port, tmp_path, corpus_folder):
    """Process 1 finds nothing wrong, and must not wait for ever."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.tmp").mkdir()  # where config.json is written first
    arguments = command(tmp_path / "run", "--data", str(corpus_folder), "--mesh", "data=8")
    with Processes(port, arguments) as running:
        (status, _, errors), (other_status, _, other_errors) = running.wait()
    assert (status, other_status) == (2, 2)
    assert f"error: cannot write to {tmp_path}/run: Is a directory" in errors
    assert "error: stopped because process 0 failed; its own message says why" in other_errors


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="limits other processes on Linux")
def test_metrics_that_process_0_cannot_write_any_more_end_both_after_the_same_step(
    port, tmp_path, corpus_folder
):
    options = ["--data", str(corpus_folder), "--mesh", "data=8", "--steps", "4000"]
    options += ["--eval-every", "4000", "--checkpoint-every", "4000"]
    with Processes(port, command(tmp_path / "run", *options)) as running:
        running.wait_for_step(tmp_path / "run", 3)
        unlimited = resource.RLIM_INFINITY
        resource.prlimit(running.processes[0].pid, resource.RLIMIT_FSIZE, (0, unlimited))
        (status, _, errors), (other_status, _, other_errors) = running.wait()
    assert (status, other_status) == (1, 2), errors + other_errors
    assert f"error: no space left to save {tmp_path}/run (File too large)" in errors
    assert "error: stopped because process 0 failed; its own message says why" in other_errors
