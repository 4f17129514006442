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
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import lowrank_optax as lro
from models.llama import matrix_dimension_numbers
from training.config.pretraining import PretrainConfig
from training.reports.diagnostics_plots import plot_diagnostics
from training.runs.metrics import MetricsLog, read_metrics
from training.steps.optimizers import get_entry

DIAGNOSTICS_FILE = "diagnostics.jsonl"

# Of Newton-Schulz steps that converge to singular values of 1: (15 x - 10 x³ + 3 x⁵) / 8.
CONVERGENT = (1.875, -1.25, 0.375)

# Columns of a fixed basis, int32 (*batch, r), or orthonormal ones of a learned one, (*batch, n, r).
Bases = dict[str, jax.Array]


class Look(NamedTuple):
    """What `look` measures: quantity -> path of a parameter -> float32 (matrices,)."""

    measures: dict[str, dict[str, jax.Array]]
    bases: Bases


def look(
    config: PretrainConfig, params: Any, gradient: Any, updates: Any, optimizer_state: Any
) -> Look:
    """Measures all matrices at one step; to be compiled.

    Args:
        config: names the optimizer and its hyperparameters.
        params: pytree of arrays.
        gradient: the same.
        updates: the same, what the optimizer adds to the parameters.
        optimizer_state: after the step.
    """
    treedef: Any = jax.tree.structure(params)
    specs = lro.matrix_specs(
        params,
        config.rank or 1,
        dimension_numbers=matrix_dimension_numbers,
        compress=config.hyperparameters.compress or "smallest",
    )
    bases = _bases(treedef, optimizer_state)
    projection = lro.projections.by_name(fixed_projection(config), config.rank or 1)
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


def fixed_projection(config: PretrainConfig) -> str:
    """Name of the projection that a configuration's column indices belong to."""
    if config.hyperparameters.projection is not None:
        return config.hyperparameters.projection
    parameter = inspect.signature(get_entry(config.optimizer).build).parameters.get("projection")
    return "dct" if parameter is None else parameter.default


def _bases(treedef: Any, optimizer_state: Any) -> dict[int, Any]:
    """Leaf -> its basis, from all states with bases in an optimizer's state."""
    has_basis = lambda node: "basis" in getattr(node, "_fields", ())
    found = {}
    for state in filter(has_basis, jax.tree.leaves(optimizer_state, is_leaf=has_basis)):
        for i, basis in enumerate(treedef.flatten_up_to(state.basis)):
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


class Diagnostics:
    """The looks of a run: taken every `every` steps, written, and drawn in the end.

    Args:
        folder: of the run.
        every: steps between looks; 0 for none.
        last_step: later looks in the file are dropped (they are taken again after a resume).
        overlaps: compiled.
        write: whether this process writes.
    """

    def __init__(
        self,
        folder: Path,
        every: int,
        last_step: int,
        overlaps: Callable[[Bases, Bases], dict[str, jax.Array]],
        *,
        write: bool,
    ):
        self._every = every
        self._overlaps = overlaps
        self._plot = folder / "diagnostics.png" if write else None
        path = folder / DIAGNOSTICS_FILE
        # A run resumed without looks keeps those that it has.
        self._path = path
        self._log = MetricsLog(path, last_step, write=write) if every else None
        self._bases: Bases | None = None

    def due(self, step: int) -> bool:
        """Whether there is a look at this step."""
        return self._every > 0 and step % self._every == 0

    def record(self, step: int, result: Look) -> None:
        """Writes a look.

        Args:
            step: the number of the step that it was taken at.
            result: from the compiled `look`.
        """
        assert self._log is not None
        quantities: dict[str, Any] = dict(result.measures)
        if result.bases:
            if self._bases is None:
                quantities["subspace_overlap"] = None
            else:
                quantities["subspace_overlap"] = self._overlaps(self._bases, result.bases)
        self._bases = result.bases
        self._log.write({"step": step, **_readable(jax.device_get(quantities))})

    def close(self) -> None:
        """Draws the picture and closes the file."""
        if self._log is None:
            return
        self._log.close()
        if self._plot is not None and self._log.recent:
            plot_diagnostics(read_metrics(self._path), self._plot, title=self._plot.parent.name)


def _readable(quantities: dict[str, Any]) -> dict[str, Any]:
    """Arrays as lists of four digits, what is not finite as None: JSON has no word for it."""

    def number(value: np.floating) -> float | None:
        return float(f"{value:.4g}") if np.isfinite(value) else None

    return jax.tree.map(lambda values: [number(value) for value in values], quantities)
