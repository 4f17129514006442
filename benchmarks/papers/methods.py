"""The papers' competitors, beside those of the recipes; importing this makes them known by name.

All of one family start at the same numbers. Adam's b2 is the same for all and not tuned.
"""

import functools
from typing import Any

import lowrank_optax as lro
from benchmarks.recipes.builders import Method, ours
from benchmarks.recipes.methods import ADAM, INTERVAL, METHODS, QUARTER
from training.steps.optimizers import PROJECTION_OPTIMIZERS

TUNED = ("learning_rate", "momentum")
"""Of a method's numbers those that are searched; the others stay where they start."""

RANKS = {"1/8": 1 / 8, "1/4": QUARTER, "1/2": 1 / 2}
"""r by the compressed side n, by the name in the tables."""

FREQUENT_INTERVAL = 10
FREQUENT = (
    f"galore, every {FREQUENT_INTERVAL}",
    f"galore, every {FREQUENT_INTERVAL}, importance",
)
"""Dominant and sampled subspaces that change often, for short trainings that are looked into."""

PENALTY = 0.1

ORTHONORMAL = {"learning_rate": 0.08, "momentum": 0.5}
SCALED = ADAM | {"learning_rate": 0.02}
"""Of methods that multiply the step by a quarter."""
SIGN = {"learning_rate": 0.000625, "b2": 0.98}
ADAFACTOR = {"learning_rate": 0.005}

INNER: dict[str, dict[str, float]] = {
    "lion": SIGN,
    "adafactor": ADAFACTOR,
    "adam_mini": ADAM,
    "adam8bit": ADAM,
}
"""Optimizers inside a subspace in place of Adam, and where the search of their numbers starts."""

DESCENT_INNER = ("lion", "adafactor", "adam8bit")
SAMPLING_INNER = ("adafactor", "adam_mini", "adam8bit")
"""Those of Online Subspace Descent's comparison with GaLore, and those of I3S."""


def _galore(start: Any, **options: Any) -> Method:
    options = {"rank": QUARTER, "update_interval": INTERVAL, "method": "gram"} | options
    return ours(lro.galore, start | {"learning_rate": 4 * start["learning_rate"]}, **options)


def _fira(projection: Any) -> Method:
    return ours(lro.fira, SCALED, projection=projection, update_interval=INTERVAL, rank=QUARTER)


def _frugal(projection: Any) -> Method:
    start = ADAM | {"learning_rate": 0.0025}
    return ours(lro.frugal, start, projection=projection, update_interval=INTERVAL, rank=QUARTER)


_osd = functools.partial(ours, lro.online_subspace_descent)


def _svd(select: str = "top") -> Any:
    return lro.projections.svd(QUARTER, select, method="gram")


def _by_rank(label: str, rank: float) -> dict[str, Method]:
    methods = {
        f"trion {label}": ours(lro.trion, ORTHONORMAL, rank=rank),
        f"dion {label}": ours(lro.dion, ORTHONORMAL, rank=rank),
        f"osd {label}": _osd(ADAM, rank=rank),
        f"galore {label}": _galore(ADAM, rank=rank),
    }
    # At a quarter some are of the recipes.
    return {name: method for name, method in methods.items() if name not in METHODS}


PAPERS: dict[str, Method] = {
    **{name: method for rank in RANKS.items() for name, method in _by_rank(*rank).items()},
    # Table 6 of 2505.17967; with the DCT they are of the recipes.
    "frugal svd": _frugal(_svd()),
    "frugal randperm": _frugal(lro.projections.identity(QUARTER, select="uniform")),
    "frugal random": _frugal("random"),
    "fira svd": _fira(_svd()),
    # Online Subspace Descent.
    **{f"osd {inner}": _osd(INNER[inner], rank=QUARTER, inner=inner) for inner in DESCENT_INNER},
    **{
        f"osd, basis by {name}": _osd(ADAM, rank=QUARTER, projection_optimizer=optimizer)
        for name, optimizer in PROJECTION_OPTIMIZERS.items()
    },
    "osd, penalty": _osd(ADAM, rank=QUARTER, penalty=PENALTY),
    # I3S.
    **{f"galore {inner}": _galore(INNER[inner], inner=inner) for inner in INNER},
    "galore 1/4, importance": _galore(ADAM, select="importance"),
    **{
        f"galore {inner}, importance": _galore(INNER[inner], inner=inner, select="importance")
        for inner in SAMPLING_INNER
    },
    "fira svd, importance": _fira(_svd("importance")),
    **{
        name: _galore(ADAM, update_interval=FREQUENT_INTERVAL, select=select)
        for name, select in zip(FREQUENT, ("top", "importance"), strict=True)
    },
}

if shared := METHODS.keys() & PAPERS.keys():
    raise ValueError(f"two methods are called {sorted(shared)}: one results' file cannot hold both")
METHODS |= PAPERS
