"""`benchmarks.measure.blocks`: what blocks, each orthonormalised by itself, have in common."""

import numpy as np
import pytest

from benchmarks.measure.blocks import in_blocks, shared, table


def draw(*shape):
    return np.random.default_rng(0).normal(size=shape)


def test_blocks_of_one_direction_step_there_as_often_as_there_are_blocks():
    block = draw(4, 64)
    found = shared(np.tile(block, (4, 1)), 4)
    assert found["largest"] == pytest.approx(4, rel=1e-5)
    assert found["directions"] == pytest.approx(1 / 4, rel=1e-5)
    assert found["cosine"] == pytest.approx(1 / 2, rel=1e-4)


def test_blocks_that_have_nothing_in_common_are_the_whole_matrix_orthonormalised():
    blocks = np.linalg.qr(draw(64, 16))[0].T * np.linspace(1, 9, 16)[:, None]
    assert shared(blocks, 4) == pytest.approx(
        {"largest": 1, "directions": 1, "cosine": 1}, rel=1e-4
    )


def test_every_block_has_orthonormal_rows():
    step = in_blocks(draw(16, 32), 2).reshape(2, 8, 32)
    np.testing.assert_allclose(step @ step.swapaxes(1, 2), np.tile(np.eye(8), (2, 1, 1)), atol=1e-5)


def test_the_table_has_means_over_the_matrices():
    found = {"largest": 3.0, "directions": 0.5, "cosine": 0.25}
    other = {"largest": 1.0, "directions": 1.0, "cosine": 0.75}
    row = table({"shared": {"gradient": {"4": {"q": found, "k": other}}}}).splitlines()[-1]
    assert [cell.strip() for cell in row.strip("|").split("|")] == [
        *("gradient", "4", "2.00", "0.75", "0.50")
    ]
