"""Tasks spread over processes, with a progress bar; the processes never outlive their parent."""

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from training.disk import is_disk_full
from training.errors import TrainingFailedError


class Workers:
    """Processes that are started when they are first needed, and end with the `with` block.

    Args:
        count: of processes; with 1, all is done in this one.
        console: for progress.
        folder: that is written to, for messages.
    """

    def __init__(self, count: int, console: Console, folder: Path):
        self._count = count
        self._console = console
        self._folder = folder
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def run(
        self,
        function: Callable[..., int],
        tasks: Sequence[tuple[Any, ...]],
        *,
        doing: str,
        describe: Callable[[int], str],
        already_done: int = 0,
    ) -> None:
        """Calls a function for every task, in any order.

        Args:
            function: of a module; returns how much it did.
            tasks: its arguments, which can be pickled.
            doing: what is done, e.g. "reading".
            describe: how the sum of what `function` returned is shown.
            already_done: tasks done in an earlier run, for the progress bar.

        Raises:
            Exception: the first that a task raised; what is under way is finished all the same.
            TrainingFailedError: for a full disk, or a worker that was killed.
        """
        amount = 0
        total = already_done + len(tasks)
        with (
            _progress(self._console, doing, total, already_done) as show,
            _explained(self._folder),
        ):
            for done, result in enumerate(self._results(function, tasks), already_done + 1):
                amount += result
                show(done, describe(amount))

    def _results(
        self, function: Callable[..., int], tasks: Sequence[tuple[Any, ...]]
    ) -> Iterator[int]:
        """Yields what the function returns, in any order."""
        if min(self._count, len(tasks)) <= 1:
            for task in tasks:
                yield function(*task)
            return
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                self._count,
                # Not fork: JAX and tokenizers have threads.
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_start_worker,
            )
        for future in as_completed([self._pool.submit(function, *task) for task in tasks]):
            yield future.result()


def _start_worker() -> None:
    """Makes a worker die with its parent, and quietly at Ctrl-C; one thread for each is enough."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent = multiprocessing.parent_process()

    def die_with_parent() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=die_with_parent, daemon=True).start()


@contextlib.contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Turns a full disk and a killed worker into messages for people."""
    kept = "What is finished is kept: start the same command again to continue."
    try:
        yield
    except BrokenProcessPool as error:
        raise TrainingFailedError(
            f"a worker process was killed, perhaps for want of memory: use fewer --workers. {kept}"
        ) from error
    except OSError as error:
        if not is_disk_full(error):
            raise
        raise TrainingFailedError(f"no space left in {folder}: free some. {kept}") from error


@contextlib.contextmanager
def _progress(
    console: Console, doing: str, total: int, already_done: int
) -> Iterator[Callable[[int, str], None]]:
    """A bar on a terminal; elsewhere a plain line now and then."""
    plain_every = max(1, total // 10)
    bar = Progress(
        TextColumn(doing),
        BarColumn(bar_width=24),
        TextColumn("part {task.completed}/{task.total} | {task.fields[text]} | ETA"),
        TimeRemainingColumn(compact=True),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    task = bar.add_task(doing, total=total, completed=already_done, text="")

    def show(done: int, text: str) -> None:
        bar.update(task, completed=done, text=text)
        if not console.is_terminal and (done % plain_every == 0 or done == total):
            console.print(f"{doing}: part {done}/{total} | {text}", highlight=False)

    with bar:
        yield show
