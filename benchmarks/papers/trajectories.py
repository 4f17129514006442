"""What sampling a subspace does to a training: overlap of neighbours, spectrum of the change."""

import pathlib
import statistics
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import lowrank_optax as lro
from benchmarks.papers.claims import Outcome, above
from benchmarks.papers.columns import effective_share
from benchmarks.papers.methods import FREQUENT, FREQUENT_INTERVAL
from benchmarks.recipes import task
from benchmarks.recipes.methods import METHODS
from benchmarks.recipes.report import interval
from benchmarks.recipes.search import SEEDS
from benchmarks.recipes.task import Setting
from models.llama import matrix_dimension_numbers

SETTING = Setting(width=64, steps=100)
DOMINANT, SAMPLED = FREQUENT
THIRD = 3
"""Overlaps of the nine at either end."""


def measure(data: pathlib.Path) -> dict[str, Any]:
    """Trains with the leading singular vectors and with sampled ones, from equal seeds.

    Returns:
        By method and seed: "overlaps" of every subspace with the one before, over all matrices;
        "rank", the effective rank of W − W₀ by that of a full matrix.
    """
    runs = {name: [follow(name, seed, data) for seed in SEEDS] for name in FREQUENT}
    return {"steps": SETTING.steps, "interval": FREQUENT_INTERVAL, "seeds": SEEDS, "runs": runs}


def follow(method: str, seed: int, data: pathlib.Path) -> dict[str, Any]:
    """One training, at the numbers from which a search would start."""
    numbers, steps = dict(METHODS[method].start), task.compiled(method, SETTING)
    arrays = {name: jnp.float32(number) for name, number in numbers.items()}
    # Twice, as a step takes its parameters' memory.
    first, params = steps.parameters(seed), steps.parameters(seed)
    training = task.training_steps(steps, SETTING, arrays, seed, task.tokens(data), params)
    overlaps, before = [], None
    for step, done in enumerate(training):
        params, state, _ = done
        if step % FREQUENT_INTERVAL == 0:  # a step that chose a subspace
            bases = [np.array(P) for P in jax.tree.leaves(lro.matrix_states(state)[0].basis)]
            if before is not None:
                pairs = zip(before, bases, strict=True)
                overlaps.append(float(np.mean([np.mean(overlap(U, V)) for U, V in pairs])))
            before = bases
    return {"numbers": numbers, "overlaps": overlaps, "rank": rank_of_change(first, params)}


overlap = jax.jit(lro.diagnostics.subspace_overlap)


def rank_of_change(first: Any, last: Any) -> float:
    """How many directions a training moved the matrices in, as a share of all: their mean."""
    specs = lro.matrix_specs(first, dimension_numbers=matrix_dimension_numbers)
    leaves = zip(specs, jax.tree.leaves(first), jax.tree.leaves(last), strict=True)
    spectra = [
        np.asarray(lro.diagnostics.update_spectrum(spec.to_matrix(after - before)), float)
        for spec, before, after in leaves
        if spec is not None
    ]
    return statistics.mean(effective_share(values) for one in spectra for values in one)


def overlaps(results: dict[str, Any]) -> list[Outcome]:
    """Whether the leading subspace changes less and less, and a sampled one more than it."""
    early, late = _third(results, slice(None, THIRD)), _third(results, slice(-THIRD, None))
    return [
        _paired(
            f"overlap of neighbours: {DOMINANT}, late > early", late[DOMINANT], early[DOMINANT]
        ),
        _paired(f"late overlap: {DOMINANT} > {SAMPLED}", late[DOMINANT], late[SAMPLED]),
    ]


def spectra(results: dict[str, Any]) -> list[Outcome]:
    """Whether sampling moves the weights in more directions."""
    ranks = {name: [run["rank"] for run in runs] for name, runs in results["runs"].items()}
    what = f"effective rank of the weights' change: {SAMPLED} > {DOMINANT}"
    return [_paired(what, ranks[SAMPLED], ranks[DOMINANT])]


def _third(results: dict[str, Any], part: slice) -> dict[str, list[float]]:
    return {
        name: [statistics.mean(run["overlaps"][part]) for run in runs]
        for name, runs in results["runs"].items()
    }


def _paired(what: str, larger: list[float], smaller: list[float]) -> Outcome:
    apart = [a - b for a, b in zip(larger, smaller, strict=True)]
    mean, half = statistics.mean(apart), interval(apart)
    here = (
        f"{statistics.mean(larger):.3f} against {statistics.mean(smaller):.3f}: "
        f"{mean:+.3f} ± {half:.3f}"
    )
    return Outcome(what, here, above(mean - half, mean + half, 0.0))
