"""Several processes: meeting, agreeing, stopping, and continuing in any number of them."""

import concurrent.futures
import contextlib
import json
import os
import random
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

import train
from training.runs import distributed
from training.runs.distributed import DistributedOptions, all_or_none, parse_address, processes_where
from training.errors import UserError
from training.runs.metrics import read_metrics
from training.runs.rendezvous import meet

REPOSITORY = Path(train.__file__).parent


@pytest.fixture
def port():
    """A port of this machine that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def gather(calls):
    """The errors of concurrent calls of `meet`, None for those that returned."""

    def error_of(arguments):
        try:
            meet(*arguments)
        except UserError as error:
            return str(error)
        return None

    with concurrent.futures.ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(error_of, calls))


def test_processes_meet_in_any_order(port):
    order = [(2, 3), (0, 3), (1, 3)]
    assert gather([("127.0.0.1", port, *numbers, 20.0) for numbers in order]) == [None] * 3
    assert gather([("localhost", port, 0, 1, 20.0)]) == [None]  # the port is free again


def test_a_coordinator_that_does_not_answer_is_named_with_the_remedy(port):
    (error,) = gather([("127.0.0.1", port, 1, 2, 0.5)])
    assert error.startswith(
        f"process 1 got no go-ahead from the coordinator 127.0.0.1:{port} within 0.5 s "
        "(Connection refused): start process 0 on that machine"
    )
    assert "--coordinator-timeout" in error


def test_a_host_that_does_not_exist_is_named(port):
    (error,) = gather([("no-such-host.invalid", port, 1, 2, 0.5)])
    assert f"no-such-host.invalid:{port} within 0.5 s (" in error
    (error,) = gather([("no-such-host.invalid", port, 0, 2, 0.5)])
    assert f"does not reach itself at --coordinator no-such-host.invalid:{port}" in error


def test_processes_that_do_not_come_are_named_to_all_that_did(port):
    errors = gather([("127.0.0.1", port, 0, 4, 2.0), ("127.0.0.1", port, 2, 4, 20.0)])
    assert errors[0] == errors[1]
    assert f"2 of 4 processes reached the coordinator 127.0.0.1:{port} within 2 s, " in errors[0]
    assert "not process 1, 3: start every --process-id from 0 to 3" in errors[0]


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ([(0, 3), (1, 3), (1, 3)], "two processes were started with --process-id 1"),
        ([(0, 3), (1, 2)], "process 1 was started with --num-processes 2, process 0 with 3"),
    ],
)
def test_numbers_that_do_not_fit_each_other_end_all(port, numbers, message):
    errors = gather([("127.0.0.1", port, *number, 20.0) for number in numbers])
    assert all(message in error for error in errors)


def test_a_port_in_use_is_named():
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        (error,) = gather([("127.0.0.1", port, 0, 2, 0.5)])
    assert error == (
        f"process 0 cannot listen at --coordinator 127.0.0.1:{port} (another program uses that "
        "port): choose a free port"
    )


def test_strangers_at_the_port_are_ignored(port):
    with concurrent.futures.ThreadPoolExecutor() as pool:
        meeting = pool.submit(gather, [("127.0.0.1", port, 0, 2, 20.0)])
        stranger = None
        while stranger is None:
            with contextlib.suppress(ConnectionRefusedError):
                stranger = socket.create_connection(("127.0.0.1", port), timeout=20)
        with stranger:
            stranger.sendall(b"GET / HTTP/1.1\n")
            assert gather([("127.0.0.1", port, 1, 2, 20.0)]) == [None]
        assert meeting.result(timeout=20) == [None]


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
        (
            [
                *("--coordinator", "127.0.0.1:9", "--num-processes", "2", "--process-id", "1"),
                *("--coordinator-timeout", "1"),
            ],
            "process 1 got no go-ahead from the coordinator 127.0.0.1:9 within 1 s",
        ),
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
            distributed.start(DistributedOptions(distributed=True))
    finally:
        jax.config.update("jax_enable_preemption_service", before)


def test_addresses():
    assert parse_address("node-1.cluster:1234") == ("node-1.cluster", 1234)
    assert parse_address("[::1]:1234") == ("::1", 1234)


def test_one_process_agrees_with_itself():
    assert processes_where(True) == [0]
    assert processes_where(False) == []
    with pytest.raises(UserError, match="mine"), all_or_none():
        raise UserError("mine")


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
        flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
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


def losses(folder, name="loss"):
    records = read_metrics(folder / "metrics.jsonl")
    return [record[name] for record in records if name in record]


def assert_same_curve(folder, expected):
    for name in ("loss", "val_loss"):
        np.testing.assert_allclose(losses(folder, name), losses(expected, name), rtol=1e-5)


def test_two_processes_killed_at_any_step_resume_to_the_losses_of_one(
    port, tmp_path, corpus_folder, undisturbed
):
    arguments = command(tmp_path / "run", "--data", str(corpus_folder), "--mesh", "data=4,fsdp=2")
    with Processes(port, arguments) as running:
        running.wait_for_step(tmp_path / "run", random.Random(2024).randrange(6, 36))
        running.kill()
        assert [status for status, *_ in running.wait()] == [-signal.SIGKILL] * 2
    assert 6 <= len(losses(tmp_path / "run")) < 40
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


def test_a_signal_to_one_process_stops_both_and_one_continues(
    port, tmp_path, corpus_folder, undisturbed
):
    arguments = command(tmp_path / "run", "--data", str(corpus_folder))
    with Processes(port, [*arguments, "--mesh", "fsdp=8"]) as running:
        running.wait_for_step(tmp_path / "run", 3)
        running.processes[1].send_signal(signal.SIGTERM)
        (status, _, errors), (other_status, _, other_errors) = running.wait()
    assert (status, other_status) == (143, 143), errors + other_errors
    step = len(losses(tmp_path / "run"))
    assert 3 <= step < 40
    assert f"stopped after step {step}; saved {tmp_path}/run/checkpoints/{step}\n" in errors
    assert "stopped after" not in other_errors
    assert train.main([*arguments, "--resume", "--mesh", "data=2"]) == 0
    assert_same_curve(tmp_path / "run", undisturbed)


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


def test_bad_input_of_one_process_ends_both(port, tmp_path, corpus_folder):
    arguments = command(tmp_path / "run", "--mesh", "data=8")
    with Processes(port, [*arguments, "--data", str(tmp_path / "missing")]) as running:
        results = running.wait()
    for status, _, errors in results:
        assert status == 2
        assert "missing" in errors
    assert not (tmp_path / "run").exists()
