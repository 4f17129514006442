"""Every named optimizer, and a model whose leaves are of every kind."""

import functools
import itertools
from collections.abc import Iterable
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from covers import in_turn
from drawing import draw
from jaxtyping import DTypeLike
from methods import METHODS, QUICK
from optax.contrib import MuonDimensionNumbers

import lowrank_optax as lro

OPTIMIZERS = {
    "trion": functools.partial(lro.trion, 1e-2),
    "dct_adamw": functools.partial(lro.dct_adamw, 1e-2),
    "dct_adamw 4 bits": functools.partial(
        lro.dct_adamw, 1e-2, error_feedback="int4", update_interval=2
    ),
    "dion": functools.partial(lro.dion, 1e-2),
    "galore": functools.partial(lro.galore, 1e-1, update_interval=3, method="gram"),
    "galore hybrid": functools.partial(lro.galore, 1e-1, update_interval=3, select="hybrid"),
    "golore": functools.partial(lro.golore, 1e-1, update_interval=3, random_after=4),
    "ldadamw": functools.partial(lro.ldadamw, 1e-2),
    "frugal": functools.partial(lro.frugal, 1e-2, update_interval=3),
    "fira": functools.partial(lro.fira, 1e-2, update_interval=3),
    "online_subspace_descent": functools.partial(
        lro.online_subspace_descent, 1e-1, projection_optimizer=optax.adam(0.1)
    ),
    "tandem": functools.partial(lro.tandem, 1e-2),
    "tandem 4 bits": functools.partial(lro.tandem, 1e-2, rest="sinkhorn", mu_dtype="int4"),
    "dion3": functools.partial(lro.dion3, 1e-2, mu_dtype="int8"),
    "apollo": functools.partial(lro.apollo, 1e-1, update_interval=3),
    "alice0": functools.partial(lro.alice0, 1e-1, update_interval=3, method="gram"),
    "low_rank": functools.partial(
        lro.low_rank, 1e-2, update_interval=3, stagger=True, inner="lion", transport="rotate"
    ),
}

# Odd sizes, one row, stacked squares, heads; and leaves that are no matrices.
NUMBERS = {
    "wide": MuonDimensionNumbers(0, 1),
    "row": MuonDimensionNumbers(0, 1),
    "stack": MuonDimensionNumbers(1, 2),
    "heads": MuonDimensionNumbers(0, (1, 2)),
    "bias": None,
    "scalar": None,
    "nothing": None,
}
SHAPES = {
    "wide": (9, 4),
    "row": (1, 6),
    "stack": (2, 6, 6),
    "heads": (8, 2, 3),
    "bias": (7,),
    "scalar": (),
}

NAMES = [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow, id=name)
    for name in OPTIMIZERS
]
each_optimizer = pytest.mark.parametrize("name", NAMES)
one_half, other_half = (
    pytest.mark.parametrize(
        "name", [name for i, name in enumerate(NAMES) if name.id in QUICK or i % 2 == half]
    )
    for half in (0, 1)
)
"""For what the engine does whatever the method is; each method is in one of them."""
not_in_the_suite = pytest.mark.parametrize(
    "name", [one for one in NAMES if one.id in QUICK or one.id not in METHODS]
)
"""Of the others optax's own suite asks the same: test_optax_suite.py."""


def one_of(values: Iterable[Any]) -> list[Any]:
    """(name, value): every optimizer with one value in turn, those of `QUICK` with all."""
    others = [name for name in OPTIMIZERS if name not in QUICK]
    quick = itertools.product(QUICK, values)
    slow = (pytest.param(*case, marks=pytest.mark.slow) for case in in_turn(others, values))
    return [*quick, *slow]


def model(seed: int, dtype: DTypeLike = jnp.float32, scale: float = 1.0) -> dict[str, Any]:
    """Normal numbers in every leaf."""
    leaves = {
        name: jnp.asarray(scale * np.asarray(draw(shape, 10 * seed + i)), dtype)
        for i, (name, shape) in enumerate(SHAPES.items())
    }
    return leaves | {"nothing": None}
