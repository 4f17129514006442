"""Adam with moments of one byte per entry."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Int

from lowrank_optax.core.trees import in_own_structure
from lowrank_optax.linalg.arguments import check_b2, check_fraction, require_count, require_static
from lowrank_optax.linalg.devices import mesh_of, typed_spec
from lowrank_optax.linalg.dynamic_quantization import (
    Quantized8,
    dequantize_dynamic,
    quantize_dynamic,
)
from lowrank_optax.linalg.precision import at_least_float32, wide_dtype
from lowrank_optax.sharding.regions import initialise, run_in_auto


class ScaleByAdam8bitState(NamedTuple):
    """State of `scale_by_adam8bit`; leaves of the moments are `Quantized8` or float arrays."""

    count: Int[Array, ""]  # type: ignore[assignment]
    mu: Any  # first moments, in the signed map
    nu: Any  # second moments, in the unsigned map


def scale_by_adam8bit(
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    *,
    block_size: Any = 256,
    min_size: Any = 4096,
) -> optax.GradientTransformation:
    """Adam whose moments are stored in 8 bits, in blocks of the last axis.

    m ← b1 m + (1 − b1) g; v ← b2 v + (1 − b2) g²; the direction is m̂ / (√v̂ + eps), all in
    float32 (float64 for float64 leaves) and with Adam's bias correction; then m and v are rounded
    to codes of the dynamic map, scaled by each block's largest entry. An entry of an array of m
    columns, as low-rank ones (..., r, m) are, so takes 1 + 4 ⌈m / block_size⌉ / m bytes a moment.

    A second moment that rounded to zero beside a first moment that did not would be divided by
    little more than eps. With the published rounding this happens to entries whose gradients are
    some 2500 times smaller than the largest of their block, and directions of 10⁴ and more follow.
    Here a positive second moment rounds to the smallest code (3.3e-7 of the block's largest) at
    least: such entries take shorter steps than Adam's instead, and the direction stays bounded.

    Args:
      b1, b2: decays of the first and the second moment.
      eps: added to the square root of the corrected second moment; positive.
      block_size: largest number of entries that share a scale.
      min_size: arrays with fewer entries, or with one column, keep unquantised moments.

    Raises:
      TypeError: block_size is no int, or it or min_size came as a JAX array.
      ValueError: an argument is out of range.

    Reference:
      arXiv 2110.02861, algorithm 1 and section 2.
      Differs from the published code in that rounding, and as `quantize_dynamic` says.

    Example:
      >>> import jax.numpy as jnp
      >>> from lowrank_optax.transforms.adam8bit import scale_by_adam8bit
      >>> params = {"w": jnp.ones((64, 64)), "b": jnp.ones(64)}
      >>> tx = scale_by_adam8bit()
      >>> updates, state = tx.update(params, tx.init(params))
      >>> state.mu["w"].codes.dtype.name, state.mu["b"].dtype.name
      ('uint8', 'float32')
    """
    check_fraction("b1", b1)
    check_b2(b2)
    require_count("block_size", block_size)
    require_static("min_size", min_size)
    if min_size < 0:
        raise ValueError(f"min_size={min_size} must be at least 0.")
    if isinstance(eps, int | float) and eps <= 0:
        raise ValueError(
            f"eps={eps} must be positive: where all gradients were zero, it is what is divided by."
        )

    def zeros(leaf: Any, signed: bool) -> Any:
        x = jnp.zeros_like(leaf, dtype=wide_dtype(leaf.dtype))
        real = jnp.issubdtype(leaf.dtype, jnp.floating)
        if not real or math.prod(leaf.shape) < min_size or not leaf.shape or leaf.shape[-1] < 2:
            return x
        return quantize_dynamic(x, signed=signed, block_size=block_size)

    def start(params: Any) -> ScaleByAdam8bitState:
        mu = jax.tree.map(lambda leaf: zeros(leaf, True), params)
        nu = jax.tree.map(lambda leaf: zeros(leaf, False), params)
        return ScaleByAdam8bitState(jnp.zeros([], jnp.int32), mu, nu)

    def init(params: Any) -> ScaleByAdam8bitState:
        partitions = lambda state: _partitions(params, state)
        return initialise(start, params, mesh_of(params), partitions, constrain=False)

    def update(
        updates: Any, state: ScaleByAdam8bitState, params: Any = None
    ) -> tuple[Any, ScaleByAdam8bitState]:
        del params
        state = in_own_structure(state, updates, start)
        # To cut an axis that is split into blocks is no reshape that Explicit mesh axes know.
        specs = lambda: jax.tree.map(typed_spec, (updates, state))
        return run_in_auto(_update, specs, mesh_of(updates), updates, state, b1, b2, eps)

    return optax.GradientTransformation(init, update)


def _update(
    updates: Any, state: ScaleByAdam8bitState, b1: Any, b2: Any, eps: Any
) -> tuple[Any, ScaleByAdam8bitState]:
    moments = optax.ScaleByAdamState(
        state.count, read_moments(state.mu, signed=True), read_moments(state.nu, signed=False)
    )
    wide = jax.tree.map(at_least_float32, updates)
    directions, moments = optax.scale_by_adam(b1, b2, eps).update(wide, moments)
    return optax.tree.cast_like(directions, updates), ScaleByAdam8bitState(
        moments.count,
        store_moments(moments.mu, state.mu, signed=True),
        store_moments(moments.nu, state.nu, signed=False),
    )


def _partitions(params: Any, state: Any) -> Any:
    """Moments are split as the parameters are; of the scales, the axis of blocks is whole."""

    def of(leaf: Any, stored: Any) -> Any:
        spec = typed_spec(leaf)
        if not _is_quantized(stored):
            return spec
        return stored._replace(codes=spec, largest=PartitionSpec(*spec[:-1], None))

    moments = lambda stored: jax.tree.map(of, params, stored)
    return state._replace(count=PartitionSpec(), mu=moments(state.mu), nu=moments(state.nu))


def read_moments(stored: Any, *, signed: bool) -> Any:
    """A tree of moments with every quantised one as an array; first moments are signed."""
    read = lambda x: dequantize_dynamic(x, signed=signed) if _is_quantized(x) else x
    return jax.tree.map(read, stored, is_leaf=_is_quantized)


def store_moments(moments: Any, stored: Any, *, signed: bool) -> Any:
    """Arrays in the storage of another tree: quantised where that is, in the same blocks."""

    def store(x: Array, old: Any) -> Any:
        if not _is_quantized(old):
            return x.astype(old.dtype)
        # The length of its blocks is the block size of as many.
        length = -(-x.shape[-1] // old.largest.shape[-1])
        return quantize_dynamic(x, signed=signed, block_size=length)

    return jax.tree.map(store, moments, stored)


def _is_quantized(node: Any) -> bool:
    return isinstance(node, Quantized8)
