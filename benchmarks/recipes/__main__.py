"""Which recipe has the least loss at each budget of bytes, on a small Llama over bytes of text?

Run from the repository's root: ``python -m benchmarks.recipes main ablations …``, one or more of
the stages below. Every method's learning rate, momentum and b2 are tuned at one seed, on one half
of the validation text, until the best is interior; the table is of three other seeds and the other
half. Finished runs are lines of benchmarks/results/recipes/runs.jsonl and are not made again; every
line names its commit. ``python -m benchmarks.recipes.report`` writes the tables and the picture.

With ``--scale gpu`` the same for the finalists and a Llama of 130m parameters in bfloat16, over the
same bytes or, with ``--tokens FILE.npy``, your own token ids; results have folders of their own.
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
from collections.abc import Sequence

from benchmarks.recipes.methods import METHODS
from benchmarks.recipes.search import SEEDS, Numbers, Runs, read_lines, tune
from benchmarks.recipes.stages import OTHERS, SCALES, STAGES, Stage, results_folder
from benchmarks.recipes.task import prepare
from benchmarks.record import check_clean


def compare(runs: Runs, name: str, stage: Stage, method: str) -> None:
    """Tunes a method in a stage and runs it with the other seeds; the tuned numbers are a line."""
    path = runs.path.with_name("tuned.jsonl")
    start = None
    if stage.start is not None:
        start = best_of(path, stage.found_in, stage.start or method)
    numbers = tune(runs, method, stage.setting, start, stage.only)
    reported = runs.losses(method, stage.setting, [numbers], SEEDS, "reported")
    line = {"stage": name, "method": method, "numbers": numbers, "reported": reported}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    print(f"== {name}: {method} {numbers} {sum(reported) / len(reported):.4f}", flush=True)


def best_of(path: pathlib.Path, stages: Sequence[str], method: str) -> Numbers:
    """What the first of these stages that has it found for a method, of a file's last line."""
    lines = read_lines(path) if path.exists() else []
    for stage in stages:
        own = [line for line in lines if line["stage"] == stage and line["method"] == method]
        if own:
            return own[-1]["numbers"]
    raise SystemExit(
        f"this stage starts from what {stages[0]} found for {method!r}: run {stages[0]} first"
    )


def command_line() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "stages", nargs="+", choices=STAGES, metavar="STAGE", help="; ".join(STAGES)
    )
    parser.add_argument("--scale", choices=SCALES, default="cpu", help="gpu: a model of 130m")
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=METHODS,
        metavar="METHOD",
        help="by default the stages' own; an unknown name lists them all",
    )
    parser.add_argument("--workers", type=int, help="processes; by default two, on a gpu one")
    parser.add_argument("--data", type=pathlib.Path, default=pathlib.Path("runs/recipes.npz"))
    parser.add_argument("--tokens", type=pathlib.Path, help=".npy file of ids to train on instead")
    parser.add_argument("--allow-dirty", action="store_true")
    return parser


def main() -> None:
    """Searches."""
    parser = command_line()
    arguments = parser.parse_args()
    stages = SCALES[arguments.scale]
    if arguments.tokens and not arguments.tokens.exists():
        parser.error(f"--tokens {arguments.tokens}: no such file; numpy.save writes one")
    for name in arguments.stages:
        if name not in stages:
            parser.error(f"--scale {arguments.scale} has no stage {name!r}: {', '.join(stages)}")
        if arguments.tokens and stages[name].setting.base_steps:
            parser.error(f"{name!r} goes on from bytes of text to others: leave out --tokens")
    check_clean(arguments.allow_dirty)
    # The SVD of jaxlib 0.10 waits for threads of the pool that it runs on: one is not enough.
    os.environ.setdefault("NPROC", "8")
    on_cpu = arguments.scale == "cpu"
    workers = arguments.workers or (2 if on_cpu else 1)
    folder = results_folder(arguments.scale, arguments.tokens)
    folder.mkdir(parents=True, exist_ok=True)
    data = arguments.tokens or arguments.data
    runs = Runs(folder / "runs.jsonl", data, workers, pinned=on_cpu, others=OTHERS)
    for name in arguments.stages:
        stage = stages[name]
        prepare(stage.setting, data)
        methods = arguments.methods or stage.methods
        # Twice as many at a time as there are workers: a tuning waits for its own runs.
        with concurrent.futures.ThreadPoolExecutor(2 * workers) as pool:
            jobs = [pool.submit(compare, runs, name, stage, method) for method in methods]
        for job in jobs:
            job.result()


if __name__ == "__main__":
    main()
