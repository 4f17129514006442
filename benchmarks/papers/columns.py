"""What a fixed basis sees of real gradients: its columns' norms, and its angles to the best basis.

The gradients are those of `benchmarks.measure.subspaces`: one block of the small Llama under AdamW.
"""

import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import ArrayLike

import lowrank_optax as lro
from benchmarks.measure import subspaces
from benchmarks.papers.claims import Outcome, above, below, decided
from benchmarks.timing import Spread, spread
from lowrank_optax.axes.projections.base import Choice, Projection

STEPS = (2, 25, 50, 75, 100, 125, 150)
FRACTION = 1 / 4
BASES = ("dct", "random_orthogonal", "identity")


def measure(data: pathlib.Path | None = None) -> dict[str, Any]:
    """Trains once and looks at every kept gradient.

    Returns:
        "shares": by basis and matrix, one number a step: the effective share of columns.
        "angles": by matrix, one object a step: principal angles in degrees between the DCT's r
        columns and the r leading singular vectors, and by basis the overlap with the step before.
    """
    del data
    kept = subspaces.train(STEPS)[0]["gradient"]
    matrices = list(kept[STEPS[0]])
    shares = {
        basis: {name: [share_of_columns(kept[t][name], basis) for t in STEPS] for name in matrices}
        for basis in BASES
    }
    angles = {
        name: [principal_angles(kept[t][name], kept[t - 1][name]) for t in STEPS]
        for name in matrices
    }
    return {"steps": STEPS, "fraction": FRACTION, "shares": shares, "angles": angles}


def share_of_columns(G: Float[Array, "n m"], basis: str) -> float:
    """The effective share of a basis' columns, by their energies in G."""
    projection = lro.projections.by_name(basis, FRACTION)
    S = projection.analyze(G, jnp.float32)
    return effective_share(np.sum(np.square(S), axis=-1, dtype=np.float64))


def effective_share(values: ArrayLike) -> float:
    """exp(entropy of n values' shares) / n: 1 where all are alike, 1/n where one has all.

    >>> round(effective_share([1.0, 1.0, 0.0, 0.0]), 6)
    0.5
    """
    values = np.asarray(values, np.float64)
    shares = values[values > 0] / values.sum()
    return float(np.exp(-np.sum(shares * np.log(shares))) / len(values))


def principal_angles(G: Float[Array, "n m"], before: Float[Array, "n m"]) -> dict[str, float]:
    """Between the DCT's subspace of G and the best one, and of each to that of the step before."""
    rank = round(FRACTION * G.shape[0])
    dct, best = (columns(G, name, rank) for name in ("dct", "svd"))
    cosines = np.clip(np.linalg.svd(np.asarray(dct.T @ best), compute_uv=False), 0, 1)
    degrees = np.degrees(np.arccos(cosines))
    overlap = lambda name, P: float(
        lro.diagnostics.subspace_overlap(P, columns(before, name, rank))
    )
    return {
        "smallest": float(degrees.min()),
        "median": float(np.median(degrees)),
        "largest": float(degrees.max()),
        "overlap": float(np.mean(np.square(cosines))),
        "dct with the step before": overlap("dct", dct),
        "svd with the step before": overlap("svd", best),
    }


@functools.partial(jax.jit, static_argnums=(1, 2))
def columns(G: Float[Array, "n m"], name: str, rank: int) -> Float[Array, "n r"]:
    """The orthonormal basis that a projection chooses for G."""
    projection: Projection = lro.projections.by_name(name, rank)
    A, key = projection.analyze(G, jnp.float32), jax.random.key(0)
    start = projection.init(A.shape, rank, A.dtype, key)
    basis = projection.refresh(Choice(A, start, rank, key, jnp.int32(0)))
    return projection.columns(basis, len(G), A.dtype) if name == "dct" else basis


def concentration(results: dict[str, Any]) -> list[Outcome]:
    """Whether the DCT's columns are less alike than those of a random basis, and of none."""
    found = []
    for other in BASES[1:]:
        ratios = [
            a / b
            for name, row in results["shares"]["dct"].items()
            for a, b in zip(row, results["shares"][other][name], strict=True)
        ]
        what = f"effective share of columns: dct < {other}"
        found.append(decided(what, "{:.2f} of it", spread(ratios), below, 1.0))
    return found


def angles(results: dict[str, Any]) -> list[Outcome]:
    """Whether the DCT's subspace shares more with the best one than any r-dimensional one would."""
    chance = results["fraction"]
    steps = results["steps"]
    found = []
    for slot in (0, len(steps) // 2, len(steps) - 1):
        of = lambda key, slot=slot: _over_matrices(results, key, slot)
        here = (
            f"{{:.2f}}; angles of {of('smallest').median:.0f}°, {of('median').median:.0f}°, "
            f"{of('largest').median:.0f}° (smallest, median, largest); with the step before "
            f"dct {of('dct with the step before').median:.2f}, "
            f"svd {of('svd with the step before').median:.2f}"
        )
        what = f"step {steps[slot]}: overlap above that of a random subspace, {chance:g}"
        found.append(decided(what, here, of("overlap"), above, chance))
    return found


def _over_matrices(results: dict[str, Any], key: str, slot: int) -> Spread:
    return spread([rows[slot][key] for rows in results["angles"].values()])
