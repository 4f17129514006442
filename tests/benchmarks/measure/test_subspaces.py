"""The errors of one matrix beside the optimum by Eckart and Young."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawing import decaying

from benchmarks.measure.subspaces import OPTIMUM, PROJECTIONS, WARM_STARTED, subspace_errors

RANK = 3


def falling(seed: int, n: int = 8) -> jax.Array:
    """A matrix (n, 12) whose singular values fall, so that subspaces differ."""
    return decaying((n, 12), seed, factor=0.6)[0]


def optimum(matrix: jax.Array) -> float:
    values = np.linalg.svd(np.asarray(matrix, np.float64), compute_uv=False)
    return float(np.linalg.norm(values[RANK:]) / np.linalg.norm(values))


@pytest.mark.slow
def test_the_svd_is_the_optimum_and_nothing_beats_it():
    matrix = falling(0)
    errors = subspace_errors(matrix, falling(1), RANK)
    assert set(errors) == set(PROJECTIONS)
    assert float(errors[OPTIMUM]) == pytest.approx(optimum(matrix), rel=1e-5)
    for name, error in errors.items():
        assert optimum(matrix) * (1 - 1e-5) <= float(error) <= 1, name
        if name != OPTIMUM:
            assert float(error) > 1.0001 * optimum(matrix), name


@pytest.mark.slow
def test_power_iteration_from_the_matrix_itself_finds_the_optimum():
    matrix = falling(0)
    errors = subspace_errors(matrix, matrix, RANK)
    assert float(errors[WARM_STARTED]) == pytest.approx(optimum(matrix), rel=1e-5)


@pytest.mark.slow
def test_a_batch_gives_every_matrix_its_own_errors():
    matrices, previous = (jnp.stack([falling(k), falling(k + 1)]) for k in (0, 2))
    together = subspace_errors(matrices, previous, RANK)
    for i in range(2):
        alone = subspace_errors(matrices[i], previous[i], RANK)
        # A batch of random subspaces is another draw than a single one.
        for name in alone.keys() - {"random"}:
            np.testing.assert_allclose(together[name][i], alone[name], rtol=1e-5)


@pytest.mark.slow
def test_hadamard_is_left_out_where_n_is_no_power_of_two():
    errors = subspace_errors(falling(0, n=6), falling(1, n=6), RANK)
    assert set(errors) == set(PROJECTIONS) - {"hadamard"}
