"""The mesh of devices: which axes there are, from `--mesh` to a `jax.sharding.Mesh`.

    data    copies of the parameters, each with its share of the batch
    fsdp    parameters and optimizer state split, and the batch too
    tensor  matrix products split (Megatron style); every device sees the same batch

The axes are always laid out in this order, so that the most talkative one, tensor, joins devices
that are next to each other.
"""

import math
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from models.partitioning import AXES, BATCH_AXES
from training.errors import UserError, nearest


def parse_mesh(mesh: str | None, available: int, processes: int = 1) -> dict[str, int]:
    """The sizes of the axes named by `mesh`, in the order of `AXES`.

    None puts all available devices on the data axis. A single process may use fewer.

    >>> parse_mesh("fsdp=2,data=4", available=8)
    {'data': 4, 'fsdp': 2}
    """
    if mesh is None:
        return {"data": available}
    sizes: dict[str, int] = {}
    for pair in mesh.split(","):
        axis, separator, size = (part.strip() for part in pair.partition("="))
        if not separator:
            raise UserError(f"--mesh {mesh}: expected axis=size,..., e.g. --mesh data={available}")
        if axis not in AXES:
            raise UserError(f"--mesh {mesh}: unknown axis {axis!r}.{nearest(axis, AXES)}")
        if axis in sizes:
            raise UserError(f"--mesh {mesh}: the axis {axis} is named more than once")
        if not (size.isascii() and size.isdecimal()) or int(size) < 1:
            raise UserError(
                f"--mesh {mesh}: the size of {axis} is {size!r}, but must be an integer >= 1"
            )
        sizes[axis] = int(size)
    _check_fit(mesh, sizes, available, processes)
    return {axis: sizes[axis] for axis in AXES if axis in sizes}


def _check_fit(mesh: str, sizes: dict[str, int], available: int, processes: int) -> None:
    wanted = math.prod(sizes.values())
    example = f"e.g. --mesh {mesh_text(_fitting(list(sizes), available))}"
    if wanted > available:
        raise UserError(
            f"--mesh {mesh}: only {available} device(s) are available and this takes {wanted}; "
            f"{example}. For more, start more processes (--distributed)"
            + (
                ", or let a CPU pass for several devices: "
                f"XLA_FLAGS=--xla_force_host_platform_device_count={wanted}"
                if jax.default_backend() == "cpu"
                else ""
            )
        )
    if processes > 1 and wanted != available:
        raise UserError(
            f"--mesh {mesh} takes {wanted} of {available} devices, but {processes} processes "
            f"must use all of theirs; {example}"
        )


def _fitting(axes: list[str], available: int) -> dict[str, int]:
    """Sizes of these axes that use all devices: 2 for each but the first, where that divides."""
    sizes = {}
    for axis in axes[1:]:
        sizes[axis] = 1 if available % 2 else 2
        available //= sizes[axis]
    return {axes[0]: available, **sizes}


def mesh_text(sizes: dict[str, int]) -> str:
    """The option that `parse_mesh` reads these sizes from, e.g. "data=4,fsdp=2"."""
    return ",".join(f"{axis}={size}" for axis, size in sizes.items())


def make_mesh(sizes: dict[str, int]) -> Mesh:
    """A mesh of axes of these sizes over the first devices, all of type Auto."""
    devices = jax.devices()[: math.prod(sizes.values())]
    return jax.make_mesh(
        tuple(sizes.values()),
        tuple(sizes),
        axis_types=(AxisType.Auto,) * len(sizes),
        devices=devices,
    )


def batch_shards(sizes: dict[str, int]) -> int:
    """Number of parts that a batch is split into."""
    return math.prod(size for axis, size in sizes.items() if axis in BATCH_AXES)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The first axis over the data and fsdp axes, everything else replicated."""
    axes = tuple(axis for axis in mesh.axis_names if axis in BATCH_AXES)
    return NamedSharding(mesh, PartitionSpec(axes or None))


def process_rows(mesh: Mesh, batch_size: int) -> tuple[int, int]:
    """Which equal part of every batch the devices of this process hold: the index-th of count, as
    (index, count).

    Processes that share a part (the tensor axis may span several) are given the same one. That a
    process holds parts that no process holds as a whole is a `UserError`.
    """
    rows: dict[int, set[int]] = {}
    places: dict[Any, Any] = dict(batch_sharding(mesh).devices_indices_map((batch_size,)))
    for device, index in places.items():
        rows.setdefault(device.process_index, set()).update(range(*index[0].indices(batch_size)))
    parts = sorted({tuple(sorted(own)) for own in rows.values()})
    if sorted(np.concatenate(parts)) != list(range(batch_size)):
        raise UserError(
            f"--mesh {mesh_text(dict(mesh.shape))}: the {len(rows)} processes would hold "
            "overlapping parts of a batch; make the tensor axis divide, or be a multiple of, the "
            "devices of a process"
        )
    return parts.index(tuple(sorted(rows[jax.process_index()]))), len(parts)
