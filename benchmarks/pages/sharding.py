"""Writes the tables of docs/sharding.md: what the benchmark counted, and Llama-7B by its formulas.

Run from the repository's root: ``python -m benchmarks.pages.sharding``.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx
from jax.sharding import AbstractMesh, PartitionSpec

import lowrank_optax as lro
from benchmarks.formulas import Split, contrib_muon, muon_gathered, trion
from benchmarks.measure import communication_tables, synchronisation
from benchmarks.pages import DOCS, fill, read_results, rewrite
from benchmarks.tables import markdown_table
from models.configs import get_config
from models.llama import Llama, matrix_dimension_numbers
from models.partitioning import partition_specs

PAGE = DOCS / "sharding.md"
PRESET = "7b"
RANKS = (256, 1024)
DEVICES = (8, 64, 512)
LAYOUTS: dict[str, Callable[[int], dict[str, int]]] = {
    "data": lambda devices: {"data": devices},
    "data, --zero": lambda devices: {"data": devices},
    "fsdp": lambda devices: {"fsdp": devices},
    "fsdp × tensor=8": lambda devices: {"fsdp": devices // 8, "tensor": 8},
}


@functools.cache
def shapes() -> Any:
    """The parameters of the model, as shapes."""
    model = nnx.eval_shape(lambda: Llama(get_config(PRESET), rngs=nnx.Rngs(0)))
    return nnx.to_pure_dict(nnx.state(model, nnx.Param))


def splits(mesh: dict[str, int], rank: int, *, zero: bool) -> list[tuple[int, Split]]:
    """Number of layers and split of every stacked matrix of the model.

    Args:
      mesh: size of every axis.
      rank: of the optimizer.
      zero: whether the state is split over the data axis. Where the rows do not divide by it, it
        is not.
    """
    params = shapes()
    specs = lro.matrix_specs(params, rank, dimension_numbers=matrix_dimension_numbers)
    where = partition_specs(params, AbstractMesh(tuple(mesh.values()), tuple(mesh)))
    partitions = jax.tree.leaves(where, is_leaf=lambda x: isinstance(x, PartitionSpec))
    found = []
    for spec, partition in zip(specs, partitions, strict=True):
        if spec is None:
            continue
        parts = lambda axes, partition=partition: math.prod(
            mesh[name] for axis in axes for name in _names(partition[axis])
        )
        split = Split(
            spec.m, spec.n, spec.rank, parts(spec.m_axes), parts(spec.n_axes), known=False
        )
        if zero and spec.m % (split.rows * mesh["data"]) == 0:
            split = dataclasses.replace(split, zero=mesh["data"])
        found.append((math.prod(spec.batch), split))
    return found


def llama_table() -> str:
    """GB that one step moves, by layout and number of devices."""
    rows = []
    for name, mesh_for in LAYOUTS.items():
        for devices in DEVICES:
            mesh = {axis: size for axis, size in mesh_for(devices).items() if size > 1}
            by_rank = [splits(mesh, rank, zero="zero" in name) for rank in RANKS]
            rows.append(
                (
                    name,
                    devices,
                    *(_gigabytes(trion, matrices) for matrices in by_rank),
                    *(_gigabytes(_unsharded_trion, matrices) for matrices in by_rank),
                    "–" if "zero" in name else _gigabytes(_muon_by_rows, by_rank[0]),
                    _gigabytes(muon_gathered, by_rank[0]),
                    _unsplit(by_rank[0]) if "zero" in name else "",
                )
            )
    header = (
        "layout",
        "devices",
        *(f"Trion, r = {rank}" for rank in RANKS),
        *(f"Trion, unsharded, r = {rank}" for rank in RANKS),
        "contrib.muon",
        "Muon, one gather",
        "matrices that ZeRO cannot split",
    )
    return markdown_table(header, rows)


def gradient_gigabytes() -> str:
    """Size of all these matrices' gradients in float32."""
    matrices = splits({"data": 8}, RANKS[0], zero=False)
    return f"{sum(layers * 4 * s.m * s.n for layers, s in matrices) / 1e9:.1f} GB"


def sections() -> dict[str, str]:
    """The generated parts of the page by name."""
    results = read_results("communication")
    return {
        "auto": communication_tables.table(results, "Auto"),
        "explicit": communication_tables.table(results, "Explicit"),
        "sync": communication_tables.sync_table(results),
        "sync training": synchronisation.table(read_results("synchronisation")["runs"]),
        "llama": f"{llama_table()}\n\nThe gradients of these matrices: {gradient_gigabytes()}.",
    }


def render(page: str) -> str:
    """The page with every section between its markers made anew."""
    return fill(page, sections())


def _unsharded_trion(split: Split) -> int:
    """Compressing `lro.unsharded_sides`, with `lro.with_shardings`."""
    known = dataclasses.replace(split, known=True)
    if split.columns > 1 and split.rows == 1:
        known = Split(split.n, split.m, split.r, rows=split.columns)
    return trion(known)


def _muon_by_rows(split: Split) -> int | None:
    """No figure where the benchmark has not checked one for such shapes."""
    return None if split.columns > 1 else contrib_muon(split)


def _names(entry: Any) -> tuple[str, ...]:
    return entry if isinstance(entry, tuple) else () if entry is None else (entry,)


def _gigabytes(formula: Callable[[Split], int | None], matrices: list[tuple[int, Split]]) -> str:
    sizes = [(layers, formula(split)) for layers, split in matrices]
    if any(size is None for _, size in sizes):
        return "–"
    return f"{sum(layers * size for layers, size in sizes) / 1e9:.3g} GB"


def _unsplit(matrices: list[tuple[int, Split]]) -> str:
    whole = sum(layers for layers, split in matrices if split.zero == 1)
    return f"{whole} of {sum(layers for layers, _ in matrices)}"


def main() -> None:
    """Rewrites docs/sharding.md."""
    rewrite(PAGE, render)


if __name__ == "__main__":
    main()
