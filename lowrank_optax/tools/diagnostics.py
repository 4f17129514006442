"""How well a subspace holds a matrix."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lowrank_optax.axes.projections.base import Basis, Choice, Projection, Subspace
from lowrank_optax.linalg.devices import matrix_by_matrix
from lowrank_optax.linalg.precision import at_least_float32, wide_dtype
from lowrank_optax.linalg.products import product

__all__ = [
    "captured_energy",
    "projection_error",
    "subspace_overlap",
    "update_spectrum",
]


def captured_energy(
    matrix: Float[Array, "*batch n m"], projection: Projection, basis: Basis | None = None
) -> Float[Array, "*batch"]:
    """Share of a matrix's energy inside the subspace: ‖Pᵀ A‖² / ‖A‖² in the Frobenius norm.

    It lies in [0, 1], and is 1 for a zero matrix, of which nothing is lost.

    Args:
      matrix: A, shape (..., n, m), with the compressed axis second-to-last
        (`MatrixSpec.to_matrix`).
      projection: from `projections`.
      basis: the basis to use, as stored in an optimizer's state; None to choose one for A.

    Raises:
      ValueError: if there is no basis, and the projection does not choose one by A alone.

    Reference:
      arXiv 2505.17967, section 4.

    Example:
      >>> import jax.numpy as jnp
      >>> import lowrank_optax as lro
      >>> A = jnp.ones((4, 6))  # constant columns: the first DCT column holds all of it
      >>> round(float(lro.diagnostics.captured_energy(A, lro.projections.dct(rank=1))), 4)
      1.0
    """
    A, subspace = _analyzed(matrix, projection, basis)
    inside = jnp.sum(jnp.square(subspace.project(A)), axis=(-2, -1))
    total = jnp.sum(jnp.square(A), axis=(-2, -1))
    return jnp.where(total > 0, inside / jnp.where(total > 0, total, 1), 1.0)


def projection_error(
    matrix: Float[Array, "*batch n m"], projection: Projection, basis: Basis | None = None
) -> Float[Array, "*batch"]:
    """Relative error of the projection onto the subspace: ‖A − P Pᵀ A‖ / ‖A‖, Frobenius norm.

    It lies in [0, 1], and is 0 for a zero matrix.

    Args:
      matrix, projection, basis: as for `captured_energy`, and what is raised.

    Reference:
      arXiv 2505.17967, figure 1.

    Example:
      >>> import jax.numpy as jnp
      >>> import lowrank_optax as lro
      >>> A = jnp.eye(4)
      >>> round(float(lro.diagnostics.projection_error(A, lro.projections.dct(rank=1))), 4)
      0.866
    """
    A, subspace = _analyzed(matrix, projection, basis)
    left = subspace.reweight(A, subspace.project(A), 0.0, 1.0)
    total = jnp.sum(jnp.square(A), axis=(-2, -1))
    share = jnp.sum(jnp.square(left), axis=(-2, -1)) / jnp.where(total > 0, total, 1)
    return jnp.sqrt(share)


def subspace_overlap(
    U: Float[Array, "*batch n r"], V: Float[Array, "*batch n r"]
) -> Float[Array, "*batch"]:
    """How much two r-dimensional subspaces share: ‖Uᵀ V‖² / r in the Frobenius norm.

    It is 1 for equal subspaces and 0 for orthogonal ones.

    Args:
      U, V: orthonormal bases in columns, shape (..., n, r); of a fixed basis, its
        `FixedBasis.columns`.

    Reference:
      I3S, equation 3.

    Example:
      >>> import jax.numpy as jnp
      >>> import lowrank_optax as lro
      >>> I = jnp.eye(4)
      >>> float(lro.diagnostics.subspace_overlap(I[:, :2], I[:, 1:3]))
      0.5
    """
    return jnp.sum(jnp.square(product(U.mT, V)), axis=(-2, -1)) / U.shape[-1]


def update_spectrum(update: Float[Array, "*batch m n"]) -> Float[Array, "*batch k"]:
    """Singular values of an update, largest first, as shares of the largest; zeros for none.

    Args:
      update: shape (..., m, n); the result has the shape (..., min(m, n)).

    Example:
      >>> import jax.numpy as jnp
      >>> import lowrank_optax as lro
      >>> lro.diagnostics.update_spectrum(jnp.diag(jnp.array([1.0, 4.0]))).tolist()
      [1.0, 0.25]
    """
    values = matrix_by_matrix(jnp.linalg.svdvals, at_least_float32(update))
    largest = values[..., :1]
    return values / jnp.where(largest > 0, largest, 1)


def _analyzed(
    matrix: Float[Array, "*batch n m"], projection: Projection, basis: Basis | None
) -> tuple[Float[Array, "*batch n m"], Subspace]:
    """The matrix in the projection's domain, and the subspace of a basis, or one chosen for it."""
    A = projection.analyze(matrix, wide_dtype(matrix.dtype))
    if basis is None:
        if projection.uses_moment:
            raise ValueError(
                f"{projection} follows an inner optimizer's first moment as well, so that none is "
                "chosen for a matrix alone; pass basis=, as stored in the optimizer's state."
            )
        rank, key = projection.rank_of(*A.shape[-2:]), jax.random.key(0)
        start = projection.init(A.shape, rank, A.dtype, key)
        choice = Choice(A, start, rank, key, count=jnp.zeros((), jnp.int32))
        basis = projection.refresh(choice)
    return A, projection.subspace(basis, A.shape)
