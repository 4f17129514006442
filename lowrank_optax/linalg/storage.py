"""How an array that is kept from step to step is stored: in a dtype, or in blocks of few bits."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from lowrank_optax.linalg.arguments import require_count
from lowrank_optax.linalg.codes import BITS
from lowrank_optax.linalg.precision import wide_dtype
from lowrank_optax.linalg.quantization import dequantize, quantize, quantized_zeros


@dataclasses.dataclass(frozen=True)
class Storage:
    """A way to store matrices (..., n, m); build it with `storage`.

    Attributes:
      dtype: a key of `BITS`, a floating dtype, or None for what comes, but at least float32.
      block_size: entries of the second-to-last axis that share one scale.
      stochastic: whether integers are rounded at random, right on average.
    """

    dtype: Any
    block_size: int
    stochastic: bool

    @property
    def is_quantized(self) -> bool:
        """Whether it is stored in integers."""
        return isinstance(self.dtype, str) and self.dtype in BITS

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Zeros of a shape, for arrays of a dtype, as they are stored."""
        wide = wide_dtype(dtype)
        if self.is_quantized:
            return quantized_zeros(
                shape, self.dtype, axis=-2, block_size=self.block_size, dtype=wide
            )
        return jnp.zeros(shape, self.dtype or wide)

    def pack(self, x: Float[Array, "*batch n m"], key: PRNGKeyArray | None = None) -> Any:
        """What is stored for x; the key is used by stochastic rounding."""
        if self.is_quantized:
            key = key if self.stochastic else None
            return quantize(x, self.dtype, axis=-2, block_size=self.block_size, key=key)
        return x.astype(self.dtype or wide_dtype(x.dtype))

    def unpack(self, stored: Any, size: int, dtype: Any) -> Float[Array, "*batch n m"]:
        """What was stored, in a dtype; `size` is its n."""
        if self.is_quantized:
            return dequantize(stored, size=size, axis=-2, dtype=dtype, storage=self.dtype)
        return stored.astype(dtype)


def storage(dtype: Any = None, *, block_size: int = 256, rounding: str = "nearest") -> Storage:
    """How to store a moment or a momentum, for every argument `mu_dtype`.

    Args:
      dtype: "int8", "int4" or "int2" for block-wise quantisation, in which zero is exact; "sign"
        for one bit an entry and the mean magnitude of a block, which zeros come back as too (not
        for matrices with rows that get no gradient); a floating dtype; or None for the parameter's,
        but at least float32. A `Storage` is returned as it is.
      block_size: entries along the compressed side that share one scale.
      rounding: of integers, "nearest" or "stochastic" (unbiased; in 2 bits with errors of the
        entries' own size); signs know only the first.

    Raises:
      TypeError, ValueError: if an argument is unknown or out of range.

    Example:
      >>> import lowrank_optax as lro
      >>> tx = lro.tandem(0.02, mu_dtype=lro.storage("int8", rounding="stochastic"))
    """
    if isinstance(dtype, Storage):
        return dtype
    if rounding not in ("nearest", "stochastic"):
        raise ValueError(f"rounding={rounding!r} is unknown; use 'nearest' or 'stochastic'.")
    require_count("block_size", block_size)
    stored = Storage(dtype, block_size, rounding == "stochastic")
    if dtype is not None and not stored.is_quantized and not _is_floating(dtype):
        raise ValueError(
            f"mu_dtype={dtype!r} must be one of {[*BITS]}, a floating type, or None for the "
            "parameters' type, but at least float32."
        )
    if dtype == "sign" and stored.stochastic:
        raise ValueError("rounding='stochastic' is for integers; signs are rounded to nearest.")
    return stored


def _is_floating(dtype: Any) -> bool:
    try:
        return jnp.issubdtype(jnp.dtype(dtype), jnp.floating)
    except TypeError:
        return False
