"""Optimizers, and ways to spread a parameter over eight devices, for the sharding tests."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from drawing import draw
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from methods import compiled
from optax.contrib import MuonDimensionNumbers

import lowrank_optax as lro
from benchmarks.collectives import Collective, collectives

KINDS = (AxisType.Auto, AxisType.Explicit)
AXES = ("a", "b")
RANK = 4

METHODS = {
    "trion": functools.partial(lro.trion, 0.02, RANK),
    "dct_adamw": functools.partial(lro.dct_adamw, 0.01, RANK),
    "dion": functools.partial(lro.dion, 0.01, RANK),
    "galore": functools.partial(lro.galore, 0.01, RANK, method="gram"),
    "golore": functools.partial(lro.golore, 0.01, RANK),
    "fira": functools.partial(lro.fira, 0.01, RANK),
    "frugal": functools.partial(lro.frugal, 0.01, RANK, projection="dct"),
    "ldadamw": functools.partial(lro.ldadamw, 0.01, RANK),
    "low_rank": functools.partial(lro.low_rank, 0.01, RANK, projection="hadamard"),
    "online_subspace_descent": functools.partial(lro.online_subspace_descent, 0.01, RANK),
    "tandem": functools.partial(lro.tandem, 0.01, RANK, mu_dtype="int8"),
}


TOLERANCE = dict.fromkeys(METHODS, 2e-5) | dict.fromkeys(
    ("galore", "fira", "ldadamw", "online_subspace_descent"), 1e-4
)
"""Of a step or two on several devices, as a share of the largest entry: sums in another order; and
singular vectors of the Gram matrix, which turn by rounding over the gap between singular values."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """Shape (*layers, n, m) of a kernel whose n is compressed, its partition, and `zero_axis`."""

    shape: tuple[int, ...]
    spec: P
    zero_axis: Any = None


LAYOUTS = {
    "rows": Layout((16, 32), P(None, AXES)),
    "columns": Layout((16, 32), P(AXES, None)),
    "both": Layout((16, 32), P("b", "a")),
    "layers": Layout((8, 16, 32), P(AXES, None, None)),
    "zero": Layout((16, 32), P(), AXES),
}


def mesh_of(sizes: dict[str, int], kind: AxisType = AxisType.Auto) -> jax.sharding.Mesh:
    """A mesh of the first devices, with axes of these names and sizes."""
    devices = jax.devices()[: math.prod(sizes.values())]
    kinds = (kind,) * len(sizes)
    return jax.make_mesh((*sizes.values(),), (*sizes,), axis_types=kinds, devices=devices)


def eight_devices(kind: AxisType = AxisType.Auto) -> jax.sharding.Mesh:
    return mesh_of(dict(zip(AXES, (4, 2), strict=True)), kind)


class Case:
    """One optimizer on a kernel in one layout, an embedding and a bias, on a mesh.

    Args:
      make: makes the optimizer from `dimension_numbers`, `zero_axis` and `settings`.
      layout: of the kernel.
      kind: of both mesh axes.
      settings: further arguments of `make`.
    """

    def __init__(self, make: Any, layout: Layout, kind: AxisType, **settings: Any):
        numbers = {"kernel": kernel_numbers(layout.shape), "embedding": None, "bias": None}
        make = functools.partial(make, dimension_numbers=numbers, **settings)
        self.mesh = eight_devices(kind)
        whole = NamedSharding(self.mesh, P())
        self.shardings = {
            "kernel": NamedSharding(self.mesh, layout.spec),
            "embedding": whole,
            "bias": whole,
        }
        self.reference = compiled(make())
        self.optimizer = make(zero_axis=layout.zero_axis)
        self.here = {
            "kernel": draw(layout.shape, 1),
            "embedding": draw((24, 8), 2),
            "bias": jnp.ones(16),
        }
        self.params = jax.device_put(self.here, self.shardings)

    def gradients(self, step: int) -> Any:
        return {name: draw(x.shape, 10 * step + len(name)) for name, x in self.here.items()}

    def state_shardings(self) -> Any:
        return lro.state_shardings(self.optimizer, self.params, self.shardings)


def kernel_numbers(shape: tuple[int, ...]) -> MuonDimensionNumbers:
    return MuonDimensionNumbers(reduction_axis=len(shape) - 2, output_axis=len(shape) - 1)


def assert_close(updates: dict[str, Any], expected: dict[str, Any], tolerance: float) -> None:
    """Every array within a share of its largest entry."""
    for name, wanted in expected.items():
        scale = float(jnp.max(jnp.abs(wanted)))
        np.testing.assert_allclose(updates[name], wanted, rtol=0, atol=tolerance * scale)


def compiled_collectives(
    make: Any, layout: Layout, kind: AxisType = AxisType.Auto
) -> list[Collective]:
    """What one jitted update of a single kernel sends, compiled from shapes alone."""
    mesh = eight_devices(kind)
    tx = make(dimension_numbers=kernel_numbers(layout.shape), zero_axis=layout.zero_axis)
    sharding = NamedSharding(mesh, layout.spec)
    kernel = jax.ShapeDtypeStruct(layout.shape, jnp.float32, sharding=sharding)
    lowered = jax.jit(tx.update).lower(kernel, placed_state(tx, kernel), kernel)
    return collectives(lowered.compile().as_text())


def placed_state(tx: optax.GradientTransformation, params: Any) -> Any:
    """Shapes of the state with their shardings."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, params)
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        jax.eval_shape(tx.init, params),
        lro.state_shardings(tx, params, shardings),
    )


def misplaced(tree: Any, shardings: Any, *, scalars: bool = True) -> list[str]:
    """Paths of the arrays that are not where they should be, with both shardings.

    Without `scalars` a step count may be on one device, where optax makes it outside jit; it is
    not bound to stay there.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [
        f"{jax.tree_util.keystr(path)}: {x.sharding} for {sharding}"
        for (path, x), sharding in zip(leaves, jax.tree.leaves(shardings), strict=True)
        if (x.ndim or scalars) and not x.sharding.is_equivalent_to(sharding, x.ndim)
    ]
