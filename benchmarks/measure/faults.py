"""Does a run that is killed at any moment end as if nothing had happened?

Run from the repository's root: ``python -m benchmarks.measure.faults``. Trains a tiny model once
undisturbed; then again and again, each time killed by SIGKILL at a random moment and resumed. Half
of the moments are within a save, half between two: the run is stopped (SIGSTOP), its folder looked
at, and it goes on until one of the wanted kind has come. Compares metrics.jsonl, summary.json and
the fingerprints of all arrays in the last checkpoint: all but what the clock says. Prints a table
and writes benchmarks/results/faults.json.
"""

import dataclasses
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any

from benchmarks.record import ROOT, begin, command_line, write_json
from benchmarks.tables import markdown_table
from training.runs.metrics import read_metrics

TIMED = ("seconds", "tokens_per_second", "compile_seconds", "mfu", "peak_memory_bytes")
POLL_SECONDS = 0.001
LONGEST_SECONDS = 300
LONGEST_DELAY = 0.03  # seconds, of the order of a step and of a save

OPTIONS = {
    "hidden-size": 32,
    "num-layers": 1,
    "seq-len": 16,
    "batch-size": 8,
    "eval-batches": 2,
    "mesh": "data=1",
    "steps": 60,
    "checkpoint-every": 4,
    "eval-every": 7,
}


@dataclasses.dataclass(frozen=True)
class Kill:
    """When a run is killed: at the first moment of its kind, some time after a step is reported.

    Attributes:
        step: of metrics.jsonl; 0 for the moment at which the run's folder appears.
        delay: seconds after it.
        in_save: whether a checkpoint is being written at the moment, or none.
    """

    step: int
    delay: float
    in_save: bool

    @property
    def description(self) -> str:
        """For the table."""
        where = "in a save" if self.in_save else "between saves"
        return f"{where}, {self.delay * 1000:.0f} ms or more after step {self.step}"


def random_kills(count: int, in_saves: int, steps: int, seed: int) -> list[Kill]:
    """Kills at random moments, the first `in_saves` of them in saves, the others between.

    Args:
        count: of kills.
        in_saves: how many of them fall into a save.
        steps: the step that they are timed to is one of so many.
        seed: of the moments.
    """
    draw = random.Random(seed)
    return [
        Kill(draw.randrange(steps), draw.uniform(0, LONGEST_DELAY), number < in_saves)
        for number in range(count)
    ]


class Runs:
    """Runs of one model under one folder.

    Args:
        folder: for them.
        data: to train on, as `--data`.
        options: of train.py, by name.
        cache: whether they share what is compiled, which saves most of the time.
    """

    def __init__(
        self, folder: pathlib.Path, data: str, options: dict[str, Any], *, cache: bool = False
    ):
        self.folder = folder
        self._environment = dict(os.environ)
        if cache:
            self._environment["JAX_COMPILATION_CACHE_DIR"] = str(folder / "compiled")
            self._environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        self._options = options | {"data": data}

    def start(self, name: str, *more: str) -> subprocess.Popen:
        """A run in a process of its own."""
        options = self._options | {"out": self.folder / name}
        arguments = [part for key, value in options.items() for part in (f"--{key}", str(value))]
        return subprocess.Popen(
            [sys.executable, "train.py", *arguments, *more],
            cwd=ROOT,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self, process: subprocess.Popen) -> None:
        """Waits for a run that nothing happens to.

        Raises:
            RuntimeError: it failed.
        """
        printed, errors = process.communicate(timeout=LONGEST_SECONDS)
        if process.returncode:
            raise RuntimeError(f"train.py failed:\n{printed}\n{errors}")

    def undisturbed(self) -> dict[str, Any]:
        """What a run ends with that nothing happens to."""
        self.finish(self.start("undisturbed"))
        return outcome(self.folder / "undisturbed")

    def killed(self, name: str, *kills: Kill) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """A run that is killed, resumed, killed again, and so on.

        Returns:
            How it was found after each kill, and what it ends with.
        """
        folder, found, more = self.folder / name, [], []
        for kill in kills:
            process = self.start(name, *more)
            self._stop_at(process, folder, kill)
            process.send_signal(signal.SIGKILL)
            process.communicate()
            found.append(
                {
                    "kill": kill.description,
                    "hit": process.returncode == -signal.SIGKILL,
                    "steps_written": len(read_metrics(folder / "metrics.jsonl")),
                    "save_interrupted": bool(unfinished(folder)),
                    "checkpoint": max(checkpoints(folder), default=0),
                }
            )
            more = ["--resume"]
        self.finish(self.start(name, *more))
        return found, outcome(folder)

    def _wait_for(self, process: subprocess.Popen, path: pathlib.Path) -> None:
        deadline = time.monotonic() + LONGEST_SECONDS
        while not path.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                raise RuntimeError(f"no {path}:\n{process.communicate()[1]}")
            time.sleep(POLL_SECONDS)

    def _stop_at(self, process: subprocess.Popen, run: pathlib.Path, kill: Kill) -> None:
        """Returns at the moment of a kill, with the run stopped, or at the end of the run."""
        self._wait_for(process, run / "config.json")
        while len(read_metrics(run / "metrics.jsonl")) < kill.step and process.poll() is None:
            time.sleep(POLL_SECONDS)
        time.sleep(kill.delay)
        while process.poll() is None:
            process.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
            if bool(unfinished(run)) == kill.in_save:
                return
            process.send_signal(signal.SIGCONT)
            time.sleep(POLL_SECONDS)


