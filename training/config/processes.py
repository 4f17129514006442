"""Options of several processes that train together."""

import dataclasses
from typing import Annotated

import tyro

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
    """Longest wait in seconds for the coordinator and the other processes; JAX then aborts the
    process (SIGABRT) with DEADLINE_EXCEEDED and a stack trace."""
