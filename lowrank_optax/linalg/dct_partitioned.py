"""The DCT of arrays that are spread over devices.

XLA gathers the operand of an FFT whole onto every device, whichever axes are split (JAX 0.10 and
0.12), and sums whole partial products where the transformed axis of a matrix product is split. The
transform is made one operation here, which tells the compiler how to split it: every device
transforms the rows that it has. If the transformed axis itself is split, the devices that share
rows exchange them (all-to-all), so that each transforms some of the rows whole, and exchange the
coefficients back; nothing is gathered.

Such an operation has no rule of JAX's for `vmap` or derivatives, so it is a primitive: all axes but
the last are batch axes, and an orthogonal map is linear, with its inverse as its transpose.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.custom_partitioning import custom_partitioning
from jax.extend.core import Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jaxtyping import Array, DTypeLike, Float

from lowrank_optax.sharding.types import axes_of, shards, typed_spec

Transform = Callable[[Array], Array]


def partitioned_transform(
    x: Float[Array, "*rows n"], transform: Transform, inverse: Transform
) -> Float[Array, "*rows n"]:
    """`transform(x)` of an orthogonal map of the last axis, never gathered.

    Args:
        x: real floating array, sharded in any way. Not for the inside of a `jax.shard_map` with
            some axes left automatic.
        transform: the map on one device, from (*rows, n) to the same shape and dtype.
        inverse: its inverse, and so its transpose.

    Returns:
        The coefficients, with x's shape, dtype and sharding.

    >>> import jax, jax.numpy as jnp
    >>> from lowrank_optax.linalg.dct_fft import fft_dct, fft_idct
    >>> x = jnp.arange(6.0).reshape(2, 3)
    >>> y = jax.jit(lambda x: partitioned_transform(x, fft_dct, fft_idct))(x)
    >>> bool(jnp.allclose(y, fft_dct(x), atol=1e-5))
    True
    """
    operation = custom_partitioning(_local(transform, inverse))
    operation.def_partition(_partition_rule(transform, inverse), sharding_rule="... n -> ... n")
    split = jax.make_jaxpr(operation)(jax.ShapeDtypeStruct(x.shape, x.dtype))
    return _dct_p.bind(x, transform=transform, inverse=inverse, split=split)


# The parameter `split` is the jaxpr of the operation that the compiler splits: JAX looks for
# custom_partitioning in a program's jaxprs to know that lowering it takes the devices. With
# split=None the primitive is the transform on one device, traced as one operation and written out
# only when it is lowered, for custom_partitioning takes no function with constants (the twiddles),
# and so that the types of split arrays never meet the slices of the FFT form.
_dct_p = Primitive("lowrank_optax_dct")


def _local(transform: Transform, inverse: Transform) -> Transform:
    return lambda x: _dct_p.bind(x, transform=transform, inverse=inverse, split=None)


def _partition_rule(transform: Transform, inverse: Transform) -> Callable[..., tuple[Any, ...]]:
    local = _local(transform, inverse)

    def partition(mesh: Mesh, operands: tuple[Any], result: Any) -> tuple[Any, ...]:
        """What one device does, and how operand and result are split then: both as it came."""
        del result
        (x,) = operands
        axes: tuple[str, ...] = ()
        sharding = x.sharding
        if mesh.empty:  # no array of the program has a place, so nothing splits this one
            assert sharding.is_fully_replicated
        else:
            spec = typed_spec(x)
            axes = axes_of(spec[-1])
            sharding = NamedSharding(mesh, spec)

        def on_one_device(part: Array) -> Array:
            # Compiling may happen under `jax.set_mesh`, whose shardings mean nothing here.
            with jax.sharding.use_abstract_mesh(AbstractMesh((), ())), _wide_if(part.dtype):
                if not axes:
                    return local(part)
                return _with_whole_rows(local, part, x.shape[-1], axes, shards(mesh, axes))

        return mesh, on_one_device, sharding, (sharding,)

    return partition


def _with_whole_rows(
    transform: Transform, part: Array, n: int, axes: tuple[str, ...], devices: int
) -> Array:
    """Transforms rows of which every device has a part, and returns this device's part.

    Args:
        transform: of the last axis.
        part: this device's part of the rows, of length ceil(n / devices), padded at the end.
        n: length of the last axis.
        axes: mesh axes that split the last axis.
        devices: how many parts they make.
    """
    length = part.shape[-1]
    rows = part.reshape(-1, length)
    count = rows.shape[0]
    # Rows of zeros make up a multiple of the devices: n numbers at most for each of them. (A gather
    # sends less for a lone row only, and XLA's CPU backend fails where it lays one out for an FFT.)
    rows = jnp.pad(rows, [(0, -count % devices), (0, 0)])
    whole = lax.all_to_all(rows, axes, split_axis=0, concat_axis=1, tiled=True)
    transformed = jnp.pad(transform(whole[:, :n]), [(0, 0), (0, devices * length - n)])
    mine = lax.all_to_all(transformed, axes, split_axis=1, concat_axis=0, tiled=True)[:count]
    return mine.reshape(part.shape)


@_dct_p.def_abstract_eval
def _same_type(x: Any, **parameters: Any) -> Any:
    """Also the same sharding, under `Explicit` mesh axes."""
    del parameters
    return x


@_dct_p.def_impl
def _evaluated(x: Array, **parameters: Any) -> Array:
    return jax.jit(lambda x: _dct_p.bind(x, **parameters))(x)


def _transposed(
    cotangent: Array, x: Any, *, transform: Transform, inverse: Transform, split: Any
) -> tuple[Array]:
    del x, split
    return (partitioned_transform(cotangent, inverse, transform),)


def _batched(
    operands: tuple[Array],
    axes: tuple[int],
    *,
    transform: Transform,
    inverse: Transform,
    split: Any,
) -> tuple[Array, int]:
    (x,), (axis,) = operands, axes
    del split
    return partitioned_transform(jnp.moveaxis(x, axis, 0), transform, inverse), 0


def _lowered(
    context: mlir.LoweringRuleContext,
    x: Any,
    *,
    transform: Transform,
    inverse: Transform,
    split: Any,
) -> Any:
    del inverse
    function = transform if split is None else jaxpr_as_fun(split)
    operand: Any = context.avals_in[0]
    with _wide_if(operand.dtype):
        return mlir.lower_fun(function, multiple_results=split is not None)(context, x)


def _wide_if(dtype: DTypeLike) -> AbstractContextManager[Any]:
    """Allows 64 bits where they are there: the compiler asks for the parts in a thread of its own,
    outside of a caller's `jax.enable_x64`."""
    return jax.enable_x64(jnp.dtype(dtype).itemsize == 8)


ad.deflinear2(_dct_p, _transposed)
batching.primitive_batchers[_dct_p] = _batched
mlir.register_lowering(_dct_p, _lowered)
