"""Everything that an accelerator should answer, in one command of less than half an hour.

Run from the repository's root: ``python -m benchmarks.accelerator``, or a part of at most eight
minutes with ``--part NAME``. Every figure is saved at once to benchmarks/results/accelerator.json;
what is there for this commit and device is not measured again, so the same command goes on where
it was stopped. ``--smoke`` does all of it small, on a CPU too.
"""

import argparse
import dataclasses
import functools
import os
import pathlib
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

# Before jax starts: processes of their own need memory too.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

from benchmarks.accelerator import factorisations, training, transforms, updates
from benchmarks.accelerator.record import Record
from benchmarks.accelerator.sizes import FULL, SMOKE, Size
from benchmarks.record import RESULTS, check_clean, environment, git_commit

SMOKE_OUT = pathlib.Path("runs/accelerator-smoke.json")


@dataclasses.dataclass(frozen=True)
class Part:
    """One question.

    Attributes:
        items: size -> name -> what measures it.
        table: results by name -> Markdown.
        minutes: after which no more items are begun; one item takes up to two.
    """

    items: Callable[[Size], dict[str, Callable[[], dict[str, Any]]]]
    table: Callable[[dict[str, Any]], str]
    minutes: float


PARTS = {
    "transforms": Part(transforms.items, transforms.table, 3),
    "updates-350m": Part(functools.partial(updates.items, model="350m"), updates.table, 5),
    "updates-1b": Part(functools.partial(updates.items, model="1b"), updates.table, 5),
    "training-float32": Part(functools.partial(training.items, dtype="float32"), training.table, 5),
    "training-bfloat16": Part(
        functools.partial(training.items, dtype="bfloat16"), training.table, 4
    ),
    "factorisations": Part(factorisations.items, factorisations.table, 3),
}


def run_part(name: str, size: Size, record: Record, *, again: bool) -> list[str]:
    """Measures what is not there yet and prints the table.

    Args:
        name: of the part.
        size: of everything.
        record: for the results.
        again: measure what is there as well.

    Returns:
        The items that time did not suffice for.
    """
    part, start = PARTS[name], time.monotonic()
    items = part.items(size)
    missing = [item for item in items if again or item not in record.results(name)]
    while missing and time.monotonic() - start < 60 * part.minutes:
        item = missing.pop(0)
        began = time.monotonic()
        try:
            result = items[item]()
        except Exception as error:
            # Not hidden: it is in the results and in the exit status. What an optimizer cannot do
            # on this device must not cost the time that is lent for the others.
            traceback.print_exc()
            result = {"error": f"{type(error).__name__}: {error}"}
        record.add(name, item, result)
        print(f"{name}: {item}, {time.monotonic() - began:.1f} s", flush=True)
    done = record.results(name)
    shown = {item: done[item] for item in items if item in done}
    if shown:
        print(f"\n{name}\n\n{part.table(shown)}\n", flush=True)
    return missing


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--out", type=pathlib.Path, help="of the results")
    parser.add_argument("--again", action="store_true", help="measure what is there as well")
    parser.add_argument("--smoke", action="store_true", help="all of it small, as a test")
    parser.add_argument("--allow-dirty", action="store_true", help="files that no commit holds")
    parser.add_argument("--commit", help="of these files, where they are not in a repository")
    return parser.parse_args(arguments)


def described(options: argparse.Namespace) -> dict[str, Any]:
    """Where and how the figures are made.

    Raises:
        SystemExit: if nothing says which commit they are of.
    """
    commit = git_commit() or options.commit
    if commit is None and not options.smoke:
        raise SystemExit("these files are in no repository: name their commit with --commit")
    command = ["python", "-m", "benchmarks.accelerator"]
    command += ["--part", *options.part] if options.part != list(PARTS) else []
    command += ["--smoke"] if options.smoke else []
    return environment(commit) | {"command": " ".join(command)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the parts that are asked for."""
    options = parse(arguments)
    check_clean(options.allow_dirty or options.smoke)
    out = options.out or (SMOKE_OUT if options.smoke else RESULTS / "accelerator.json")
    description = described(options)
    record = Record(out, description, smoke=options.smoke)
    size = SMOKE if options.smoke else FULL
    # Of files that no commit holds nobody can say whether they are the same.
    unknown = (description["git_commit"] or "+").endswith("+")
    left = {
        name: run_part(name, size, record, again=options.again or unknown) for name in options.part
    }
    failed = {name: errors for name in options.part if (errors := record.failures(name))}
    print(f"written to {out}")
    for name, items in left.items():
        if items:
            print(f"{name}: no time for {', '.join(items)}; the same command goes on there")
    if failed:
        raise SystemExit(f"failed: {failed}")


if __name__ == "__main__":
    main()
