"""What does one update send between devices, by method and by layout?

Run from the repository's root: ``python -m benchmarks.measure.communication``. Compiles one update
of one matrix (or of eight stacked ones) for 8 forced host devices, counts the collectives in the
compiled text, prints tables and writes benchmarks/results/communication.json. Nothing is run.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from optax.contrib import GaLoreDimensionNumbers, MuonDimensionNumbers

import lowrank_optax as lro
from benchmarks.collectives import KINDS, Collective, collectives
from benchmarks.formulas import FORMULAS, Split
from benchmarks.measure.communication_tables import kinds_table, sync_table, table
from benchmarks.record import begin, command_line, write_json

DEVICES = 8
SIZES = {"m": 2048, "n": 1024, "r": 128}
LAYERS = 8
MESH = {"a": 4, "b": 2}
ALL = tuple(MESH)
AXES = {"Auto": AxisType.Auto, "Explicit": AxisType.Explicit}


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the parameter, a kernel (in, out) = (n, m) or (layers, n, m), is.

    Attributes:
      spec: its partition on the mesh a=4, b=2.
      split: fields of `Split`.
      layers: number of stacked matrices.
      layers_split: whether the stack itself is split.
      zero: axes that ZeRO splits the state over.
    """

    spec: tuple[Any, ...]
    split: dict[str, int] = dataclasses.field(default_factory=dict)
    layers: int = 1
    layers_split: bool = False
    zero: tuple[str, ...] | None = None


LAYOUTS = {
    "replicated": Layout((None, None)),
    "rows": Layout((None, ALL), {"rows": 8}),
    "columns": Layout((ALL, None), {"columns": 8}),
    "rows × columns": Layout(("b", "a"), {"rows": 4, "columns": 2}),
    "8 layers, split": Layout((ALL, None, None), layers=LAYERS, layers_split=True),
    "8 layers, rows": Layout((None, None, ALL), {"rows": 8}, layers=LAYERS),
    "zero": Layout((None, None), {"zero": 8}, zero=ALL),
}
COLUMN_LAYOUTS = ("columns", "rows × columns")

Build = Callable[[int, MuonDimensionNumbers, Any, Any], optax.GradientTransformation]
"""(rank, the dimension numbers of "w", ZeRO's axis, the parameters' shapes and shardings)."""


def ours(optimizer: Any, **options: Any) -> Build:
    """How to build one of this library's optimizers for the one parameter "w"."""
    return lambda rank, dimensions, zero_axis, params: optimizer(
        1e-3, rank, dimension_numbers={"w": dimensions}, zero_axis=zero_axis, **options
    )


def _at_its_own_rank(optimizer: Any) -> Build:
    """The same of one that takes no rank."""
    return lambda rank, dimensions, zero_axis, params: optimizer(
        1e-3, dimension_numbers={"w": dimensions}, zero_axis=zero_axis
    )


def _told_where(rank: int, dimensions: Any, zero_axis: Any, params: Any) -> Any:
    build = ours(lro.trion)
    return lro.with_shardings(build(rank, dimensions, zero_axis, params), _shardings(params))


def _unsharded(rank: int, dimensions: Any, zero_axis: Any, params: Any) -> Any:
    where = _shardings(params)
    sides = lro.unsharded_sides(params, where, dimension_numbers={"w": dimensions})
    build = ours(lro.trion, compress=sides)
    return lro.with_shardings(build(rank, dimensions, zero_axis, params), where)


def _shardings(params: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.sharding, params)


def _muon(rank: int, dimensions: MuonDimensionNumbers, zero_axis: Any, params: Any) -> Any:
    del rank, zero_axis, params
    return optax.contrib.muon(1e-3, muon_weight_dimension_numbers={"w": dimensions})


def _galore(rank: int, dimensions: MuonDimensionNumbers, zero_axis: Any, params: Any) -> Any:
    del zero_axis, params
    numbers = GaLoreDimensionNumbers(dimensions.reduction_axis, dimensions.output_axis)
    return optax.contrib.galore(1e-3, rank, weight_dimension_numbers={"w": numbers})


