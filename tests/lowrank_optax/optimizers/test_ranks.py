"""A rank above a matrix's dimensions is the full one, on either side."""

import chex
import pytest
from drawing import draw
from methods import compiled, each_method_with, make

import lowrank_optax as lro

SIDES = ("in", "out")
# By their smaller dimension.
SHAPES = {4: [(4, 8), (8, 4)], 1: [(1, 6), (6, 1)]}
each_smaller = pytest.mark.parametrize("smaller", SHAPES)


def kernels(smaller, seed):
    return {
        side: [draw(shape, seed + i) for i, shape in enumerate(SHAPES[smaller])] for side in SIDES
    }


def updates(tx, smaller):
    """Three steps, past a refresh."""
    params = kernels(smaller, 0)
    tx = compiled(tx)
    state = tx.init(params)
    for step in range(1, 4):
        update, state = tx.update(kernels(smaller, 10 * step), state, params)
        yield update


@pytest.mark.product(every=2)
@each_method_with("smaller", SHAPES)
def test_a_rank_above_both_dimensions_is_the_full_one(name, smaller):
    compress = {side: [side] * len(SHAPES[smaller]) for side in SIDES}
    large = list(updates(make(name, rank=100, compress=compress), smaller))
    chex.assert_tree_all_finite(large)
    full = list(updates(make(name, rank=1.0, compress=compress), smaller))
    chex.assert_trees_all_equal(large, full)


@pytest.mark.parametrize("rank", [100, 1.0])
@pytest.mark.parametrize("side", SIDES)
@each_smaller
def test_the_table_of_matrices_shows_the_rank_of_a_learned_subspace(smaller, side, rank):
    for spec in lro.matrix_specs(kernels(smaller, 0), rank, compress=side):
        assert spec.rank == smaller
        assert spec.side == side
