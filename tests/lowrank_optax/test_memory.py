"""State bytes equal their closed form, for every matrix and in all."""

import jax
import jax.numpy as jnp
import optax
import pytest
from optax.contrib import MuonDimensionNumbers

import lowrank_optax as lro

PARAMS = {
    "layers": {"kernel": jax.ShapeDtypeStruct((3, 20, 30), jnp.float32)},
    "kernel": jax.ShapeDtypeStruct((40, 10), jnp.float32),
    "bias": jax.ShapeDtypeStruct((7,), jnp.float32),
}
NUMBERS = {
    "layers": MuonDimensionNumbers(1, 2),
    "kernel": MuonDimensionNumbers(0, 1),
    "bias": None,
}


def report(make, **settings):
    return lro.memory_report(make(0.1, 4, dimension_numbers=NUMBERS, **settings), PARAMS)


def test_trion_holds_its_momentum_and_indices_and_nothing_else():
    memory = report(lro.trion)
    assert memory["layers/kernel"].state_bytes == 3 * (4 * 20 * 30 + 4 * 4)
    assert memory["kernel"].state_bytes == 4 * 40 * 10 + 4 * 4
    assert memory["bias"].state_bytes == 2 * 4 * 7
    assert memory.shared_bytes == 4  # the step count of the other leaves' Adam


def test_the_momentum_can_be_kept_in_half_precision():
    memory = report(lro.trion, momentum_dtype=jnp.bfloat16)
    assert memory["kernel"].state_bytes == 2 * 40 * 10 + 4 * 4


def test_dct_adamw_holds_two_moments_of_rank_r_and_indices_and_nothing_else():
    memory = report(lro.dct_adamw, error_feedback=None)
    assert memory["layers/kernel"].state_bytes == 3 * (2 * 4 * 30 * 4 + 4 * 4)
    assert memory["kernel"].state_bytes == 2 * 4 * 40 * 4 + 4 * 4
    assert memory.shared_bytes == 8  # the step counts of the two Adams


def test_the_report_adds_up_and_knows_adamw():
    memory = report(lro.trion)
    state = jax.eval_shape(lro.trion(0.1, 4, dimension_numbers=NUMBERS).init, PARAMS)
    nbytes = [leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)]
    assert memory.total_bytes == sum(nbytes)
    adamw = lro.memory_report(optax.adamw(0.1), PARAMS)
    assert memory.adamw_bytes == adamw.adamw_bytes == adamw.total_bytes - adamw.shared_bytes


def test_the_report_prints_as_a_table():
    lines = str(report(lro.trion)).splitlines()
    assert lines[0].split()[:2] == ["path", "shape"]
    assert lines[-1].startswith("total")
    assert "1,616" in next(line for line in lines if line.startswith("kernel"))


def test_an_unknown_path_is_explained():
    with pytest.raises(KeyError, match="no parameter 'x'; the paths are"):
        report(lro.trion)["x"]