METHODS: dict[str, Build] = {
    "tandem": ours(lro.tandem),
    "normuon": _at_its_own_rank(lro.normuon),
    "muon": _at_its_own_rank(lro.muon),
    "trion": ours(lro.trion),
    "dct_adamw": ours(lro.dct_adamw),
    "dion (qr)": ours(lro.dion),
    "dion (cholesky_qr)": ours(lro.dion, orthogonalize="cholesky_qr"),
    "galore": ours(lro.galore),
    "golore": ours(lro.golore),
    "ldadamw": ours(lro.ldadamw),
    "frugal (dct)": ours(lro.frugal, projection="dct"),
    "fira (dct)": ours(lro.fira, projection="dct"),
    "online_subspace_descent": ours(lro.online_subspace_descent),
}
UNSHARDED = "trion, unsharded_sides"
TOLD = {"trion, with_shardings": _told_where, UNSHARDED: _unsharded}
FOREIGN: dict[str, Build] = {"optax.contrib.muon": _muon, "optax.contrib.galore": _galore}
SYNCHRONISED = {
    "trion": lro.trion,
    "dion (qr)": lro.dion,
}


def compiled_update(
    build: Build, layout: Layout, axis_type: AxisType, sizes: dict[str, int]
) -> list[Collective]:
    """The collectives of one update.

    Args:
      build: makes the optimizer.
      layout: of the parameter.
      axis_type: of all mesh axes.
      sizes: m, n and r.
    """
    mesh = jax.make_mesh(tuple(MESH.values()), ALL, axis_types=(axis_type,) * len(MESH))
    sharding = NamedSharding(mesh, PartitionSpec(*layout.spec))
    shape = (sizes["n"], sizes["m"])
    if layout.layers > 1:
        shape = (layout.layers, *shape)
    dimensions = MuonDimensionNumbers(len(shape) - 2, len(shape) - 1)
    params = {"w": jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)}
    tx = build(sizes["r"], dimensions, layout.zero, params)
    return update_collectives(tx, params, foreign=build in FOREIGN.values())


def update_collectives(tx: Any, params: Any, *, foreign: bool = False) -> list[Collective]:
    """The collectives of one update.

    Args:
      tx: the optimizer.
      params: shapes of the parameters, with their shardings.
      foreign: whether it is another library's, which may not trace with typed shardings.
    """
    shardings = _state_shardings(tx, params, foreign=foreign)
    state = jax.tree.map(
        lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
        jax.eval_shape(tx.init, _plain(params) if foreign else params),
        shardings,
    )
    update = jax.jit(tx.update, out_shardings=(_shardings(params), shardings))
    return _found(update.lower(params, state, params))


def synchronised_update(optimizer: Any, sizes: dict[str, int]) -> list[Collective]:
    """The collectives of one update with `sync="low_rank"`, under `jax.shard_map`."""
    mesh = jax.make_mesh((DEVICES,), ("data",), axis_types=(AxisType.Auto,))
    params = {"w": jax.ShapeDtypeStruct((sizes["n"], sizes["m"]), jnp.float32)}
    numbers = {"w": MuonDimensionNumbers(0, 1)}
    tx = optimizer(1e-3, sizes["r"], dimension_numbers=numbers, sync="low_rank")
    specs = lro.local_state_specs(tx, params)
    whole = PartitionSpec()
    init = jax.shard_map(tx.init, mesh=mesh, in_specs=whole, out_specs=specs)
    # Every device has a gradient of its own: stacked along the first axis.
    update = jax.shard_map(
        tx.update,
        mesh=mesh,
        in_specs=(PartitionSpec("data"), specs, whole),
        out_specs=(whole, specs),
    )
    gradients = {"w": jax.ShapeDtypeStruct((DEVICES * sizes["n"], sizes["m"]), jnp.float32)}
    lowered = jax.jit(update).lower(gradients, jax.eval_shape(init, params), params)
    return _found(lowered)


