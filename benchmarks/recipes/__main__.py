"""Which recipe has the least loss at each budget of bytes, on a small Llama over bytes of text?

Run from the repository's root: ``python -m benchmarks.recipes main ablations …``, one or more of
the stages below. Every method's learning rate, momentum and b2 are tuned at one seed, on one half
of the validation text, until the best is interior; the table is of three other seeds and the other
half. Finished runs are lines of benchmarks/results/recipes/runs.jsonl and are not made again; every
line names its commit. ``python -m benchmarks.recipes.report`` writes the tables and the picture.
"""

import argparse
import concurrent.futures
import dataclasses
import json
import os
import pathlib

from benchmarks.recipes.methods import CHANGES, COMPETITORS, METHODS
from benchmarks.recipes.search import SEEDS, Numbers, Runs, read_lines, tune
from benchmarks.recipes.task import Setting, write_tokens
from benchmarks.timing import RESULTS, check_clean

FOLDER = RESULTS / "recipes"
MAIN = Setting(steps=300)
ABLATIONS = ("tandem n/4", *(f"tandem n/4, {name}" for name in CHANGES))
BLOCKS = (
    "tandem n/2 int4",
    "tandem n/2 int4, blocks 2",
    "tandem n/2 int4, blocks 1",
)
FINALISTS = (
    "adamw",
    "muon",
    "normuon int4",
    "tandem n/2 int4",
    "tandem n/4 int8",
    "tandem n/16 int8",
)


@dataclasses.dataclass(frozen=True)
class Stage:
    """Methods in a setting.

    Attributes:
        setting: the task.
        methods: what is compared.
        start: the method in `MAIN` whose best numbers the tuning starts from; None for each its own
            start, "" for its own best numbers there.
        only: the numbers that are tuned; None for all.
    """

    setting: Setting
    methods: tuple[str, ...]
    start: str | None = None
    only: tuple[str, ...] | None = None


RATE_ONLY = ("learning_rate",)
NARROW = Setting(width=64, steps=300)

STAGES = {
    "main": Stage(MAIN, COMPETITORS),
    "width 64": Stage(NARROW, FINALISTS, "", RATE_ONLY),
    "ablations": Stage(NARROW, ABLATIONS, "tandem n/4", RATE_ONLY),
    "blocks": Stage(NARROW, BLOCKS, "tandem n/2 int4", RATE_ONLY),
    "one rate": Stage(
        NARROW, ("adamw", "tandem at one rate", "trion at one rate"), None, RATE_ONLY
    ),
    "large batch": Stage(Setting(width=64, steps=200, batch_size=32), FINALISTS, "", RATE_ONLY),
    "long": Stage(Setting(width=64, steps=1000), FINALISTS, "", RATE_ONLY),
    "width 256": Stage(Setting(width=256, steps=300), FINALISTS, "", RATE_ONLY),
}


def compare(runs: Runs, name: str, method: str) -> None:
    """Tunes a method in a stage and runs it with the other seeds; the tuned numbers are a line."""
    stage = STAGES[name]
    start = None
    if stage.start is not None:
        start = best_of_main(stage.start or method)
    numbers = tune(runs, method, stage.setting, start, stage.only)
    reported = runs.losses(method, stage.setting, [numbers], SEEDS, "reported")
    line = {"stage": name, "method": method, "numbers": numbers, "reported": reported}
    with (FOLDER / "tuned.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    print(f"== {name}: {method} {numbers} {sum(reported) / len(reported):.4f}", flush=True)


def best_of_main(method: str) -> Numbers:
    """What the main stage found for a method."""
    path = FOLDER / "tuned.jsonl"
    lines = read_lines(path) if path.exists() else []
    own = [line for line in lines if line["stage"] == "main" and line["method"] == method]
    if not own:
        raise SystemExit(f"this stage starts from what main found for {method!r}: run main first")
    return own[-1]["numbers"]


def main() -> None:
    """Searches."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stages", nargs="+", choices=STAGES)
    parser.add_argument("--methods", nargs="+", choices=METHODS, help="by default the stages' own")
    parser.add_argument("--workers", type=int, default=2, help="single-threaded processes")
    parser.add_argument("--data", type=pathlib.Path, default=pathlib.Path("runs/recipes.npz"))
    parser.add_argument("--allow-dirty", action="store_true")
    arguments = parser.parse_args()
    # The SVD of jaxlib 0.10 waits for threads of the pool that it runs on: one is not enough.
    os.environ.setdefault("NPROC", "8")
    check_clean(arguments.allow_dirty)
    FOLDER.mkdir(parents=True, exist_ok=True)
    if not arguments.data.exists():
        arguments.data.parent.mkdir(parents=True, exist_ok=True)
        write_tokens(arguments.data)
    runs = Runs(FOLDER / "runs.jsonl", arguments.data, arguments.workers)
    for name in arguments.stages:
        methods = arguments.methods or STAGES[name].methods
        # Twice as many at a time as there are workers: a tuning waits for its own runs.
        with concurrent.futures.ThreadPoolExecutor(2 * arguments.workers) as pool:
            jobs = [pool.submit(compare, runs, name, method) for method in methods]
        for job in jobs:
            job.result()


if __name__ == "__main__":
    main()
