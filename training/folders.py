"""Folders: of runs, on this machine or in a bucket as gs://BUCKET/RUN (etils.epath); caches."""

import os
from pathlib import Path
from typing import Annotated

import tyro
from etils import epath

# The type of an option; pathlib would make gs:/bucket of gs://bucket.
Folder = Annotated[
    epath.Path,
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH",
        instance_from_str=lambda parts: epath.Path(parts[0]),
        is_instance=lambda value: isinstance(value, os.PathLike),
        str_from_instance=lambda path: [str(path)],
    ),
]


def cache_folder(name: str) -> Path:
    """Where something is kept for other runs: below $XDG_CACHE_HOME, by default ~/.cache."""
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(root).expanduser() / "lowrank_optax" / name


def is_local(path: epath.PathLike) -> bool:
    """Whether a path is of this machine's file system, where files can be appended to and renamed.

    >>> is_local("runs/small"), is_local("gs://bucket/small")
    (True, False)
    """
    return "://" not in os.fspath(path)
