"""The processes of `datasets`, made to start quickly and to end with their parent.

`datasets` maps in pools of the default start method. Forked workers inherit the locks of JAX's and
the tokenizers' threads, so these are spawned; they do not import the program, which would cost each
of them the import of JAX. And with datasets 5.2, when the parent is killed, the pool's manager
lives on for ever and the workers until they are done: these watch their parent.
"""

import contextlib
import os
import threading
from collections.abc import Iterator
from multiprocessing.connection import wait
from typing import Any
from unittest import mock

import multiprocess
from multiprocess import context, spawn


class _WatchingProcess(context.SpawnProcess):
    """A process that ends when its parent does."""

    def run(self) -> None:
        parent = multiprocess.parent_process()

        def die_with_parent() -> None:
            wait([parent.sentinel])
            os._exit(1)

        threading.Thread(target=die_with_parent, daemon=True).start()
        super().run()


class _WatchingContext(context.SpawnContext):
    Process = _WatchingProcess


def _without_main(name: str, original: Any = spawn.get_preparation_data) -> dict[str, Any]:
    """What a spawned process is told of its parent, less where its program is."""
    return {key: value for key, value in original(name).items() if "init_main" not in key}


@contextlib.contextmanager
def watching_processes(count: int) -> Iterator[None]:
    """Within this block, pools of `datasets` are of such processes, with one thread for each.

    Args:
        count: of processes; with 1, there is no pool, and nothing changes.
    """
    if count <= 1:
        yield
        return
    with (
        mock.patch.object(context._default_context, "_actual_context", _WatchingContext()),
        mock.patch.object(spawn, "get_preparation_data", _without_main),
        mock.patch.dict(os.environ, TOKENIZERS_PARALLELISM="false"),
    ):
        yield
