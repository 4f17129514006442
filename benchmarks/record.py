"""Where a figure was made: commit, device, versions and command, to stand beside it in its JSON."""

import argparse
import json
import os
import pathlib
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import jax
import jaxlib
import optax

from benchmarks.timing import ROUNDS

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
NOT_MEASURED = ("benchmarks/results", "*.md", "*.png")
"""What a benchmark itself writes, and pages made of it: changes there do not change a figure."""


def command_line(
    description: str, name: str, *, rounds: int | None = ROUNDS
) -> argparse.ArgumentParser:
    """The options that benchmarks share: --out, --allow-dirty and, of times, --rounds.

    Args:
        description: the module's docstring, whose first line is the question.
        name: of the JSON in benchmarks/results/ that --out is by default.
        rounds: by default; None for a benchmark that compares no times.
    """
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    if rounds is not None:
        parser.add_argument("--rounds", type=int, default=rounds, help=f"{ROUNDS} or more")
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS / f"{name}.json")
    parser.add_argument(
        "--allow-dirty",
        action="store_true",
        help="measure files that no commit holds; the results say so",
    )
    return parser


def begin(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The command's options, and beside them the commit: another may be there when it ends.

    Raises:
        SystemExit: as `check_clean`.
    """
    arguments = parser.parse_args()
    check_clean(arguments.allow_dirty)
    arguments.commit = git_commit()
    return arguments


def check_clean(allow_dirty: bool) -> None:
    """Refuses to measure code that no commit holds: nobody could measure it again.

    Raises:
        SystemExit: naming the files and the remedy.
    """
    changes = uncommitted_changes()
    if changes and not allow_dirty:
        raise SystemExit(
            "these files differ from the commit that the results would name:\n  "
            + "\n  ".join(changes)
            + "\ncommit them, or give --allow-dirty, which the results will tell"
        )


def environment(commit: str | None) -> dict[str, Any]:
    """Device, versions, commit and command line, to be stored beside every figure."""
    return {
        "device_kind": jax.devices()[0].device_kind,
        "device_count": jax.device_count(),
        "backend": jax.default_backend(),
        "machine": platform.machine(),
        "cpu_count": os.cpu_count(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "optax": optax.__version__,
        "git_commit": commit,
        "command": shlex.join(["python", *map(_anywhere, sys.orig_argv[1:])]),
    }


def _anywhere(word: str) -> str:
    """A word of the command line without this machine's folders: a path from the root, or a name.

    >>> _anywhere("/home/me/data/tokens.npz"), _anywhere(str(RESULTS)), _anywhere("--rounds")
    ('tokens.npz', 'benchmarks/results', '--rounds')
    """
    path = pathlib.Path(word)
    if not path.is_absolute():
        return word
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name


def write_json(path: pathlib.Path, results: Mapping[str, Any], commit: str | None) -> None:
    """Writes the results with the environment they were made in.

    Args:
        path: of the JSON.
        results: its contents.
        commit: `git_commit()` from before anything was measured.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {"environment": environment(commit), **results}
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def git_commit() -> str | None:
    """The commit, with "+" after it where code differs from it; None outside a repository."""
    commit = git("rev-parse", "HEAD")
    if commit is None:
        return None
    return commit.strip() + ("+" if uncommitted_changes() else "")


def uncommitted_changes() -> list[str]:
    """Files of code that differ from the commit or are not in it; none outside a repository."""
    excluded = [f":(exclude){pattern}" for pattern in NOT_MEASURED]
    status = git("status", "--porcelain", "--", ".", *excluded)
    return [] if status is None else [line[3:] for line in status.splitlines()]


def git(*arguments: str) -> str | None:
    """What git prints; None where there is no git or no repository, as in an unpacked archive."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout
