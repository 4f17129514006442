"""Residuals that remember: the momentum of Dion and Trion, and error feedback."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lowrank_optax.axes.residuals.base import Residual, Step
from lowrank_optax.core.matrices import MatrixSpec
from lowrank_optax.linalg.arguments import check_fraction, require_static
from lowrank_optax.linalg.quantization import dequantize, quantize


@dataclasses.dataclass(frozen=True)
class Momentum(Residual):
    """Keep it in a momentum; build with `residuals.momentum` or `residuals.error_feedback`."""

    inside: Any
    outside: Any
    dtype: Any
    moment_decay: Any = None

    stores_matrix = True

    @property
    def uses_moment(self) -> bool:  # type: ignore[override]
        """Whether the transport's loss is fed back too."""
        return self.moment_decay is not None

    def init(self, spec: MatrixSpec, dtype: Any) -> Float[Array, "*batch m n"]:
        """Zeros."""
        return jnp.zeros((*spec.batch, spec.m, spec.n), self.dtype or dtype)

    def accumulate(self, S: Float[Array, "*batch m n"], state: Any) -> Float[Array, "*batch m n"]:
        """M + S."""
        return S + state.astype(S.dtype)

    def finish(self, step: Step, state: Any) -> tuple[Float[Array, "*batch m n"], Any]:
        """u Pᵀ, and the decayed momentum."""
        left = step.reweighted(self.inside, self.outside) + _moment_error(step, self.moment_decay)
        return step.lifted(), left.astype(state.dtype)


class Unquantized(Momentum):
    """Error feedback is a momentum whose applied part is forgotten, kept in computing precision."""

    def init(self, spec: MatrixSpec, dtype: Any) -> Float[Array, "*batch m n"]:
        """Zeros in at least float32."""
        return super().init(spec, jnp.promote_types(dtype, jnp.float32))


@dataclasses.dataclass(frozen=True)
class ErrorFeedback(Residual):
    """Add it to the next gradient, quantised; build with `residuals.error_feedback`."""

    bits: int
    block_size: int
    stochastic: bool
    moment_decay: Any = None

    stores_matrix = True

    @property
    def uses_moment(self) -> bool:  # type: ignore[override]
        """Whether the transport's loss is fed back too."""
        return self.moment_decay is not None

    def init(self, spec: MatrixSpec, dtype: Any) -> Any:
        """Quantised zeros, which are all zeros; computed, XLA would fold them at great length."""
        del dtype
        zeros = jax.ShapeDtypeStruct((*spec.batch, spec.m, spec.n), jnp.float32)
        stored = jax.eval_shape(
            lambda x: quantize(x, bits=self.bits, block_size=self.block_size), zeros
        )
        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), stored)

    def accumulate(self, S: Float[Array, "*batch m n"], state: Any) -> Float[Array, "*batch m n"]:
        """S + E."""
        return S + dequantize(
            state, size=S.shape[-1], bits=self.bits, block_size=self.block_size, dtype=S.dtype
        )

    def finish(self, step: Step, state: Any) -> tuple[Float[Array, "*batch m n"], Any]:
        """u Pᵀ, and what the subspace left over."""
        error = step.reweighted(0.0, 1.0) + _moment_error(step, self.moment_decay)
        key = step.key if self.stochastic else None
        stored = quantize(error, bits=self.bits, block_size=self.block_size, key=key)
        return step.lifted(), stored


def _moment_error(step: Step, b1: Any) -> Any:
    """b1 / (1 − b1) times what the first moment lost in transport; 0 if that is not fed back."""
    return 0.0 if b1 is None else b1 / (1 - b1) * step.moment_loss


def momentum(decay: Any = 0.95, residual_decay: Any = 1.0, dtype: Any = None) -> Residual:
    """Keep the part outside the subspace in a momentum, as Dion and Trion do.

    M ← M + G; the subspace is chosen for M; then the chosen part is multiplied by `decay` and the
    rest by `residual_decay`: M ← residual_decay (M − M P Pᵀ) + decay M P Pᵀ.

    Args:
      decay: μ, the decay of the part that was applied.
      residual_decay: decay of the part that was not; 1 as published.
      dtype: dtype of the momentum; None for the parameter's.

    Raises:
      ValueError: if a decay lies outside [0, 1].

    Reference:
      arXiv 2504.05295, algorithm 1; arXiv 2505.17967, algorithm 1.

    Example:
      >>> import lowrank_optax as lro
      >>> lro.residuals.momentum(0.9).inside
      0.9
    """
    check_fraction("momentum", decay)
    check_fraction("residual_decay", residual_decay)
    return Momentum(decay, residual_decay, dtype)


def error_feedback(
    bits: int | None = 8,
    *,
    block_size: int = 256,
    rounding: str = "nearest",
    moment_decay: Any = None,
) -> Residual:
    """Add the part outside the subspace to the next gradient: E ← A − A P Pᵀ with A = G + E.

    It is stored in the projection's domain, where for a fixed basis the chosen columns are zero.

    Args:
      bits: 8 or 4 for block-wise quantisation between each block's least and largest entry; 32 or
        None to store it unquantised in the computing dtype.
      block_size: entries of a row that share one range.
      rounding: "nearest" or "stochastic" (unbiased; needs a random key in the state).
      moment_decay: β₁ of the inner Adam, to feed back β₁ / (1 − β₁) times what the transport of its
        first moment lost as well, as LDAdam does; None not to.

    Raises:
      ValueError: if an argument is unknown.

    Reference:
      arXiv 2505.17967, algorithm 2; arXiv 2410.16103, algorithm 1, for `moment_decay`.

    Example:
      >>> import lowrank_optax as lro
      >>> lro.residuals.error_feedback(4).bits
      4
    """
    require_static("error_feedback", bits)
    if bits not in (None, 32, 8, 4):
        raise ValueError(f"bits={bits!r} is not offered for error feedback; use 8, 4, 32 or None.")
    if rounding not in ("nearest", "stochastic"):
        raise ValueError(f"rounding={rounding!r} is unknown; use 'nearest' or 'stochastic'.")
    if bits is None or bits == 32:
        return Unquantized(0.0, 1.0, None, moment_decay)
    return ErrorFeedback(bits, block_size, rounding == "stochastic", moment_decay)
