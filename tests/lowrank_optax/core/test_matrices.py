"""The static specification of a leaf: view, compressed side, rank, and messages for bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawing import draw
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
    ("shape", "side", "n", "m"),
    [((4, 8), "in", 4, 8), ((8, 4), "out", 4, 8), ((6, 6), "in", 6, 6)],
)
def test_the_smaller_side_is_compressed_and_a_tie_compresses_in(shape, side, n, m):
    spec = spec_of(shape)
    assert (spec.side, spec.n, spec.m) == (side, n, m)


def test_a_kernel_whose_in_side_is_compressed_is_its_own_view():
    for shape, side in (((4, 8), "smallest"), ((8, 4), "in")):
        spec = spec_of(shape, compress=side)
        text = str(jax.make_jaxpr(spec.to_matrix)(jnp.zeros(shape)))
        assert spec.view == shape
        assert "transpose" not in text


def test_the_compressed_axis_is_first_and_the_view_is_undone():
    leaf = jnp.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    spec = spec_of(leaf.shape, MuonDimensionNumbers(reduction_axis=1, output_axis=(2, 3)))
    assert (spec.batch, spec.n, spec.m, spec.fan_in, spec.fan_out) == ((2,), 3, 20, 3, 20)
    matrix = spec.to_matrix(leaf)
    np.testing.assert_array_equal(matrix[1, 2], leaf[1, 2].reshape(-1))
    np.testing.assert_array_equal(spec.from_matrix(matrix), leaf)


@given(
    shape=st.permutations([2, 3, 5, 7]),
    axes=st.permutations(range(4)),
    compress=st.sampled_from(["smallest", "in", "out"]),
)
def test_any_dimension_numbers_round_trip(shape, axes, compress):
    numbers = MuonDimensionNumbers(reduction_axis=axes[0], output_axis=(axes[1] - 4, axes[2]))
    leaf = draw(tuple(shape))
    spec = spec_of(leaf.shape, numbers, compress=compress)
    matrix = spec.to_matrix(leaf)
    assert matrix.shape == spec.view == (*spec.batch, spec.n, spec.m)
    np.testing.assert_array_equal(spec.from_matrix(matrix), leaf)


@given(
    n=st.integers(1, 500),
    m=st.integers(1, 500),
    fraction=st.floats(0.001, 1.0),
    rank=st.integers(1, 1000),
)
def test_rank_is_clipped_and_a_fraction_is_of_the_compressed_axis(n, m, fraction, rank):
    most = min(n, m)
    assert resolve_rank(rank, n, most) == min(rank, most)
    assert resolve_rank(fraction, n, most) == min(max(1, round(fraction * n)), most)


def test_a_half_column_rounds_to_even_as_published():
    assert resolve_rank(0.25, 10, 10) == 2


@pytest.mark.parametrize("rank", [5, 1.0])
def test_the_rank_is_at_most_that_of_the_matrix_or_of_a_fixed_basis(rank):
    shapes = {"tall": (9, 4), "wide": (4, 9)}
    params = {name: jnp.ones(shape) for name, shape in shapes.items()}
    specs = lro.matrix_specs(params, rank, compress="in")
    assert [(spec.n, spec.rank) for spec in specs] == [(9, 4), (4, 4)]
    columns = {"tall": 5 if rank == 5 else 9, "wide": 4}
    for tx, expected in (
        (lro.trion(0.1, rank, compress="in"), columns),
        (lro.muon(0.1, compress="in"), {"tall": 9, "wide": 4}),
        (lro.dion(0.1, rank, compress="in"), {"tall": 4, "wide": 4}),
        (lro.galore(0.1, rank, compress="in"), {"tall": 4, "wide": 4}),
        (lro.ldadamw(0.1, rank, compress="in"), {"tall": 4, "wide": 4}),
    ):
        state = lro.matrix_states(jax.eval_shape(tx.init, params))[0]
        assert {name: basis.shape[-1] for name, basis in state.basis.items()} == expected


def test_an_axis_that_is_named_twice_is_refused_with_the_parameter():
    with pytest.raises(
        ValueError, match=r"w of shape \(4, 8\): reduction_axis=\(0, -2\) does not "
    ):
        lro.matrix_specs(
            {"w": jnp.ones((4, 8))}, dimension_numbers=MuonDimensionNumbers((0, -2), 1)
        )


def test_every_leaf_may_have_a_side_of_its_own():
    params = {"a": jnp.ones((4, 8)), "b": {"c": jnp.ones((4, 8)), "d": jnp.ones(3)}}
    for sides in ({"a": "out", "b": "in"}, {"a": "out", "b": {"c": "smallest", "d": None}}):
        specs = [spec for spec in lro.matrix_specs(params, compress=sides) if spec is not None]
        assert [spec.side for spec in specs] == ["out", "in"]
    with pytest.raises(ValueError, match="compress gives no side for b/c; it has a"):
        lro.matrix_specs(params, compress={"a": "out"})


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
    assert lines[0].split() == [
        *["path", "shape", "view", "(b,", "n,", "m)", "compressed", "rank", "bytes"],
        *["not", "a", "matrix", "because"],
    ]
    assert lines[2].split()[:5] == ["b", "(8,)", "-", "-", "-"]
    assert lines[3].split() == ["w", "(3,", "4,", "8)", "(3,", "4,", "8)", "in", "2", "384"]


def test_an_empty_tree_has_an_empty_table():
    assert lro.matrix_specs({}).specs == ()


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
    with pytest.raises(ValueError, match="compress='left' at a is unknown; use one of"):
        lro.trion(0.1, compress="left").init({"a": jnp.zeros((2, 3))})
    with pytest.raises(ValueError, match=r"is now compress=lro\.unsharded_sides"):
        lro.trion(0.1, compress="unsharded").init({"a": jnp.zeros((2, 3))})


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


@pytest.mark.parametrize("dtype", ["complex64", "int32"])
def test_dimension_numbers_cannot_make_a_matrix_of_what_is_not_real(dtype):
    params = {"w": jnp.ones((4, 8), dtype)}
    message = rf"w of shape \(4, 8\) is no matrix \({dtype}: not real.*give None for it"
    for numbers in ({"w": KERNEL}, [("w", KERNEL)], lambda params: {"w": KERNEL}):
        with pytest.raises(TypeError, match=message):
            lro.matrix_specs(params, dimension_numbers=numbers)
