"""How the parameters of the models here are split over the axes of a mesh.

    axis     parameters                                        batch
    data     replicated                                        split
    fsdp     one side of every matrix split                    split
    tensor   q, k, v, gate, up, head: the out side split;      replicated
             o, down: the in side (Megatron-LM, arXiv 1909.08053); embedding: the vocabulary

Of a layer's matrix, fsdp takes the larger side (of two equal ones, out): the low-rank optimizers
compress the smaller one (of two equal ones, in), and work along the larger one needs no more
communication than sums over it. Where tensor splits the same side, fsdp splits its parts further.

Left to itself, XLA often gathers the activations instead of the parameters that fsdp splits, or
gives up splitting the batch; `gather_where_read` decides it.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")

IN, OUT = -2, -1  # sides of a kernel (..., in, out)
OUT_SPLIT = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
IN_SPLIT = ("o_proj", "down_proj")


def partition_specs(params: Any, mesh: Mesh) -> Any:
    """The `PartitionSpec` of every parameter.

    An axis that the mesh does not have, or that does not divide the side it is meant for, splits
    nothing; fsdp then tries a matrix's other side.

    Args:
      params: the model's parameters, ``nnx.to_pure_dict(nnx.state(model, nnx.Param))``, or a
        tree of the same paths (gradients, shapes).
      mesh: with any of the axes data, fsdp and tensor; others are ignored.

    Returns:
      The same tree with a ``PartitionSpec`` of as many entries as the parameter has axes.

    Raises:
      ValueError: for a parameter that no rule covers, by its path.

    Example:
      >>> mesh = jax.sharding.AbstractMesh((4, 2), ("data", "fsdp"))
      >>> kernel = jax.ShapeDtypeStruct((12, 768, 2048), "float32")
      >>> partition_specs({"mlp": {"up_proj": {"kernel": kernel}}}, mesh)
      {'mlp': {'up_proj': {'kernel': P(None, None, 'fsdp')}}}
    """
    sizes = {axis: size for axis, size in mesh.shape.items() if size > 1}

    def spec(path: tuple[Any, ...], leaf: Any) -> PartitionSpec:
        names = [entry.key for entry in path]
        wishes = _wishes(names, leaf.shape)
        if wishes is None:
            raise ValueError(
                f"no partitioning rule covers the parameter {'/'.join(names)} {leaf.shape}; "
                "add one to models/partitioning.py"
            )
        return _fit(wishes, leaf.shape, sizes)

    return jax.tree_util.tree_map_with_path(spec, params)


def gather_where_read(model: nnx.Module, mesh: Mesh) -> None:
    """Makes a model gather each parameter that fsdp splits where it reads it, layer by layer.

    The gradient is split again where it arises. So the activations stay split by batch, and one
    layer's parameters at a time exist as a whole.

    Args:
      model: with its parameters, or their shapes; changed in place. What follows from it by
        ``nnx.split`` and ``nnx.merge`` does the same.
      mesh: that the computation runs on, of Auto axes.
    """
    specs = partition_specs(nnx.to_pure_dict(nnx.state(model, nnx.Param)), mesh)
    for path, variable in nnx.iter_graph(model):
        if isinstance(variable, nnx.Param):
            spec = functools.reduce(lambda tree, name: tree[name], path, specs)
            if "fsdp" in jax.tree.leaves(tuple(spec)):
                is_table = path[-1] == "embedding"
                variable.set_metadata(on_get_value=_Gather(mesh, spec, is_table))


@dataclasses.dataclass(frozen=True)
class _Gather:
    """Reads a parameter, or a layer's slice of a stacked one, gathered over fsdp.

    Attributes:
      mesh: as above.
      spec: of the stored parameter, with an entry for each of its axes.
      is_table: whether rows are looked up in it. XLA would split the gradients of the looked-up
        rows as the table is split, which moves them all, before it adds them up to the table's.
    """

    mesh: Mesh
    spec: PartitionSpec
    is_table: bool

    def __call__(self, variable: nnx.Variable, value: jax.Array) -> jax.Array:
        del variable
        entries = self.spec[len(self.spec) - value.ndim :]
        stored = NamedSharding(self.mesh, PartitionSpec(*entries))
        used = NamedSharding(self.mesh, PartitionSpec(*map(_without_fsdp, entries)))
        return _resharded(value, used, (used, stored) if self.is_table else (stored,))


def _without_fsdp(entry: Any) -> Any:
    """An entry of a spec without fsdp, which is the last where it is one of several."""
    return entry[0] if isinstance(entry, tuple) else None if entry == "fsdp" else entry


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _resharded(
    value: jax.Array, used: NamedSharding, gradient_shardings: tuple[NamedSharding, ...]
) -> jax.Array:
    """The value in one sharding; its gradient goes through others, one after the other."""
    del gradient_shardings
    return jax.lax.with_sharding_constraint(value, used)


def _resharded_forward(value: jax.Array, used: Any, gradient_shardings: Any) -> Any:
    return _resharded(value, used, gradient_shardings), None


def _resharded_backward(used: Any, gradient_shardings: Any, _: Any, gradient: Any) -> Any:
    del used
    for sharding in gradient_shardings:
        gradient = jax.lax.with_sharding_constraint(gradient, sharding)
    return (gradient,)


_resharded.defvjp(_resharded_forward, _resharded_backward)


def _wishes(names: list[str], shape: tuple[int, ...]) -> list[tuple[str, tuple[int, ...]]] | None:
    """(mesh axis, the sides that it may split, the preferred one first), or None if unknown."""
    kind, module = names[-1], names[-2] if len(names) > 1 else ""
    if kind == "scale":
        return []
    if kind == "bias" and module in OUT_SPLIT:
        return [("tensor", (OUT,))]
    if kind == "embedding":
        return [("tensor", (IN,)), ("fsdp", (OUT,))]
    if kind != "kernel":
        return None
    if module == "lm_head":
        return [("tensor", (OUT,)), ("fsdp", (IN,))]
    larger_first = (IN, OUT) if shape[IN] > shape[OUT] else (OUT, IN)
    if module in OUT_SPLIT:
        return [("tensor", (OUT,)), ("fsdp", larger_first)]
    if module in IN_SPLIT:
        return [("tensor", (IN,)), ("fsdp", larger_first)]
    return None


def _fit(
    wishes: list[tuple[str, tuple[int, ...]]], shape: tuple[int, ...], sizes: dict[str, int]
) -> PartitionSpec:
    """Grants each wish on the first side that the axis divides, beside what is there already."""
    granted: list[list[str]] = [[] for _ in shape]
    for axis, sides in wishes:
        for side in sides if axis in sizes else ():
            parts = math.prod(sizes[other] for other in granted[side]) * sizes[axis]
            if shape[side] % parts == 0:
                granted[side].append(axis)
                break
    return PartitionSpec(
        *(tuple(axes) if len(axes) > 1 else axes[0] if axes else None for axes in granted)
    )
