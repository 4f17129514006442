"""Residuals that remember: the momentum of Trion, and error feedback."""

from typing import Any

from jaxtyping import Array, Float

from lowrank_optax.axes._value import axis_value
from lowrank_optax.axes.moments import require_first_moment
from lowrank_optax.axes.projections.base import Shape, Subspace
from lowrank_optax.axes.projections.fixed import FixedBasis
from lowrank_optax.axes.residuals.base import Projected, Residual
from lowrank_optax.linalg.arguments import check_fraction
from lowrank_optax.linalg.storage import Storage
from lowrank_optax.linalg.storage import storage as as_storage

STORAGES = ("int8", "int4", "float32")


@axis_value("inside", "outside")
class Momentum(Residual):
    """Keep it in a momentum; build with `residuals.momentum`."""

    inside: Any
    outside: Any
    storage: Storage
    nesterov: bool = False

    def init(self, shape: Shape, dtype: Any) -> Any:
        """Zeros, as they are stored: undecayed sums would stall in bfloat16."""
        return self.storage.zeros(shape, dtype)

    def accumulate(
        self, S: Float[Array, "*batch n m"], state: Any, previous: Subspace
    ) -> Float[Array, "*batch n m"]:
        """M + S, with M decayed by parts."""
        M = self.storage.unpack(state, S.shape[-2], S.dtype)
        return S + previous.restore(M, self.inside, self.outside)

    def ahead(
        self, A: Float[Array, "*batch n m"], S: Float[Array, "*batch n m"]
    ) -> Float[Array, "*batch n m"]:
        """μ M + S with Nesterov's momentum, else M."""
        return self.inside * A + S if self.nesterov else A

    def keep(self, projected: Projected, state: Any) -> Any:
        """The momentum, decayed now or when it is next used."""
        A, a, subspace = projected.A, projected.a, projected.subspace
        return self.storage.pack(subspace.store(A, a, self.inside, self.outside), projected.key)

    def check(self, parts: Any) -> None:
        """With Nesterov the coordinates are not those of M, by which a learned basis decays M."""
        _check_orthogonal(self, parts)
        if self.nesterov and not isinstance(parts.projection, FixedBasis):
            raise ValueError(
                f"nesterov=True needs a fixed basis, such as projections.dct, not "
                f"{parts.projection}."
            )


@axis_value("moment_decay")
class ErrorFeedback(Residual):
    """Add it to the next gradient; build with `residuals.error_feedback`."""

    storage: Storage
    moment_decay: Any = None

    def init(self, shape: Shape, dtype: Any) -> Any:
        """Zeros."""
        return self.storage.zeros(shape, dtype)

    def accumulate(
        self, S: Float[Array, "*batch n m"], state: Any, previous: Subspace
    ) -> Float[Array, "*batch n m"]:
        """S + E."""
        del previous
        return S + self.storage.unpack(state, S.shape[-2], S.dtype)

    def keep(self, projected: Projected, state: Any) -> Any:
        """What the subspace left over, and β₁ / (1 − β₁) times what the moment lost."""
        if self.moment_decay is None:
            E = projected.outside()
        else:
            m, moved = projected.m, projected.moved
            assert m is not None
            assert moved is not None
            c = self.moment_decay / (1 - self.moment_decay)
            a = projected.a + c * moved.astype(projected.a.dtype)
            lost = -c * m.astype(projected.a.dtype)
            E = projected.subspace.without(projected.A, a, projected.previous, lost)
        return self.storage.pack(E, projected.key)

    def check(self, parts: Any) -> None:
        """Feeding back what the moment lost needs one."""
        _check_orthogonal(self, parts)
        if self.moment_decay is not None:
            require_first_moment(f"the residual {self}", parts.inner, "leave the moment out")


def _check_orthogonal(residual: Residual, parts: Any) -> None:
    """What is left over, and comes back, must not be longer than what there was."""
    if not parts.projection.is_orthogonal:
        raise ValueError(
            f"the residual {residual} remembers what the projection leaves over, which may grow "
            f"without bound where its columns are not orthonormal, as those of {parts.projection}; "
            "use one whose columns are, such as projections.random(), or another residual."
        )


def momentum(
    decay: Any = 0.95, residual_decay: Any = 1.0, dtype: Any = None, *, nesterov: bool = False
) -> Residual:
    """Keep the part outside the subspace in a momentum, as Trion and Dion do.

    M ← M + G; the subspace is chosen for M; then the chosen part is multiplied by `decay` and the
    rest by `residual_decay`: M ← residual_decay (M − P Pᵀ M) + decay P Pᵀ M.

    Args:
      decay: μ, the decay of the part that was applied.
      residual_decay: decay of the part that was not; 1 as published.
      dtype: what the momentum is stored in: "int8", "int4", "int2", "sign", a floating dtype, a
        `storage`; None for the parameter's dtype, but at least float32.
      nesterov: take the coordinates of decay · M + G in place of M's; for fixed bases.

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
    return Momentum(decay, residual_decay, as_storage(dtype), nesterov)


def error_feedback(
    storage: Any = "int8",
    *,
    block_size: int = 256,
    rounding: str = "nearest",
    moment_decay: Any = None,
) -> Residual:
    """Add the part outside the subspace to the next gradient: E ← A − P Pᵀ A with A = G + E.

    It is stored in the projection's domain, where for a fixed basis the chosen rows are zero, and
    zero they come back.

    Args:
      storage: "int8" or "int4" for block-wise quantisation, "float32" to store it unquantised (in
        float64 for float64 parameters).
      block_size: entries along the compressed axis that share one scale.
      rounding: "nearest" or "stochastic" (unbiased).
      moment_decay: β₁ of the inner Adam, to feed back β₁ / (1 − β₁) times what the transport of its
        first moment lost as well, as LDAdam does; None not to.

    Raises:
      ValueError: if an argument is unknown.

    Reference:
      arXiv 2505.17967, algorithm 2; arXiv 2410.16103, algorithm 1, for `moment_decay`.

    Example:
      >>> import lowrank_optax as lro
      >>> lro.residuals.error_feedback("int4").storage.dtype
      'int4'
    """
    if storage not in STORAGES:
        raise ValueError(
            f"error_feedback={storage!r} is not offered; use one of {STORAGES}, or None for none."
        )
    if isinstance(moment_decay, int | float) and not 0 <= moment_decay < 1:
        raise ValueError(
            f"moment_decay={moment_decay}, the inner optimizer's b1, must lie in [0, 1): the "
            "feedback is divided by what is left to 1."
        )
    stored = None if storage == "float32" else storage
    stored = as_storage(stored, block_size=block_size, rounding=rounding)
    return ErrorFeedback(stored, moment_decay)