def unfinished(run: pathlib.Path) -> set[str]:
    """Names of saves that are under way, or were interrupted."""
    return {path.name for path in (run / "checkpoints").glob("*.orbax-checkpoint-tmp*")}


def checkpoints(run: pathlib.Path) -> list[int]:
    """Steps of the complete checkpoints."""
    return [int(path.name) for path in (run / "checkpoints").glob("*") if path.name.isdecimal()]


def outcome(run: pathlib.Path) -> dict[str, Any]:
    """All of a finished run that does not come from the clock."""
    untimed = lambda record: {name: x for name, x in record.items() if name not in TIMED}
    last = run / "checkpoints" / str(max(checkpoints(run)))
    return {
        "metrics": [untimed(record) for record in read_metrics(run / "metrics.jsonl")],
        "summary": untimed(json.loads((run / "summary.json").read_text())),
        "arrays": json.loads((last / "fingerprints" / "metadata").read_text()),
    }


def differences(expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """The parts of an outcome that are not exactly what they should be."""
    return [part for part in expected if expected[part] != found[part]]


def main() -> None:
    """Kills, resumes, compares; prints a table and writes the JSON."""
    parser = command_line(__doc__, "faults", rounds=None)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--in-saves", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", default="stdlib")
    parser.add_argument("--optimizer", default="trion")
    parser.add_argument("--cache", action="store_true", help="compile once for all runs")
    arguments = begin(parser)
    options = OPTIONS | {"optimizer": arguments.optimizer}
    # Before the last save but one, so that there is a moment of either kind to come.
    steps = options["steps"] - options["checkpoint-every"]
    kills = random_kills(arguments.kills, arguments.in_saves, steps, arguments.seed)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        runs = Runs(pathlib.Path(folder), arguments.data, options, cache=arguments.cache)
        expected = runs.undisturbed()
        for number, kill in enumerate(kills):
            found, ending = runs.killed(f"killed-{number}", kill)
            rows.append({**found[0], "differs_in": differences(expected, ending)})
            print(rows[-1], flush=True)
    settings = {
        "options": options | {"data": arguments.data},
        "seed": arguments.seed,
        "shared_compilation_cache": arguments.cache,
    }
    print(table(rows))
    write_json(arguments.out, {"settings": settings, "kills": rows}, arguments.commit)
    if any(row["differs_in"] for row in rows):
        raise SystemExit("a resumed run is not the undisturbed one")


def table(rows: list[dict[str, Any]]) -> str:
    """One row per kill."""
    header = ("killed", "steps written", "in a save", "resumed from", "differs in")
    cells = [
        (
            row["kill"] if row["hit"] else "too late",
            row["steps_written"],
            "yes" if row["save_interrupted"] else "no",
            row["checkpoint"],
            ", ".join(row["differs_in"]) or "nothing",
        )
        for row in rows
    ]
    return markdown_table(header, cells)


if __name__ == "__main__":
    main()
