"""Does a run that is killed at any moment end as if nothing had happened?

Run from the repository's root: ``python -m benchmarks.measure.faults``. Trains a tiny model once
undisturbed; then again and again, each time killed by SIGKILL at a random moment (some of them
while a checkpoint is being written) and resumed. Compares metrics.jsonl, summary.json and the
fingerprints of all arrays in the last checkpoint: all but what the clock says. Prints a table and
writes benchmarks/results/faults.json.
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
    """When a run is killed: some seconds after its n-th save begins, or after a step is reported
    and no save is under way.

    Step 0 is when the run's folder appears.
    """

    delay: float
    step: int = 0
    save: int | None = None

    @property
    def description(self) -> str:
        """For the table."""
        where = f"step {self.step}" if self.save is None else f"the start of save {self.save}"
        return f"{self.delay * 1000:.0f} ms after {where}"


def random_kills(count: int, in_saves: int, steps: int, saves: int, seed: int) -> list[Kill]:
    """Kills at random moments, the first `in_saves` of them in random saves.

    Args:
        count: of kills.
        in_saves: how many of them are timed to a save.
        steps: that a run makes.
        saves: that it makes.
        seed: of the moments.
    """
    draw = random.Random(seed)
    delay = lambda: draw.uniform(0, LONGEST_DELAY)
    kills = [Kill(delay(), save=draw.randrange(1, saves)) for _ in range(in_saves)]
    # Soon, as the next save is never far.
    between = lambda: Kill(delay() / 10, step=draw.randrange(steps))
    return kills + [between() for _ in range(count - in_saves)]


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
            self._wait_until(process, folder, kill)
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

    def _wait_until(self, process: subprocess.Popen, run: pathlib.Path, kill: Kill) -> None:
        """Returns at the moment of a kill, or at the end of the run."""
        self._wait_for(process, run / "config.json")
        seen: set[str] = set()
        while process.poll() is None:
            now = unfinished(run)
            seen |= now
            if kill.save is None:
                reached = len(read_metrics(run / "metrics.jsonl")) >= kill.step and not now
            else:
                reached = len(seen) >= kill.save and bool(now)
            if reached:
                time.sleep(kill.delay)
                return
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
    parser.add_argument("--in-saves", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", default="stdlib")
    parser.add_argument("--optimizer", default="trion")
    parser.add_argument("--cache", action="store_true", help="compile once for all runs")
    arguments = begin(parser)
    options = OPTIONS | {"optimizer": arguments.optimizer}
    steps, every = options["steps"], options["checkpoint-every"]
    kills = random_kills(arguments.kills, arguments.in_saves, steps, steps // every, arguments.seed)
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
