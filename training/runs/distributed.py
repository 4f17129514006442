"""Several processes that train together: starting them, and what they have to agree on.

Every process runs the same program on the same options but `--process-id`; arrays and compiled
functions span all their devices. Only process 0, the first, prints and writes the run's files.
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Annotated

import jax
import numpy as np
import tyro
from jax.experimental import multihost_utils

from training.errors import UserError, as_flag
from training.runs.rendezvous import meet

_UNSET = tyro.conf.arg(help_behavior_hint="")


@dataclasses.dataclass(frozen=True)
class DistributedOptions:
    """How this process finds the others."""

    distributed: bool = False
    """Train in several processes together, started with the same options on folders that they
    share; a batch is spread over the devices of all."""
    coordinator: Annotated[str | None, _UNSET] = None
    """Address of process 0, as host:port with a free port (default: the cluster environment's)."""
    num_processes: Annotated[int | None, _UNSET] = None
    """How many processes there are (default: the cluster environment's)."""
    process_id: Annotated[int | None, _UNSET] = None
    """Which of them this is, from 0 (default: the cluster environment's)."""
    coordinator_timeout: int = 60
    """Longest wait in seconds for the coordinator and the other processes."""


def start(options: DistributedOptions) -> None:
    """Joins the other processes, if the options say that there are any.

    To be called before anything that makes JAX look for devices. Where a cluster environment that
    JAX knows (Slurm, Open MPI, Kubernetes, TPU pods) gives the address, JAX does all of it and
    ends the process itself at a time-out.

    Raises:
        UserError: for options that do not fit each other, or if a process does not come in time.
    """
    settings = {
        name: getattr(options, name) for name in ("coordinator", "num_processes", "process_id")
    }
    given = [name for name, value in settings.items() if value is not None]
    if not options.distributed:
        if given:
            raise UserError(f"{as_flag(given[0])} is for --distributed runs: add --distributed")
        return
    if given and len(given) < len(settings):
        missing = [as_flag(name) for name in settings if name not in given]
        raise UserError(
            f"--distributed with {', '.join(map(as_flag, given))} needs {' and '.join(missing)} too"
        )
    if options.coordinator_timeout < 1:
        raise UserError(
            f"--coordinator-timeout is {options.coordinator_timeout}, but must be at least 1"
        )
    if given:
        _check_numbers(options.num_processes, options.process_id)
        host, port = parse_address(options.coordinator)
        meet(host, port, options.process_id, options.num_processes, options.coordinator_timeout)
    # Its SIGTERM handler would swallow the signal before the training loop's own is in place.
    jax.config.update("jax_enable_preemption_service", False)
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


def _check_numbers(num_processes: int, process_id: int) -> None:
    if num_processes < 1:
        raise UserError(f"--num-processes is {num_processes}, but must be at least 1")
    if not 0 <= process_id < num_processes:
        raise UserError(
            f"--process-id is {process_id}, but must be from 0 to {num_processes - 1} "
            f"(--num-processes {num_processes})"
        )


def parse_address(address: str) -> tuple[str, int]:
    """Host and port of "host:port" or "[IPv6]:port".

    Raises:
        UserError: for anything else.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise UserError(f"--coordinator {address}: expected host:port, e.g. 10.0.0.1:12345")
    return host.removeprefix("[").removesuffix("]"), int(port)


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
    """Waits for all processes at the end of a block; its `UserError` in one of them ends all.

    Raises:
        UserError: this process's own, or that it was another's.
    """
    own = None
    try:
        yield
    except UserError as error:
        own = error
    failed = processes_where(own is not None)
    if own is not None:
        raise own
    if failed:
        numbers = ", ".join(map(str, failed))
        raise UserError(f"stopped because process {numbers} failed; its own message says why")
