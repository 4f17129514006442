"""The static specification of a leaf: view, compressed side, rank, and messages for bad input."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optax.contrib import MuonDimensionNumbers

import lowrank_optax as lro
from lowrank_optax.linalg.arguments import check_rank, resolve_rank

KERNEL = MuonDimensionNumbers(reduction_axis=0, output_axis=1)


def spec_of(shape, numbers=KERNEL, **settings):
    (spec,) = lro.matrix_specs(jnp.zeros(shape), dimension_numbers=numbers, **settings)
    return spec


@pytest.mark.parametrize(
    ("shape", "side", "m", "n"),
    [((4, 8), "in", 8, 4), ((8, 4), "out", 8, 4), ((6, 6), "in", 6, 6)],
)
def test_the_smaller_side_is_compressed_and_a_tie_compresses_in(shape, side, m, n):
    spec = spec_of(shape)
    assert (spec.side, spec.m, spec.n) == (side, m, n)


def test_the_compressed_axis_is_last_and_the_view_is_undone():
    leaf = jnp.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    spec = spec_of(leaf.shape, MuonDimensionNumbers(reduction_axis=1, output_axis=(2, 3)))
    assert (spec.batch, spec.m, spec.n, spec.fan_in, spec.fan_out) == ((2,), 20, 3, 3, 20)
    matrix = spec.to_matrix(leaf)
    np.testing.assert_array_equal(matrix[1, :, 2], leaf[1, 2].reshape(-1))
    np.testing.assert_array_equal(spec.from_matrix(matrix), leaf)


@given(
    shape=st.permutations([2, 3, 5, 7]),
    axes=st.permutations(range(4)),
    compress=st.sampled_from(["smallest", "in", "out"]),
)
def test_any_dimension_numbers_round_trip(shape, axes, compress):
    numbers = MuonDimensionNumbers(reduction_axis=axes[0], output_axis=(axes[1] - 4, axes[2]))
    leaf = np.random.default_rng(0).normal(size=shape)
    spec = spec_of(shape, numbers, compress=compress)
    matrix = spec.to_matrix(jnp.asarray(leaf))
    chex.assert_shape(matrix, (*spec.batch, spec.m, spec.n))
    np.testing.assert_array_equal(spec.from_matrix(matrix), jnp.asarray(leaf))


@given(n=st.integers(1, 500), fraction=st.floats(0.001, 1.0), rank=st.integers(1, 1000))
def test_rank_is_clipped_and_a_fraction_is_of_the_compressed_axis(n, fraction, rank):
    assert resolve_rank(rank, n) == min(rank, n)
    assert resolve_rank(fraction, n) == max(1, round(fraction * n))


def test_a_half_column_rounds_to_even_as_published():
    assert resolve_rank(0.25, 10) == 2


def test_default_mask_is_matrices_that_are_no_embeddings_heads_or_norms():
    leaf = jax.ShapeDtypeStruct((4, 4), jnp.float32)
    others = ("embed_tokens", "wte", "lm_head", "head", "final_norm", "ln_1", "position_embedding")
    matrices = ("kernel", "attention_heads", "o_proj", "output", "linear", "learned")
    params = dict.fromkeys(others + matrices, leaf)
    params["bias"] = jax.ShapeDtypeStruct((4,), jnp.float32)
    mask = lro.matrix_dimension_numbers(params)
    chosen = {name for name, value in mask.items() if value is not None}
    assert chosen == set(matrices)
    everything = lro.matrix_dimension_numbers(params, exclude="^$")
    assert everything["wte"] == KERNEL
    assert everything["bias"] is None


def test_dimension_numbers_may_be_a_tree_a_prefix_a_function_or_patterns():
    params = {"a": {"x": jnp.zeros((2, 3)), "y": jnp.zeros((4, 5))}, "b": jnp.zeros((6, 7))}
    forms = [
        {"a": {"x": KERNEL, "y": KERNEL}, "b": None},
        {"a": KERNEL, "b": None},
        lambda tree: jax.tree.map(lambda leaf: KERNEL if leaf.shape[0] < 6 else None, tree),
        [("^a/", KERNEL)],
    ]
    for form in forms:
        table = lro.matrix_specs(params, dimension_numbers=form)
        assert [spec.path if spec else None for spec in table] == ["a/x", "a/y", None]


def test_the_table_prints_every_leaf():
    params = {"w": jnp.zeros((3, 4, 8)), "b": jnp.zeros(8)}
    table = lro.matrix_specs(
        params, 0.5, dimension_numbers={"w": MuonDimensionNumbers(1, 2), "b": None}
    )
    lines = str(table).splitlines()
    assert lines[0].split() == ["path", "shape", "view", "(b,", "m,", "n)", "compressed", "rank"]
    assert lines[2].split() == ["b", "(8,)", "-", "-", "-"]
    assert lines[3].split() == ["w", "(3,", "4,", "8)", "(3,", "8,", "4)", "in", "2"]


def test_an_empty_tree_has_an_empty_table():
    assert len(lro.matrix_specs({})) == 0


@pytest.mark.parametrize(
    ("rank", "error", "message"),
    [
        (0, ValueError, "rank=0 must be at least 1"),
        (-3, ValueError, "rank=-3 must be at least 1"),
        (1.5, ValueError, r"rank=1.5 .* \(0, 1\]; for a number of columns pass an int"),
        (0.0, ValueError, r"rank=0.0 .* \(0, 1\]"),
        (True, TypeError, "rank=True must be an int or a fraction"),
        ("8", TypeError, "rank='8' must be an int or a fraction"),
        (jnp.asarray(4), TypeError, r"static_args=\('rank', ...\)"),
    ],
)
def test_a_bad_rank_is_explained(rank, error, message):
    with pytest.raises(error, match=message):
        check_rank(rank)


def test_every_entry_point_checks_the_rank():
    for make in (lro.projections.dct, lro.scale_by_trion, lambda r: lro.trion(0.1, r)):
        with pytest.raises(ValueError, match="rank=0 must be at least 1"):
            make(0)


def test_an_unknown_side_is_explained():
    with pytest.raises(ValueError, match="compress='left' is unknown; use one of"):
        lro.trion(0.1, compress="left").init({"a": jnp.zeros((2, 3))})


@pytest.mark.parametrize(
    ("dimension_numbers", "error", "message"),
    [
        ({"a": MuonDimensionNumbers(0, 2)}, ValueError, r"a of shape \(2, 3\): output_axis=2"),
        ({"a": MuonDimensionNumbers(0, 0)}, ValueError, r"a of shape \(2, 3\).*overlap"),
        ({"b": KERNEL}, ValueError, "says nothing about a"),
        ({"a": "matrix"}, TypeError, "at a is 'matrix'; use optax.contrib"),
        ([("zzz", KERNEL)], ValueError, "'zzz' matches no parameter; the paths are a"),
        ([("a", KERNEL), ("^a$", None)], ValueError, "a is matched by two .* exclusive"),
        ([("(", KERNEL)], ValueError, r"'\(' is not a regular expression"),
    ],
)
def test_a_bad_specification_is_explained(dimension_numbers, error, message):
    with pytest.raises(error, match=message):
        lro.matrix_specs({"a": jnp.zeros((2, 3))}, dimension_numbers=dimension_numbers)
