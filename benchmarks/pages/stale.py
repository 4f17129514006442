"""Writes into docs/results.md what made every result, and what of that has changed since.

Run from the repository's root, in a clone with its history: ``python -m benchmarks.pages.stale``;
prints the table too. It is of the last commit.
"""

import collections
import json
import pathlib
import re
from collections.abc import Iterator
from typing import NamedTuple

from benchmarks.history import changed_since, known
from benchmarks.pages import DOCS, fill, rewrite
from benchmarks.record import RESULTS, git
from benchmarks.tables import markdown_table

PAGE = DOCS / "results.md"
SHOWN = 7
"""Digits of a commit."""

UPDATE = (
    "lowrank_optax/core",
    "lowrank_optax/axes",
    "lowrank_optax/linalg",
    "lowrank_optax/optimizers",
    "lowrank_optax/transforms",
)
"""What computes an update, and so its state, its time and what it trains to."""
MODEL = (
    "models/llama.py",
    "models/linear.py",
    "models/attention.py",
    "models/fused_attention.py",
    "models/configs.py",
)
TRAINED = (*UPDATE, *MODEL, "training/steps", "training/data")
"""Of runs of the trainer."""
TASK = (*UPDATE, *MODEL, "training/steps/objective.py", "training/data/documents.py")
"""Of runs of `benchmarks.recipes.task`, which has a loop of its own."""
GRADIENTS = (
    "lowrank_optax/axes/projections",
    "lowrank_optax/axes/selection.py",
    "lowrank_optax/linalg",
    "lowrank_optax/tools/diagnostics.py",
    *MODEL,
    "training/steps/objective.py",
    "training/data",
)
"""Of projections of a model's gradients."""

SOURCES: dict[str, tuple[str, ...]] = {
    "blocks.json": GRADIENTS,
    "communication.json": (*UPDATE, "lowrank_optax/sharding"),
    "dct.json": ("lowrank_optax/linalg",),
    "faults.json": (
        "training/checkpoints",
        "training/runs",
        "training/data",
        "training/steps",
        "training/distributed.py",
        "training/files.py",
    ),
    "finetuning.json": (*TRAINED, "training/commands/finetune.py", "training/inference"),
    "loop.json": ("training/runs", "training/data", "training/steps", "training/files.py"),
    "optimizers.json": UPDATE,
    "papers/columns.json": GRADIENTS,
    "papers/memory.json": (*UPDATE, "models/configs.py", "lowrank_optax/tools/memory_report.py"),
    "papers/parts.json": ("lowrank_optax/axes/projections", "lowrank_optax/linalg"),
    "papers/ranks.json": UPDATE,
    "papers/runs.jsonl": TASK,
    "papers/share.json": UPDATE,
    "papers/trajectories.json": (*TASK, "lowrank_optax/tools/diagnostics.py"),
    "papers/zero.json": (*UPDATE, "models/configs.py", "lowrank_optax/sharding"),
    "passes.json": UPDATE,
    "reading.json": ("training/data",),
    "recipes/costs.json": (*UPDATE, "lowrank_optax/sharding"),
    "recipes/runs.jsonl": TASK,
    "subspaces.json": GRADIENTS,
    "svd.json": ("lowrank_optax/linalg/singular.py",),
    "synchronisation.json": (*TASK, "lowrank_optax/sharding"),
    "winners.json": UPDATE,
}
"""A file of results to the code whose change makes it older than what it measures.

Files without a commit of their own, such as recipes/tuned.jsonl, only choose from others' runs.
"""


class Made(NamedTuple):
    """A file of results, or the part of it that one commit made.

    Attributes:
        file: in benchmarks/results.
        runs: how many of them, of a file that has several and a commit for each; else 0.
        commit: its 40 digits, without the "+".
        clean: whether it, or something else, is what ran; in words.
    """

    file: str
    runs: int
    commit: str
    clean: str


def results() -> Iterator[Made]:
    """All results that name a commit."""
    for path in sorted(RESULTS.rglob("*.json*")):
        file = str(path.relative_to(RESULTS))
        commits = collections.Counter(_commits(path))
        for commit, count in commits.items():
            runs = count if commits.total() > 1 else 0
            clean = "with changes that no commit holds" if commit.endswith("+") else "yes"
            yield Made(file, runs, commit.removesuffix("+"), clean)


def _commits(path: pathlib.Path) -> list[str]:
    """In the order in which they made what is there."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".jsonl":
        lines = map(json.loads, text.splitlines())
        return [line["commit"] for line in lines if "commit" in line]
    contents = json.loads(text)
    records = contents.get("measurements", [contents])
    return [record.get("environment", record)["git_commit"] for record in records]


def table(until: str) -> str:
    """Every result with what made it, and which of its sources differ at a commit.

    Args:
        until: the commit.
    """
    rows = [(*told(made), _changes(made, until)) for made in results()]
    header = ("result", "commit", "is what ran", "changed since")
    return f"The code is that of commit `{until}`.\n\n{markdown_table(header, rows)}"


def told(made: Made) -> tuple[str, str, str]:
    """What the result itself says: the first cells of its row."""
    runs = f", {made.runs} of its runs" if made.runs else ""
    return f"`{made.file}`{runs}", f"`{made.commit[:SHOWN]}`", made.clean


def _changes(made: Made, until: str) -> str:
    if not known(made.commit):
        return "its commit is not in this history"
    by_folder: dict[str, list[str]] = {}
    for path in changed_since(made.commit, until, SOURCES[made.file]):
        folder, _, rest = path.partition("/")
        by_folder.setdefault(folder, []).append(rest)
    return "; ".join(f"{name}: {', '.join(rest)}" for name, rest in by_folder.items()) or "nothing"


def named_commit(page: str) -> str:
    """That whose code the page's table compares with."""
    found = re.search(r"The code is that of commit `(\w+)`", page)
    return found[1] if found else ""


def render(page: str, until: str) -> str:
    """The page with the table made anew."""
    return fill(page, {"provenance": table(until)})


def main() -> None:
    """Prints the table and rewrites docs/results.md.

    Raises:
        SystemExit: where there is no history to ask.
    """
    head = git("rev-parse", "--short=12", "HEAD")
    if head is None or git("rev-parse", "--is-shallow-repository") != "false\n":
        raise SystemExit("what has changed is read off git's history: run it in a full clone")
    print(table(head.strip()))
    rewrite(PAGE, lambda page: render(page, head.strip()))


if __name__ == "__main__":
    main()
