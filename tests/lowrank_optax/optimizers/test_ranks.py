"""A rank above a matrix's smaller dimension is that dimension, on either side."""

import chex
import pytest
from methods import compiled, draw, each_method, make

import lowrank_optax as lro

SHAPES = [(4, 8), (8, 4), (1, 6)]
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
each_side = pytest.mark.parametrize("compress", ["in", "out"])


def updates(tx, shape):
    """Three steps, past a refresh."""
    params = {"kernel": draw(0, shape)}
    tx = compiled(tx)
    state = tx.init(params)
    for step in range(1, 4):
        update, state = tx.update({"kernel": draw(step, shape)}, state, params)
        yield update["kernel"]


@pytest.mark.parametrize("rank", [100, 1.0])
@each_side
@each_shape
@each_method
def test_a_rank_above_the_smaller_dimension_is_that_dimension(name, shape, compress, rank):
    large = list(updates(make(name, rank=rank, compress=compress), shape))
    chex.assert_tree_all_finite(large)
    chex.assert_trees_all_equal(
        large, list(updates(make(name, rank=min(shape), compress=compress), shape))
    )


@each_side
@each_shape
def test_the_table_of_matrices_shows_the_rank_that_is_used(shape, compress):
    (spec,) = lro.matrix_specs({"kernel": draw(0, shape)}, 100, compress=compress)
    assert spec.rank == min(shape)
