"""The contract of the projection axis: which r-dimensional subspace, and in which domain we work.

A weight matrix comes as (..., n, m) with the compressed axis first, the papers' one transposed:
what is A P there is a = Pᵀ A here, (..., r, m).

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

from lowrank_optax.axes.moments import require_first_moment
from lowrank_optax.axes.projections.arrays import Coordinates, Matrix
from lowrank_optax.linalg.arguments import check_rank, resolve_rank

Basis = Any
"""What a projection remembers: indices (..., r) of a fixed basis, or a matrix P (..., n, r)."""

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Moment:
    """The inner optimizer's first moment, for projections and residuals that track it."""

    mu: Coordinates  #: uncorrected, in the coordinates of the previous basis
    count: Int[Array, ""] | None  #: int32 steps that it has averaged, if the optimizer counts


@dataclasses.dataclass(frozen=True)
class Choice:
    """What there is to choose a subspace from."""

    A: Matrix  #: what is to be projected, in the domain
    basis: Basis  #: the previous one
    rank: int  #: r
    key: PRNGKeyArray  #: of this matrix and step
    count: Int[Array, ""]  #: int32 number of steps taken
    moment: Moment | None = None  #: the inner optimizer's, if it has one


class Transition(abc.ABC):
    """From one subspace to the next: R = Pᵀ_previous P_current."""

    @abc.abstractmethod
    def carry(self, x: Coordinates) -> Coordinates:
        """Rᵀ x: coordinates in the old subspace expressed in the new one."""

    @abc.abstractmethod
    def carry_squared(self, x: Coordinates) -> Coordinates:
        """(R ∘ R)ᵀ x: how variances of coordinates carry over."""

    @abc.abstractmethod
    def overlap(self) -> Float[Array, "*batch"]:
        """‖R‖² / r in [0, 1]: 1 for equal subspaces, 0 for orthogonal ones."""


class Subspace(abc.ABC):
    """The span of P (n, r), in the projection's domain."""

    @property
    def is_exact(self) -> bool:
        """Whether P Pᵀ A repeats entries of A, so that A − P Pᵀ A has no rounding errors."""
        return False

    @abc.abstractmethod
    def project(self, A: Matrix) -> Coordinates:
        """a = Pᵀ A, the coordinates in the subspace."""

    @abc.abstractmethod
    def embed(self, u: Coordinates) -> Matrix:
        """P u in the domain."""

    @abc.abstractmethod
    def lift(self, u: Coordinates) -> Matrix:
        """P u in weight space."""

    @abc.abstractmethod
    def since(self, previous: Any) -> Transition:
        """The transition from an earlier subspace of the same projection to this one."""

    def reweight(self, A: Matrix, a: Coordinates, inside: Any, outside: Any) -> Matrix:
        """inside · P Pᵀ A + outside · (A − P Pᵀ A), in the domain, given a = Pᵀ A."""
        outside = jnp.asarray(outside, A.dtype)
        return outside * A + (jnp.asarray(inside, A.dtype) - outside) * self.embed(a)

    def store(self, A: Matrix, a: Coordinates, inside: Any, outside: Any) -> Matrix:
        """What to keep of A so that `restore`, in the next step, returns A reweighted.

        A learned basis reweights at once, while a = Pᵀ A is at hand. A fixed one leaves it to the
        next step, where it is a factor in a sum and no pass over the matrix.
        """
        return self.reweight(A, a, inside, outside)

    def restore(self, stored: Matrix, inside: Any, outside: Any) -> Matrix:
        """inside · P Pᵀ A + outside · (A − P Pᵀ A) from what `store` of this subspace returned."""
        del inside, outside
        return stored

    def without(self, A: Matrix, x: Coordinates, previous: Any, y: Coordinates) -> Matrix:
        """A − P x − P_previous y, in the domain, with a subspace of the same projection."""
        return A - self.embed(x) - previous.embed(y)


class Projection(abc.ABC):
    """A subspace of the compressed axis. Stateless: what changes is the basis."""

    rank: int | float  # r, or a fraction of n
    # Which of the axes "n" and "m" of a matrix the work needs whole on one device: "n" where a
    # transform mixes the compressed axis, "nm" where low-rank arrays have no axis m.
    whole: str = ""

    @property
    def uses_moment(self) -> bool:
        """Whether `refresh` follows the inner optimizer's first moment."""
        return False

    def rank_of(self, n: int, m: int) -> int:
        """r for matrices (..., n, m): at most their rank, which more columns would not follow."""
        check_rank(self.rank)
        return resolve_rank(self.rank, n, min(n, m))

    def low_rank_shape(self, shape: Shape, rank: int) -> Shape:
        """Shape of a = Pᵀ A for a matrix of shape (..., n, m)."""
        return (*shape[:-2], rank, shape[-1])

    @abc.abstractmethod
    def init(self, shape: Shape, rank: int, dtype: Any, key: PRNGKeyArray) -> Basis:
        """The basis before the first refresh, for a matrix (..., n, m) computed in dtype."""

    def analyze(self, G: Matrix, dtype: Any) -> Matrix:
        """From weight space to the domain; the result in dtype, which is at least float32."""
        return G.astype(dtype)

    def synthesize(self, S: Matrix) -> Matrix:
        """From the domain back to weight space; inverse of `analyze`."""
        return S

    @abc.abstractmethod
    def refresh(self, choice: Choice) -> Basis:
        """A new basis."""

    @abc.abstractmethod
    def subspace(self, basis: Basis, shape: Shape, dtype: Any = None) -> Subspace:
        """The subspace of a basis, for matrices of a shape (..., n, m).

        `lift` multiplies in a dtype, the leaf's (float32 for float16, which a step may overflow),
        or in that of what it is given for None; the products are accumulated in at least float32.
        """

    def settle(self, basis: Basis, A: Matrix, a: Coordinates, refreshed: Any) -> Basis:
        """What to remember of the basis that projected A to a, in this step `refreshed` or not."""
        del A, a, refreshed
        return basis

    @property
    def is_orthogonal(self) -> bool:
        """Whether P Pᵀ is a projector, or stays near one, so that A − P Pᵀ A is no longer than A.

        The columns of P are then orthonormal, or nearly, but for some that may be zero.
        """
        return True

    def check(self, parts: Any) -> None:
        """Raise if another axis, in the engine's `Parts`, lacks what this projection needs."""
        if self.uses_moment:
            remedy = "let it follow the gradient alone"
            require_first_moment(f"the projection {self}", parts.inner, remedy)
