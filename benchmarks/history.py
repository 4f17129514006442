"""Which code has changed since a commit: by what it does, not by comments or where it stands."""

import ast
import functools
from collections.abc import Iterable, Iterator

from benchmarks.record import git


def known(commit: str) -> bool:
    """Whether the history of what is checked out holds a commit.

    A shallow clone's and an archive's may not, and no clone's holds a commit that was amended.
    """
    return git("merge-base", "--is-ancestor", commit, "HEAD") is not None


def changed_since(commit: str, until: str, paths: Iterable[str]) -> list[str]:
    """Those paths in which code differs between two commits.

    A file that was moved is compared with what it was. Comments, docstrings and imports make no
    difference: what is imported has a path of its own.

    Args:
      commit: the older.
      until: the newer.
      paths: files and folders, from the repository's root, as they are called at the newer.
    """
    versions = list(_versions(commit, until))
    differs = lambda path: any(
        _is_of(name, path) and _code(before, name) != _code(after, name)
        for name, before, after in versions
    )
    return [path for path in paths if differs(path)]


def _versions(commit: str, until: str) -> Iterator[tuple[str, str, str]]:
    """Files that differ: the newer name, and both blobs, of zeros where there is none."""
    listed = git("diff", "--raw", "-M", "--no-abbrev", "-z", commit, until) or ""
    fields = iter(listed.split("\0")[:-1])
    for field in fields:
        _, _, before, after, status = field.split()
        names = [next(fields) for _ in range(2 if status[0] in "RC" else 1)]
        yield names[-1], before, after


def _is_of(name: str, path: str) -> bool:
    return name == path or name.startswith(f"{path}/")


@functools.cache
def _code(blob: str, name: str) -> str | None:
    """What a version of a file does; None of no version."""
    if not blob.strip("0"):
        return None
    text = git("cat-file", "blob", blob) or ""
    if not name.endswith(".py"):
        return text
    tree = ast.parse(text)
    for node in ast.walk(tree):
        for part in ("body", "orelse", "finalbody"):
            if isinstance(lines := getattr(node, part, None), list):
                setattr(node, part, [line for line in lines if not _does_nothing(line)])
    return ast.dump(tree)


def _does_nothing(line: ast.stmt) -> bool:
    """An import, or a text that stands alone, as docstrings do."""
    alone = line.value if isinstance(line, ast.Expr) else None
    return isinstance(alone, ast.Constant) or isinstance(line, ast.Import | ast.ImportFrom)
