"""The residual axis: what happens to the part of the gradient outside the subspace.

A residual may add what it stored to the new coefficients before the subspace is chosen
(`accumulate`), and forms the step from the inner optimizer's direction and what was left over
(`finish`). All of it happens in the projection's domain (see `projections.base`).
"""

import abc
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from lowrank_optax.arguments import check_fraction, require_static
from lowrank_optax.linalg.quantization import dequantize, quantize
from lowrank_optax.matrices import MatrixSpec
from lowrank_optax.projections.base import Basis, Projection


@dataclasses.dataclass(frozen=True)
class Step:
    """What one matrix leaf knows when its step is formed.

    Attributes:
      projection: the projection.
      basis: its current basis.
      A: what was projected, in the domain, shape (..., m, n).
      a: its coordinates in the subspace, shape (..., m, r).
      u: the inner optimizer's scaled direction, shape (..., m, r).
      key: a random key, or None for a deterministic residual.
      moment_loss: what the transport of the first moment lost, m Pᵀ_previous − n Pᵀ in the domain,
        if the residual `uses_moment`.
    """

    projection: Projection
    basis: Basis
    A: Float[Array, "*batch m n"]
    a: Float[Array, "*batch p r"]
    u: Float[Array, "*batch p r"]
    key: PRNGKeyArray | None
    moment_loss: Float[Array, "*batch m n"] | None = None

    def lifted(self) -> Float[Array, "*batch m n"]:
        """u Pᵀ in weight space."""
        return self.projection.lift(self.u, self.basis, self.A.shape[-2:])

    def reweighted(self, inside: Any, outside: Any) -> Float[Array, "*batch m n"]:
        """A with its part inside and its part outside the subspace scaled, in the domain."""
        return self.projection.reweight(self.A, self.a, self.basis, inside, outside)


class Residual(abc.ABC):
    """Contract of the residual axis. Hashable and stateless.

    Attributes:
      stochastic: whether `finish` uses the step's key.
      uses_moment: whether `finish` uses the step's `moment_loss`.
    """

    stochastic: bool = False
    uses_moment: bool = False

    def init(self, spec: MatrixSpec, dtype: Any) -> Any:
        """State for one leaf: arrays, or () for none."""
        del spec, dtype
        return ()

    def accumulate(self, S: Float[Array, "*batch m n"], state: Any) -> Float[Array, "*batch m n"]:
        """What to project, given the new coefficients S and what is stored."""
        del state
        return S

    @abc.abstractmethod
    def finish(self, step: Step, state: Any) -> tuple[Float[Array, "*batch m n"], Any]:
        """The step in weight space, and the new state."""


@dataclasses.dataclass(frozen=True)
class Discard(Residual):
    """Drop it; build with `residuals.discard`."""

    def finish(self, step: Step, state: Any) -> tuple[Float[Array, "*batch m n"], Any]:
        """u Pᵀ."""
        return step.lifted(), state


@dataclasses.dataclass(frozen=True)
class Momentum(Residual):
    """Keep it in a momentum; build with `residuals.momentum`."""

    inside: Any
    outside: Any
    dtype: Any

    def init(self, spec: MatrixSpec, dtype: Any) -> Float[Array, "*batch m n"]:
        """Zeros."""
        return jnp.zeros((*spec.batch, spec.m, spec.n), self.dtype or dtype)

    def accumulate(self, S: Float[Array, "*batch m n"], state: Any) -> Float[Array, "*batch m n"]:
        """M + S."""
        return S + state.astype(S.dtype)

    def finish(self, step: Step, state: Any) -> tuple[Float[Array, "*batch m n"], Any]:
        """u Pᵀ, and the decayed momentum."""
        return step.lifted(), step.reweighted(self.inside, self.outside).astype(state.dtype)


@dataclasses.dataclass(frozen=True)
class ErrorFeedback(Residual):
    """Add it to the next gradient, quantised; build with `residuals.error_feedback`."""

    bits: int
    block_size: int
    stochastic: bool

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
        error = step.reweighted(0.0, 1.0)
        key = step.key if self.stochastic else None
        stored = quantize(error, bits=self.bits, block_size=self.block_size, key=key)
        return step.lifted(), stored


def discard() -> Residual:
    """Drop the part outside the subspace, as GaLore does: the step is u Pᵀ.

    Example:
      >>> import lowrank_optax as lro
      >>> lro.residuals.discard()
      Discard()
    """
    return Discard()


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
      >>> lro.residuals.momentum(0.9)
      Momentum(inside=0.9, outside=1.0, dtype=None)
    """
    check_fraction("momentum", decay)
    check_fraction("residual_decay", residual_decay)
    return Momentum(decay, residual_decay, dtype)


def error_feedback(
    bits: int | None = 8, *, block_size: int = 256, rounding: str = "nearest"
) -> Residual:
    """Add the part outside the subspace to the next gradient: E ← A − A P Pᵀ with A = G + E.

    It is stored in the projection's domain, where for a fixed basis the chosen columns are zero.

    Args:
      bits: 8 or 4 for block-wise quantisation between each block's least and largest entry; 32 or
        None to store it unquantised in the computing dtype.
      block_size: entries of a row that share one range.
      rounding: "nearest" or "stochastic" (unbiased; needs a random key in the state).

    Raises:
      ValueError: if an argument is unknown.

    Reference:
      arXiv 2505.17967, algorithm 2.

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
        return Unquantized(0.0, 1.0, None)
    return ErrorFeedback(bits, block_size, rounding == "stochastic")


class Unquantized(Momentum):
    """Error feedback is a momentum whose applied part is forgotten, kept in computing precision."""

    def init(self, spec: MatrixSpec, dtype: Any) -> Float[Array, "*batch m n"]:
        """Zeros in at least float32."""
        return super().init(spec, jnp.promote_types(dtype, jnp.float32))
