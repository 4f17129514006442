"""The contract of the projection axis: which r-dimensional subspace, and in which domain we work.

A weight matrix comes as (..., n, m) with the compressed axis first. The papers write its transpose,
so that their columns of G Q are rows here, and a = A P is (..., r, m).

A projection analyses a gradient into a *domain* in which the rest of the step happens. A fixed
orthogonal basis Q uses its coefficients S = Qᵀ G, so projecting is a gather of rows; a learned
basis P uses the weight domain itself. The transform is orthogonal, hence norms, sums and residuals
mean the same in both. What a projection remembers from step to step is a *basis*; a `Subspace` is
a basis at work, and works out once what its operations share.
"""

import abc
import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from lowrank_optax.axes.moments import require_fields

Basis = Any
"""What a projection remembers: indices (..., r) of a fixed basis, or a matrix P (..., n, r)."""

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Moment:
    """The inner optimizer's first moment, for projections and residuals that track it.

    Attributes:
      mu: uncorrected first moment in the coordinates of the previous basis, shape (..., r, m).
      count: int32 number of steps that it has averaged, None if the optimizer does not count.
    """

    mu: Float[Array, "*batch r m"]
    count: Int[Array, ""] | None


@dataclasses.dataclass(frozen=True)
class Choice:
    """What there is to choose a subspace from.

    Attributes:
      A: what is to be projected, in the domain, shape (..., n, m).
      basis: the previous basis.
      rank: r.
      key: a random key of this matrix and step.
      count: int32 number of steps taken.
      moment: the inner optimizer's first moment, if it has one.
    """

    A: Float[Array, "*batch n m"]
    basis: Basis
    rank: int
    key: PRNGKeyArray
    count: Int[Array, ""]
    moment: Moment | None = None


class Transition(abc.ABC):
    """From one subspace to the next: R = Pᵀ_previous P_current."""

    @abc.abstractmethod
    def carry(self, x: Float[Array, "*batch r m"]) -> Float[Array, "*batch r m"]:
        """Rᵀ x: coordinates in the old subspace expressed in the new one."""

    @abc.abstractmethod
    def carry_squared(self, x: Float[Array, "*batch r m"]) -> Float[Array, "*batch r m"]:
        """(R ∘ R)ᵀ x: how variances of coordinates carry over."""

    @abc.abstractmethod
    def overlap(self) -> Float[Array, "*batch"]:
        """‖R‖² / r in [0, 1]: 1 for equal subspaces, 0 for orthogonal ones."""


class Subspace(abc.ABC):
    """The span of P (n, r), in the projection's domain."""

    @abc.abstractmethod
    def project(self, A: Float[Array, "*batch n m"]) -> Float[Array, "*batch r p"]:
        """a = Pᵀ A, the coordinates in the subspace."""

    @abc.abstractmethod
    def embed(self, u: Float[Array, "*batch r p"]) -> Float[Array, "*batch n m"]:
        """P u in the domain."""

    @abc.abstractmethod
    def lift(self, u: Float[Array, "*batch r p"]) -> Float[Array, "*batch n m"]:
        """P u in weight space."""

    @abc.abstractmethod
    def since(self, previous: Any) -> Transition:
        """The transition from an earlier subspace of the same projection to this one."""

    def reweight(
        self,
        A: Float[Array, "*batch n m"],
        a: Float[Array, "*batch r p"],
        inside: Any,
        outside: Any,
    ) -> Float[Array, "*batch n m"]:
        """inside · P Pᵀ A + outside · (A − P Pᵀ A), in the domain, given a = Pᵀ A."""
        outside = jnp.asarray(outside, A.dtype)
        return outside * A + (jnp.asarray(inside, A.dtype) - outside) * self.embed(a)

    def store(
        self,
        A: Float[Array, "*batch n m"],
        a: Float[Array, "*batch r p"],
        inside: Any,
        outside: Any,
    ) -> Float[Array, "*batch n m"]:
        """What to keep of A so that `restore`, in the next step, returns A reweighted.

        A learned basis reweights at once, while a = Pᵀ A is at hand. A fixed one leaves it to the
        next step, where it is a factor in a sum and no pass over the matrix.
        """
        return self.reweight(A, a, inside, outside)

    def restore(
        self, stored: Float[Array, "*batch n m"], inside: Any, outside: Any
    ) -> Float[Array, "*batch n m"]:
        """inside · P Pᵀ A + outside · (A − P Pᵀ A) from what `store` of this subspace returned."""
        del inside, outside
        return stored

    def without(
        self,
        A: Float[Array, "*batch n m"],
        x: Float[Array, "*batch r p"],
        previous: Any,
        y: Float[Array, "*batch r p"],
    ) -> Float[Array, "*batch n m"]:
        """A − P x − P_previous y, in the domain, with a subspace of the same projection."""
        return A - self.embed(x) - previous.embed(y)


class Projection(abc.ABC):
    """A subspace of the compressed axis. Stateless: what changes is the basis.

    Attributes:
      rank: r as an int or a fraction of n.
      whole: which of the axes "n" and "m" of a matrix the work needs whole on one device: "n" where
        a transform mixes the compressed axis, "nm" where low-rank arrays have no axis m.
    """

    rank: int | float
    whole: str = ""

    @property
    def uses_moment(self) -> bool:
        """Whether `refresh` follows the inner optimizer's first moment."""
        return False

    def low_rank_shape(self, shape: Shape, rank: int) -> Shape:
        """Shape of a = Pᵀ A for a matrix of shape (..., n, m)."""
        return (*shape[:-2], rank, shape[-1])

    @abc.abstractmethod
    def init(self, shape: Shape, rank: int, dtype: Any, key: PRNGKeyArray) -> Basis:
        """The basis before the first refresh, for a matrix (..., n, m) computed in dtype."""

    def analyze(self, G: Float[Array, "*batch n m"], dtype: Any) -> Float[Array, "*batch n m"]:
        """From weight space to the domain; the result in dtype, which is at least float32."""
        return G.astype(dtype)

    def synthesize(self, S: Float[Array, "*batch n m"]) -> Float[Array, "*batch n m"]:
        """From the domain back to weight space; inverse of `analyze`."""
        return S

    @abc.abstractmethod
    def refresh(self, choice: Choice) -> Basis:
        """A new basis."""

    @abc.abstractmethod
    def subspace(self, basis: Basis, shape: Shape, dtype: Any = None) -> Subspace:
        """The subspace of a basis, for matrices (..., n, m).

        Args:
          basis: what `init` or `refresh` returned.
          shape: of the matrices.
          dtype: dtype of `lift`'s operands, the leaf's; None for what it is given. The products
            are accumulated in at least float32.
        """

    def settle(
        self,
        basis: Basis,
        A: Float[Array, "*batch n m"],
        a: Float[Array, "*batch r p"],
        refreshed: Any,
    ) -> Basis:
        """What to remember until the next step, once this one is known.

        Args:
          basis: the basis that this step used.
          A: what was projected, in the domain.
          a: its coordinates.
          refreshed: whether this step chose the basis.
        """
        del A, a, refreshed
        return basis

    def check(self, parts: Any) -> None:
        """Raise if another axis lacks what this projection needs.

        Args:
          parts: the engine's `Parts`.
        """
        if self.uses_moment:
            require_fields(
                f"the projection {self}",
                parts.inner,
                ("mu", "count"),
                "let it follow the gradient alone",
            )