def expected_bytes(method: str, layout: Layout, axes: str, sizes: dict[str, int]) -> int | None:
    """By the formulas; None if there is none."""
    known = axes == "Explicit" or method in TOLD
    split = Split(**sizes, **layout.split, known=known)
    if method == UNSHARDED and split.columns > 1 and split.rows == 1:
        turned = {"m": sizes["n"], "n": sizes["m"], "r": sizes["r"], "rows": split.columns}
        split = Split(**turned)
    if layout.layers_split:
        # "Did all layers refresh?" is asked of all layers.
        return 1 if method == "ldadamw" else 0
    per_matrix = FORMULAS[method.split(",")[0]](split)
    return None if per_matrix is None else layout.layers * per_matrix


def measure(
    method: str, build: Build, layout_name: str, axes: str, sizes: dict[str, int]
) -> dict[str, Any]:
    """One row of the results."""
    layout = LAYOUTS[layout_name]
    row: dict[str, Any] = {"method": method, "layout": layout_name, "axes": axes}
    try:
        found = compiled_update(build, layout, AXES[axes], sizes)
    except Exception as error:
        if build not in FOREIGN.values():
            raise
        # What others raise here is a result: its class is private to JAX.
        return row | {"error": type(error).__name__, "message": str(error).splitlines()[0]}
    return row | summary(found) | {"formula": expected_bytes(method, layout, axes, sizes)}


def summary(found: Sequence[Collective]) -> dict[str, Any]:
    """Count and bytes by kind, at every step and in refreshes."""
    return {
        when: {
            kind: {"count": len(same), "bytes": sum(each.bytes for each in same)}
            for kind in KINDS
            if (same := [c for c in found if c.kind == kind and c.in_branch == refresh])
        }
        for when, refresh in (("every_step", False), ("refresh", True))
    } | {"in_loops": sum(each.in_loop for each in found)}


def run(sizes: dict[str, int]) -> dict[str, Any]:
    """Everything that is compared."""
    plans = [
        (method, build, layout, axes)
        for method, build in (METHODS | FOREIGN).items()
        for layout in LAYOUTS
        for axes in AXES
        if not (method in FOREIGN and layout == "zero")  # they have no such option
    ]
    plans += [
        (method, build, layout, "Auto")
        for method, build in TOLD.items()
        for layout in COLUMN_LAYOUTS
    ]
    gradient = 4 * sizes["m"] * sizes["n"]
    return {
        "sizes": sizes | {"layers": LAYERS, "devices": DEVICES, "dtype": "float32"},
        "updates": [measure(*plan, sizes) for plan in plans],
        "sync": [
            {"method": method, "gradient": gradient}
            | summary(synchronised_update(optimizer, sizes))
            for method, optimizer in SYNCHRONISED.items()
        ],
    }


def _found(lowered: Any) -> list[Collective]:
    """Nothing is run, so the machine code need not be good; the collectives are the same."""
    options = {"xla_llvm_disable_expensive_passes": True}
    return collectives(lowered.compile(options).as_text())


def _plain(params: Any) -> Any:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)


def _state_shardings(tx: Any, params: Any, *, foreign: bool) -> Any:
    """Of another library's optimizer that does not trace with typed shardings: by shape."""
    try:
        return lro.state_shardings(tx, params, _shardings(params))
    except (TypeError, ValueError):
        if not foreign:
            raise
    (leaf,) = jax.tree.leaves(params)
    whole = NamedSharding(leaf.sharding.mesh, PartitionSpec())
    return jax.tree.map(
        lambda x: leaf.sharding if x.shape == leaf.shape else whole,
        jax.eval_shape(tx.init, _plain(params)),
    )


def main() -> None:
    """Compiles, prints and writes."""
    arguments = begin(command_line(__doc__, "communication", rounds=None))
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", DEVICES)
    results = run(SIZES)
    for axes in AXES:
        print(table(results, axes), end="\n\n")
    print(kinds_table(results, ("trion", "dct_adamw", *TOLD, *FOREIGN), "Auto"), end="\n\n")
    print(sync_table(results))
    write_json(arguments.out, results, arguments.commit)


if __name__ == "__main__":
    main()
