"""Steps whose output neurons move equally far, by the history of how far each one moved."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from lowrank_optax.core.dimension_numbers import DimensionNumbers
from lowrank_optax.core.matrices import MatrixSpec, MatrixTree, matrix_specs
from lowrank_optax.core.missing import without_none
from lowrank_optax.linalg.arguments import check_fraction
from lowrank_optax.linalg.precision import at_least_float32, wide_dtype
from lowrank_optax.sharding.placement import split_heads
from lowrank_optax.sharding.regions import retyped_like


class NormalizeNeuronsState(NamedTuple):
    """State of `normalize_neurons`."""

    nu: Any
    """Per matrix: average of each neuron's mean square step, with the leaf's in axes of size 1.

    An axis of heads (`per_head`) is two axes, their number and their width.
    """


def normalize_neurons(
    b2: Any = 0.95, eps: Any = 1e-8, *, dimension_numbers: DimensionNumbers = None
) -> optax.GradientTransformationExtraArgs:
    """Divide each output neuron's step by the root mean square of its history.

    With u_j the step of neuron j, which is a row of W (out, in):
    ν_j ← b2 ν_j + (1 − b2) mean(u_j²) and u_j ← c u_j / (√ν_j + ε), where c is such that the whole
    matrix' step is as long as before. A neuron whose step is zero keeps its history.

    Args:
      b2: decay of the mean squares.
      eps: ε.
      dimension_numbers: which leaves are matrices, as for `matrix_specs`; others pass unchanged.

    Returns:
      A transformation whose state has one number per output neuron, in at least float32.

    Raises:
      ValueError: if b2 lies outside [0, 1].

    Reference:
      arXiv 2510.05491 (NorMuon).
      Differs in keeping the step's own length, whatever scaled it before, where NorMuon makes its
      root mean square 0.2; and in skipping neurons whose step is zero.

    Example:
      >>> import jax.numpy as jnp
      >>> import lowrank_optax as lro
      >>> tx = lro.normalize_neurons()
      >>> u, _ = tx.update({"w": jnp.array([[1.0, 7.0]])}, tx.init({"w": jnp.ones((1, 2))}))
      >>> u["w"].round(4)
      Array([[5., 5.]], dtype=float32)
    """
    check_fraction("b2", b2)

    def matrices_of(tree: Any) -> MatrixTree:
        return MatrixTree(tree, matrix_specs(tree, dimension_numbers=dimension_numbers))

    def init(params: Any) -> NormalizeNeuronsState:
        tree = matrices_of(params)

        def zeros(i: int) -> Array:
            spec = tree.matrices[i]
            mean = jnp.mean(split_heads(tree.leaves[i], spec), _in_axes(spec), keepdims=True)
            return jnp.zeros_like(mean, dtype=wide_dtype(mean.dtype))

        return NormalizeNeuronsState(tree.build(zeros))

    def update(updates: Any, state: NormalizeNeuronsState, params: Any = None) -> tuple[Any, Any]:
        del params
        tree, leaves = matrices_of(updates), jax.tree.leaves(updates)
        nu = tree.read(state.nu)
        for i, spec in tree.matrices.items():
            u = at_least_float32(split_heads(leaves[i], spec))
            square = jnp.mean(jnp.square(u), _in_axes(spec), keepdims=True)
            average = b2 * nu[i] + (1 - b2) * square
            nu[i] = jnp.where(square > 0, average, nu[i]).astype(nu[i].dtype)
            normalized = u / (jnp.sqrt(nu[i]) + eps)
            length = _norm(u, spec) / jnp.maximum(_norm(normalized, spec), jnp.finfo(u.dtype).tiny)
            whole = spec.join_heads((length * normalized).astype(leaves[i].dtype))
            leaves[i] = retyped_like(whole, leaves[i])
        return tree.treedef.unflatten(leaves), NormalizeNeuronsState(tree.build(nu.__getitem__))

    return without_none(optax.GradientTransformation(init, update))


def _norm(x: Float[Array, "..."], spec: MatrixSpec) -> Float[Array, "..."]:
    """The length of every matrix."""
    return jnp.sqrt(jnp.sum(jnp.square(x), spec.n_axes + spec.m_axes, keepdims=True))


def _in_axes(spec: MatrixSpec) -> tuple[int, ...]:
    return spec.n_axes if spec.side == "in" else spec.m_axes
