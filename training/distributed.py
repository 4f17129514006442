"""Several processes that train together: starting them, and what they have to agree on.

Every process runs the same program on the same options but `--process-id`; arrays and compiled
functions span all their devices. Only process 0, the first, prints and writes the run's files.
"""

import contextlib
import sys
from collections.abc import Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

from training.config.groups import ProcessOptions
from training.config.ranges import check_ranges
from training.errors import UserError


def start(options: ProcessOptions) -> None:
    """Joins the other processes, if the options say that there are any.

    To be called before anything that makes JAX look for devices. If a process does not come in
    time, JAX does not raise: it aborts all that did, with a stack trace below DEADLINE_EXCEEDED.
    What that means is printed first, as nothing can be afterwards.
    """
    if not _given(options):
        return
    # Its SIGTERM handler would swallow the signal before the training loop's own is in place.
    jax.config.update("jax_enable_preemption_service", False)
    if options.coordinator:
        print(
            f"process {options.process_id} of {options.num_processes} waits up to "
            f"{options.coordinator_timeout} s for the others at {options.coordinator}. If JAX "
            "aborts below with DEADLINE_EXCEEDED, one of them was not started, has another "
            "--coordinator or --num-processes, or cannot reach that address (a firewall?); "
            "--coordinator-timeout makes it wait longer.",
            file=sys.stderr,
        )
    try:
        jax.distributed.initialize(
            options.coordinator,
            options.num_processes,
            options.process_id,
            initialization_timeout=options.coordinator_timeout,
            shutdown_timeout_seconds=options.coordinator_timeout,
        )
    except ValueError as error:
        raise UserError(
            f"--distributed: no cluster environment tells JAX where the processes are ({error}); "
            "give --coordinator host:port, --num-processes and --process-id"
        ) from error


def _given(options: ProcessOptions) -> bool:
    """Whether there are other processes; checks the options."""
    coordinator, count, own = options.coordinator, options.num_processes, options.process_id
    settings = {"--coordinator": coordinator, "--num-processes": count, "--process-id": own}
    given = [flag for flag, value in settings.items() if value is not None]
    missing = [flag for flag, value in settings.items() if value is None]
    if given and not options.distributed:
        raise UserError(f"{given[0]} is for --distributed runs: add --distributed")
    if given and missing:
        raise UserError(f"--distributed with {', '.join(given)} needs {' and '.join(missing)} too")
    check_ranges(vars(options))
    if coordinator is not None and count is not None and own is not None:
        if not 0 <= own < count:
            raise UserError(
                f"--process-id is {own}, but must be from 0 to {count - 1} "
                f"(--num-processes {count})"
            )
        host, _, port = coordinator.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
            raise UserError(f"--coordinator {coordinator}: expected host:port, e.g. 10.0.0.1:12345")
    return options.distributed


def is_first() -> bool:
    """Whether this is the process that prints and writes."""
    return jax.process_index() == 0


def processes_where(condition: bool) -> list[int]:
    """The processes in which a condition holds, known to all; every process must call this."""
    if jax.process_count() == 1:
        return [0] if condition else []
    return np.flatnonzero(multihost_utils.process_allgather(np.array(condition))).tolist()


@contextlib.contextmanager
def all_or_none() -> Iterator[None]:
    """Waits for all processes at the end of a block; any error in one of them ends all: that one
    with its error, the others with a `UserError`."""
    own = None
    try:
        yield
    except Exception as error:  # whatever it is, the others must not wait for this process
        own = error
    failed = processes_where(own is not None)
    if own is not None:
        raise own
    if failed:
        numbers = ", ".join(map(str, failed))
        raise UserError(f"stopped because process {numbers} failed; its own message says why")
