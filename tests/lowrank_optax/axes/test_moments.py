"""Fields of an inner optimizer's state, among parameters that may have the same names."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from drawing import draw
from methods import compiled

import lowrank_optax as lro
from lowrank_optax.axes import moments

FIELDS = ("count", "ema", "mu", "nu", "trace")  # in alphabetical order, as the other names are
OTHERS = ("a", "b", "c", "d", "e")


class Attributes(NamedTuple):
    count: object
    ema: object
    mu: object
    nu: object
    trace: object


def as_keys(names, matrices):
    """Some of the names above those of leaves, some of leaves."""
    kernels = {name: {"kernel": leaf} for name, leaf in zip(names[:3], matrices, strict=False)}
    return kernels | dict(zip(names[3:], matrices[3:], strict=True))


@pytest.mark.product(every=5)
@pytest.mark.parametrize(
    "tx",
    [
        lro.golore(0.1, 2),
        lro.tandem(0.1, 2),
        lro.ldadamw(0.1, 2),
        lro.galore(0.1, 2, select="hybrid", update_interval=2),
        lro.dct_adamw(0.1, 2),
    ],
    ids=["golore", "tandem", "ldadamw", "galore", "dct_adamw"],
)
def test_the_names_of_parameters_mean_nothing(tx):
    tx, found = compiled(tx), []
    for names in (FIELDS, OTHERS):
        params = as_keys(names, [draw((4, 6), i) for i in range(5)])
        state = tx.init(params)
        for _ in range(3):
            updates, state = tx.update(params, state, params)
        found.append(jax.tree.leaves(updates))
    for got, expected in zip(*found, strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("params", [dict.fromkeys(FIELDS, 1.0), Attributes(*FIELDS)])
def test_a_field_is_found_by_its_own_name_and_by_no_parameters(params):
    params = jax.tree.map(lambda _: jnp.ones(2), params)
    state = optax.chain(optax.scale_by_adam(), optax.trace(0.9)).init(params)
    assert moments.only(state, "mu", params) is state[0].mu
    assert moments.only(state, "nu", params) is state[0].nu
    assert moments.only(state, "count", params) is state[0].count
    assert moments.only(state, "trace", params) is state[1].trace
    assert moments.only(state, "ema", params) is None
    leaves = [path for path, _ in jax.tree_util.tree_leaves_with_path(state)]
    within = [moments.is_within(path, moments.fields(state, "nu", params)) for path in leaves]
    assert sum(within) == len(FIELDS)
