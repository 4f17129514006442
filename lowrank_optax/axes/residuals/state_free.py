"""Residuals that step along what is left over, without remembering any of it."""

import abc
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from lowrank_optax.axes._value import axis_value
from lowrank_optax.axes.residuals.base import Residual, Step
from lowrank_optax.linalg.arguments import require_count
from lowrank_optax.linalg.newton_schulz import MUON
from lowrank_optax.transforms.orthonormalize import orthonormalizer


class StateFree(Residual):
    """Step along a matrix that is made of what is left over alone."""

    scale: Any

    @abc.abstractmethod
    def rest(self, E: Float[Array, "*batch n m"]) -> Float[Array, "*batch n m"]:
        """The step outside the subspace, in the domain."""

    def finish(self, step: Step, state: Any) -> tuple[Float[Array, "*batch n m"], Any]:
        """scale_engine · (P u + scale · rest(E)); on a whole fixed basis, with no rest, P u."""
        if step.subspace.is_exact and step.a.shape == step.A.shape:
            return step.lifted(), state
        return step.with_rest(self.rest(step.outside()), self.scale), state


@axis_value("scale")
class Orthonormal(StateFree):
    """Step along it, orthonormalised block by block; build with `residuals.orthonormal`."""

    blocks: int
    scale: Any
    ns_steps: int
    ns_coeffs: Any

    def rest(self, E: Float[Array, "*batch n m"]) -> Float[Array, "*batch n m"]:
        """Every block of rows orthonormalised."""
        *batch, n, m = E.shape
        blocks = min(self.blocks, n)
        missing = -n % blocks
        E = jnp.pad(E, [*[(0, 0)] * len(batch), (0, missing), (0, 0)])
        parts = E.reshape(*batch, blocks, -1, m)
        parts = orthonormalizer(self.ns_steps, self.ns_coeffs)(parts)
        return parts.reshape(*batch, n + missing, m)[..., :n, :]


@axis_value("scale")
class Sinkhorn(StateFree):
    """Step along it with rows and columns of equal lengths; build with `residuals.sinkhorn`."""

    rounds: int
    scale: Any

    def rest(self, E: Float[Array, "*batch n m"]) -> Float[Array, "*batch n m"]:
        """Columns and rows normalised in turn."""
        n, m = E.shape[-2:]
        for _ in range(self.rounds):
            E = _normalized(E, -2) * (n / m) ** 0.5
            E = _normalized(E, -1)
        return E


def _normalized(E: Float[Array, "*batch n m"], axis: int) -> Float[Array, "*batch n m"]:
    """Vectors along an axis at length 1; those of zeros stay zero."""
    # Scaled first, so that the squares of tiny gradients do not underflow.
    largest = jnp.max(jnp.abs(E), axis=axis, keepdims=True)
    E = E / jnp.where(largest > 0, largest, 1)
    norms = jnp.linalg.norm(E, axis=axis, keepdims=True)
    return E / jnp.where(norms > 0, norms, 1)


def orthonormal(
    blocks: Any = 4, scale: Any = 1.0, *, ns_steps: int = 5, ns_coeffs: Any = MUON
) -> Residual:
    """Step along the part outside the subspace, orthonormalised in blocks of the compressed axis.

    E = A − P Pᵀ A is cut into blocks of n / blocks rows (of the projection's domain), and each is
    replaced by the nearest matrix with orthonormal rows, by Newton–Schulz on its Gram matrix:
    blocks · (n / blocks)² numbers in place of n². Nothing is remembered. The step is
    scale_engine · (P u + scale · orth(E)).

    Args:
      blocks: number of blocks, at least 1 and at most n; rows that are missing from the last one
        are zeros.
      scale: length of this part's step relative to the subspace's.
      ns_steps, ns_coeffs: of Newton–Schulz, as for `transforms.orthonormalize`.

    Raises:
      TypeError, ValueError: if `blocks` is no positive int, or Newton–Schulz cannot be so.

    Reference:
      arXiv 2412.13148 (SWAN) orthonormalises the whole gradient, without state and in one block.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import lowrank_optax as lro
      >>> tx = lro.scale_by_low_rank(
      ...     lro.transforms.orthonormalize(),
      ...     lro.projections.identity(1),
      ...     residual=lro.residuals.orthonormal(blocks=2),
      ... )
      >>> params = {"w": jnp.ones((4, 8))}
      >>> tx.update(params, tx.init(params))[0]["w"].shape
      (4, 8)
    """
    require_count("blocks", blocks)
    orthonormalizer(ns_steps, ns_coeffs)  # what is wrong with them is said here
    return Orthonormal(blocks, scale, ns_steps, ns_coeffs)


def sinkhorn(rounds: int = 3, scale: Any = 1.0) -> Residual:
    """Step along the part outside the subspace, with its columns and rows normalised in turn.

    Every round divides the m columns by their lengths and then the n rows by theirs; in the end the
    rows have length 1, as those of an orthonormal step have, and the columns nearly √(n/m). Nothing
    is remembered. The step is scale_engine · (P u + scale · E).

    Args:
      rounds: how often, at least 1.
      scale: length of this part's step relative to the subspace's.

    Raises:
      TypeError, ValueError: if `rounds` is no positive int.

    Reference:
      arXiv 2502.06742 (SinkGD), where the whole gradient is the rest.

    Example:
      >>> import lowrank_optax as lro
      >>> lro.residuals.sinkhorn(rounds=5)
      Sinkhorn(rounds=5, scale=1.0)
    """
    require_count("rounds", rounds)
    return Sinkhorn(rounds, scale)
