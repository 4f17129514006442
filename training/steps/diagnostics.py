"""How well each matrix's subspace serves it, at every N-th step: --diagnostics-every N.

A look is taken by a compiled function of its own, just before the training step of the same batch.
So the step is what it is without looks, to the last bit, and takes as long; a look itself costs
about as much as a step, and the clock of the run is stopped for it.

What is measured of every matrix (of stacked layers, of every layer):

    captured_energy   share of the energy of this step's gradient inside the subspace, in [0, 1]
    subspace_overlap  what the subspace shares with that of the last look, in [0, 1]; None at the
                      first look of a run and of a resumed one
    update_norm       Frobenius norm of the change that the step makes, learning rate and weight
                      decay included
    update_rms        the same over the square root of the number of entries

An optimizer without subspaces (AdamW, Muon) has the last two only. The subspace is the one that the
optimizer holds after the step. Under momentum or error feedback it was chosen for more than this
step's gradient.
"""

import inspect
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import lowrank_optax as lro
from models.llama import matrix_dimension_numbers
from training.config.resolved import Method
from training.steps.optimizers import get_entry

# Of Newton-Schulz steps that converge to singular values of 1: (15 x - 10 x³ + 3 x⁵) / 8.
CONVERGENT = (1.875, -1.25, 0.375)

# Columns of a fixed basis, int32 (*batch, r), or orthonormal ones of a learned one, (*batch, n, r).
Bases = dict[str, jax.Array]


class Look(NamedTuple):
    """What `look` measures: quantity -> path of a parameter -> float32 (matrices,)."""

    measures: dict[str, dict[str, jax.Array]]
    bases: Bases


def look(method: Method, params: Any, gradient: Any, updates: Any, optimizer_state: Any) -> Look:
    """Measures all matrices at one step; to be compiled. `updates` are what the optimizer adds to
    the parameters, and its state is that after the step."""
    treedef: Any = jax.tree.structure(params)
    specs = lro.matrix_specs(
        params,
        method.rank or 1,
        dimension_numbers=matrix_dimension_numbers,
        compress=method.hyperparameters.compress or "smallest",
    )
    bases = _bases(treedef, optimizer_state)
    projection = lro.projections.by_name(fixed_projection(method), method.rank or 1)
    measures: dict[str, dict[str, jax.Array]] = {}
    found: Bases = {}
    gradients, changes = jax.tree.leaves(gradient), jax.tree.leaves(updates)
    for i, spec in enumerate(specs):
        if spec is None:
            continue
        results = _size(spec.to_matrix(changes[i]))
        if i in bases:
            found[spec.path] = basis = _orthonormal(bases[i])
            learned = not jnp.issubdtype(basis.dtype, jnp.integer)
            results["captured_energy"] = lro.diagnostics.captured_energy(
                spec.to_matrix(gradients[i]),
                lro.projections.svd(spec.rank) if learned else projection,
                basis,
            )
        for name, values in results.items():
            measures.setdefault(name, {})[spec.path] = values.reshape(-1)
    return Look(measures, found)


def overlaps(before: Bases, now: Bases) -> dict[str, jax.Array]:
    """What the subspaces of two looks share: path -> float32 (matrices,) in [0, 1]."""

    def of(path: str) -> jax.Array:
        if jnp.issubdtype(now[path].dtype, jnp.integer):
            common = before[path][..., :, None] == now[path][..., None, :]
            return jnp.mean(jnp.any(common, axis=-2), axis=-1, dtype=jnp.float32).reshape(-1)
        return lro.diagnostics.subspace_overlap(before[path], now[path]).reshape(-1)

    return {path: of(path) for path in now}


def fixed_projection(method: Method) -> str:
    """Name of the projection that a method's column indices belong to."""
    if method.hyperparameters.projection is not None:
        return method.hyperparameters.projection
    parameter = inspect.signature(get_entry(method.optimizer).build).parameters.get("projection")
    return "dct" if parameter is None else parameter.default


def _bases(treedef: Any, optimizer_state: Any) -> dict[int, Any]:
    """Leaf -> its basis, from all states with bases in an optimizer's state."""
    found = {}
    # A parameter may be called so too.
    of_state = lambda path, _: isinstance(path[-1], optax.tree_utils.NamedTupleKey)
    for _, bases in optax.tree.get_all_with_path(optimizer_state, "basis", of_state):
        for i, basis in enumerate(treedef.flatten_up_to(bases)):
            if not isinstance(basis, optax.MaskedNode):
                # Projections that remember more than P call it so.
                found[i] = getattr(basis, "P", basis)
    return found


def _orthonormal(basis: jax.Array) -> jax.Array:
    """Column indices as they are; of learned columns, which may be oblique, orthonormal ones.

    By products alone: they shard, while several batched QR decompositions at a time can deadlock
    the CPU's pool of two threads (JAX 0.10).
    """
    if jnp.issubdtype(basis.dtype, jnp.integer):
        return basis
    return lro.newton_schulz(basis, steps=20, coefficients=CONVERGENT)


def _size(update: jax.Array) -> dict[str, jax.Array]:
    """Norms of updates (*batch, n, m)."""
    norm = jnp.sqrt(jnp.sum(jnp.square(update.astype(jnp.float32)), axis=(-2, -1)))
    return {"update_norm": norm, "update_rms": norm / math.sqrt(math.prod(update.shape[-2:]))}
