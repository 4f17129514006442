"""What sampling a subspace does to a training: overlap of neighbours, spectrum of the change."""

import dataclasses
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
from benchmarks.papers.training import read_tuned
from benchmarks.recipes import task
from benchmarks.recipes.report import interval
from benchmarks.recipes.search import SEEDS
from benchmarks.recipes.task import Setting
from models.llama import matrix_dimension_numbers

SETTING = Setting(width=64, steps=100)
DOMINANT, SAMPLED = FREQUENT
TUNED_AS = {DOMINANT: "galore 1/4", SAMPLED: "galore 1/4, importance"}
"""Whose tuned numbers they take: the same methods, whose subspace is kept for longer."""
THIRD = 3
"""Overlaps of the nine at either end."""
POSITIONS = {"1/8": 1 / 8, "1/4": 1 / 4, "1/2": 1 / 2, "3/4": 3 / 4}
"""Shares of a matrix' singular values that are larger than the one kept."""


def measure(data: pathlib.Path) -> dict[str, Any]:
    """Trains with the leading singular vectors and with sampled ones, from equal seeds.

    Returns:
        By method and seed: "overlaps" of every subspace with the one before, over all matrices;
        and of W − W₀ what `spectrum_of_change` says.
    """
    runs = {name: [follow(name, seed, data) for seed in SEEDS] for name in FREQUENT}
    return {"steps": SETTING.steps, "interval": FREQUENT_INTERVAL, "seeds": SEEDS, "runs": runs}


def follow(method: str, seed: int, data: pathlib.Path) -> dict[str, Any]:
    """One training, at the numbers that the search found."""
    numbers = read_tuned()["toy", TUNED_AS[method]]["numbers"]
    steps = task.compiled(method, SETTING)
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
    return {"numbers": numbers, "overlaps": overlaps} | spectrum_of_change(first, params)


overlap = jax.jit(lro.diagnostics.subspace_overlap)


def spectrum_of_change(first: Any, last: Any) -> dict[str, Any]:
    """What a training moved the matrices by: means over all of them.

    Returns:
        "rank", the effective rank as a share of a full matrix'; "singular_values" by their
        positions, as shares of the largest.
    """
    specs = lro.matrix_specs(first, dimension_numbers=matrix_dimension_numbers)
    leaves = zip(specs, jax.tree.leaves(first), jax.tree.leaves(last), strict=True)
    stacks = [
        np.asarray(lro.diagnostics.update_spectrum(spec.to_matrix(after - before)), float)
        for spec, before, after in leaves
        if spec is not None
    ]
    spectra = [values for stack in stacks for values in stack]
    return {
        "rank": statistics.mean(map(effective_share, spectra)),
        "singular_values": {
            label: statistics.mean(float(values[int(share * len(values))]) for values in spectra)
            for label, share in POSITIONS.items()
        },
    }


def overlaps(results: dict[str, Any]) -> list[Outcome]:
    """Whether the leading subspace changes less and less, and a sampled one more than it."""
    early, late = _third(results, slice(None, THIRD)), _third(results, slice(-THIRD, None))
    dominant, sampled = _named(results)
    changes = _paired(
        f"overlap of neighbours: {dominant}, late > early", late[DOMINANT], early[DOMINANT]
    )
    apart = _paired(f"late overlap: {dominant} > {sampled}", late[DOMINANT], late[SAMPLED])
    before = f"; the latter's early {statistics.mean(early[SAMPLED]):.3f}"
    return [changes, dataclasses.replace(apart, here=apart.here + before)]


def spectra(results: dict[str, Any]) -> list[Outcome]:
    """Whether sampling moves the weights in more directions."""
    dominant, sampled = _named(results)
    ranks = {name: [run["rank"] for run in runs] for name, runs in results["runs"].items()}
    what = f"effective rank of the weights' change: {sampled} > {dominant}"
    found = _paired(what, ranks[SAMPLED], ranks[DOMINANT])
    shown = " against ".join(
        _singular_values(results["runs"][name]) for name in (SAMPLED, DOMINANT)
    )
    here = f"{found.here}; singular values at {', '.join(POSITIONS)}: {shown}"
    return [dataclasses.replace(found, here=here)]


def _named(results: dict[str, Any]) -> list[str]:
    """Both methods with their learning rates."""
    runs = results["runs"]
    return [f"{name}, at {runs[name][0]['numbers']['learning_rate']:g}" for name in FREQUENT]


def _singular_values(runs: list[dict[str, Any]]) -> str:
    means = (statistics.mean(run["singular_values"][label] for run in runs) for label in POSITIONS)
    return ", ".join(f"{value:.3f}" for value in means)


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
