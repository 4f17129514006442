"""Times: the DCT's parts at large sizes, Newton–Schulz' share of a step, growth with the rank."""

import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import lowrank_optax as lro
from benchmarks.measure.optimizers import HIDDEN, INTERMEDIATE, Updater, parameters
from benchmarks.methods import METHODS
from benchmarks.papers.claims import Outcome, above, below, decided
from benchmarks.papers.methods import RANKS
from benchmarks.timing import ROUNDS, interleaved_seconds, ratio, spread
from lowrank_optax.axes.projections.base import Choice
from lowrank_optax.linalg.orthogonalize import orthonormal_columns
from lowrank_optax.linalg.products import product

SIZES = (8192, 16384)
COLUMNS = 2048
"""Of the matrix' other side, so that it fits machines with a few gigabytes."""
RANK = 512
SHARE_RANK = HIDDEN // 4
WHOLE, ALONE = "whole", "newton_schulz"

GROWTH = 1.25
"""By how much a time may grow from the lowest rank to the highest and still not depend on it."""

INDEPENDENT, DEPENDENT = ("trion", "dct_adamw (int8)"), ("dion", "ldadamw")
"""Methods of `benchmarks.methods` whose time is said not to grow with the rank, and to grow."""


def measure(data: pathlib.Path | None = None) -> dict[str, Any]:
    """Seconds of the DCT's three parts, and of the power iteration and QR that they replace."""
    del data
    sizes = {n: interleaved_seconds(_parts(n), ROUNDS) for n in SIZES}
    return {"columns": COLUMNS, "rank": RANK, "seconds": sizes}


def _parts(n: int) -> dict[str, Callable[[], Any]]:
    projection, key = lro.projections.dct(RANK), jax.random.key(0)
    G = jax.random.normal(jax.random.key(n), (n, COLUMNS))
    S = projection.analyze(G, jnp.float32)
    start = projection.init(S.shape, RANK, S.dtype, key)
    choose = lambda S: projection.refresh(Choice(S, start, RANK, key, jnp.int32(0)))
    basis = choose(S)
    u = jnp.ones((RANK, COLUMNS))
    Q = jax.random.normal(key, (n, RANK))

    def power_iteration(G: jax.Array, Q: jax.Array) -> jax.Array:
        return product(G, orthonormal_columns(product(G.mT, Q), "qr"))

    functions = {
        "transform": (lambda G: projection.analyze(G, jnp.float32), G),
        "selection": (choose, S),
        "reconstruction": (lambda u: projection.subspace(basis, S.shape).lift(u), u),
        "power iteration with QR": (functools.partial(power_iteration, Q=Q), G),
        "its reconstruction": (lambda u: product(Q, u), u),
    }
    return {name: _compiled(function, x) for name, (function, x) in functions.items()}


def _compiled(function: Callable[[jax.Array], Any], x: jax.Array) -> Callable[[], Any]:
    return functools.partial(jax.jit(function).lower(x).compile(), x)


def large(results: dict[str, Any]) -> list[Outcome]:
    """Whether the DCT's parts take less time than what they replace."""
    found = []
    for n, seconds in results["seconds"].items():
        rounds = zip(*seconds.values(), strict=True)
        ratios = [sum(each[:3]) / sum(each[3:]) for each in rounds]
        shares = [
            f"{name} {1e3 * spread(seconds[name]).median:.0f} ms" for name in list(seconds)[:3]
        ]
        what = f"n = {n}: transform, selection and reconstruction < power iteration with QR"
        here = f"{{:.2f}} of its time ({', '.join(shares)})"
        found.append(decided(what, here, spread(ratios), below, 1.0))
    return found


def measure_share(data: pathlib.Path | None = None) -> dict[str, Any]:
    """Seconds of one matrix' update, whole and of its Newton–Schulz alone, for Trion and Muon."""
    del data
    params = {"w": jax.random.normal(jax.random.key(0), (HIDDEN, INTERMEDIATE))}
    low_rank = jax.random.normal(jax.random.key(1), (SHARE_RANK, INTERMEDIATE))
    functions = {
        f"trion {WHOLE}": Updater(lro.trion(0.02, rank=SHARE_RANK), params),
        f"trion {ALONE}": _compiled(lro.newton_schulz, low_rank),
        f"muon {WHOLE}": Updater(lro.muon(0.02), params),
        f"muon {ALONE}": _compiled(lro.newton_schulz, params["w"]),
    }
    shape = {"n": HIDDEN, "m": INTERMEDIATE, "rank": SHARE_RANK}
    return {"shape": shape, "seconds": interleaved_seconds(functions, ROUNDS)}


def share(results: dict[str, Any]) -> list[Outcome]:
    """Whether Newton–Schulz is less of Trion's update than of Muon's."""
    seconds = results["seconds"]
    shares = {
        name: [
            part / whole
            for part, whole in zip(
                seconds[f"{name} {ALONE}"], seconds[f"{name} {WHOLE}"], strict=True
            )
        ]
        for name in ("trion", "muon")
    }
    apart = spread([a - b for a, b in zip(shares["trion"], shares["muon"], strict=True)])
    times = ratio(seconds, f"muon {WHOLE}", f"trion {WHOLE}")
    here = (
        f"{spread(shares['trion']):.0%} of Trion's update, {spread(shares['muon']):.0%} of Muon's, "
        f"which takes {times:.1f} times as long"
    )
    what = "Newton–Schulz' share of the update: trion < muon"
    return [Outcome(what, here, below(apart.low, apart.high, 0.0))]


def measure_ranks(data: pathlib.Path | None = None) -> dict[str, Any]:
    """Seconds of one layer's update by method and rank, all in the same rounds."""
    del data
    layer = parameters(1)
    functions = {
        f"{name} {label}": Updater(METHODS[name](round(fraction * HIDDEN)), layer)
        for name in (*INDEPENDENT, *DEPENDENT)
        for label, fraction in RANKS.items()
    }
    return {"hidden": HIDDEN, "seconds": interleaved_seconds(functions, ROUNDS)}


def growth(results: dict[str, Any]) -> list[Outcome]:
    """Whether the time grows from the lowest rank to the highest."""
    lowest, *_, highest = RANKS
    found = []
    for name in (*INDEPENDENT, *DEPENDENT):
        times = ratio(results["seconds"], f"{name} {highest}", f"{name} {lowest}")
        side, sign = (below, "<") if name in INDEPENDENT else (above, ">")
        what = f"{name}: time at r/n = {highest} {sign} {GROWTH:g} × that at {lowest}"
        found.append(decided(what, "{:.2f} times", times, side, GROWTH))
    return found
