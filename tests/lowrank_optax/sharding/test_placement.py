"""Every method computes on eight devices what it does on one, and moves little for it."""

import functools
import math

import jax
import numpy as np
import pytest
from drawing import draw
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from layouts import (
    AXES,
    KINDS,
    LAYOUTS,
    METHODS,
    Case,
    Layout,
    assert_close,
    compiled_collectives,
    eight_devices,
    kernel_numbers,
    misplaced,
)
from methods import compiled

import lowrank_optax as lro

EVERYWHERE = [
    (("trion", "dct_adamw")[(i + j) % 2], layout, kind)
    for i, layout in enumerate(LAYOUTS)
    for j, kind in enumerate(KINDS)
]
IN_SOME = [
    (method, layout, kind)
    for method in METHODS
    if method in ("dion", "low_rank", "tandem")  # the others in test_refreshes.py
    for layout, kind in zip(("both", "zero", "zero"), KINDS[::-1] + KINDS[-1:], strict=True)
]
M, N, R = 512, 64, 8
ROWS = Layout((N, M), P(None, AXES))


@functools.cache
def updates_on_one_device(method, shape):
    case = Case(METHODS[method], Layout(shape, P()), AxisType.Auto)
    state, update = case.reference.init(case.here), jax.jit(case.reference.update)
    found = []
    for step in range(2):
        updates, state = update(case.gradients(step), state, case.here)
        found.append(updates)
    return found


@pytest.mark.product(every=24)
@pytest.mark.parametrize(("method", "layout", "kind"), EVERYWHERE + IN_SOME)
def test_updates_on_eight_devices_equal_those_on_one(method, layout, kind):
    case = Case(METHODS[method], LAYOUTS[layout], kind)
    places = case.state_shardings()
    state = jax.jit(case.optimizer.init, out_shardings=places)(case.params)
    update = jax.jit(case.optimizer.update)
    for step, expected in enumerate(updates_on_one_device(method, LAYOUTS[layout].shape)):
        gradients = jax.device_put(case.gradients(step), case.shardings)
        updates, state = update(gradients, state, case.params)
        assert not misplaced(state, places)
        assert_close(updates, expected, 2e-5)


@pytest.mark.product(every=2)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_trion_with_split_rows_moves_n_plus_r_squared_plus_one_floats(kind):
    make = lambda **settings: lro.trion(0.02, R, **settings)
    found = compiled_collectives(make, ROWS, kind)
    assert {each.kind for each in found} == {"all-reduce"}
    # Scores of n columns, the Gram matrix of b, and its largest entry.
    assert sum(each.bytes for each in found) == 4 * (N + R * R + 1)


@pytest.mark.product(every=2)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_dct_adamw_with_split_rows_moves_n_floats(kind):
    make = lambda **settings: lro.dct_adamw(0.01, R, **settings)
    found = compiled_collectives(make, ROWS, kind)
    assert [(each.kind, each.bytes) for each in found] == [("all-reduce", 4 * N)]


@pytest.mark.product(every=4)
@pytest.mark.parametrize("mu_dtype", [None, "int8", "int4", "int2", "sign"])
def test_tandem_with_split_rows_adds_up_gram_matrices_and_scores(mu_dtype):
    make = lambda **settings: lro.tandem(0.01, R, mu_dtype=mu_dtype, **settings)
    found = compiled_collectives(make, ROWS, AxisType.Explicit)
    assert {each.kind for each in found} == {"all-reduce"}
    # Scores of n columns and of r with their momentum, the Gram matrices of the chosen rows and of
    # four blocks of the others, the largest entry of each of the five, and two lengths.
    grams = R * R + N * N // 4
    assert sum(each.bytes for each in found) == 4 * (N + R + grams + 5 + 2)


@pytest.mark.product(every=2)
@pytest.mark.parametrize("mu_dtype", ["int8", "int4"])
def test_dion_with_split_rows_moves_nothing_more_for_a_momentum_in_few_bits(mu_dtype):
    layout = Layout((512, 1024), P(None, AXES))  # two blocks of the compressed axis
    plain, stored = (
        compiled_collectives(functools.partial(lro.dion, 0.02, R, mu_dtype=dtype), layout)
        for dtype in (None, mu_dtype)
    )
    assert [(each.kind, each.bytes) for each in stored] == [
        (each.kind, each.bytes) for each in plain
    ]


def test_dions_codes_are_split_as_its_matrix_is():
    for spec, blocks in ((P(None, AXES), P(None, AXES)), (P(AXES, None), P(None, None))):
        case = Case(
            functools.partial(lro.dion, 0.02, R, mu_dtype="int8"),
            Layout((N, M), spec),
            AxisType.Auto,
        )
        (places,) = lro.matrix_states(case.state_shardings())
        found = places.residual["kernel"]
        assert (found.codes.spec, found.scale.spec) == (spec, blocks)


@pytest.mark.product(every=3)
@pytest.mark.parametrize("storage", ["int8", "int4", "float32"])
def test_feedback_with_split_rows_moves_nothing_more_however_it_is_stored(storage):
    n, m = 512, 1024  # two blocks of the compressed axis
    make = lambda **settings: lro.dct_adamw(0.01, R, error_feedback=storage, **settings)
    found = compiled_collectives(make, Layout((n, m), P(None, AXES)), AxisType.Explicit)
    assert [(each.kind, each.bytes) for each in found] == [("all-reduce", 4 * n)]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["trion", "dct_adamw", "dion"])
def test_split_layers_need_nothing_of_each_other(method):
    assert compiled_collectives(METHODS[method], LAYOUTS["layers"]) == []


@pytest.mark.product(every=99)
@pytest.mark.parametrize("method", METHODS)
def test_split_rows_are_never_gathered(method):
    """Not outside conditionals, and not inside them, where a refresh is."""
    for each in compiled_collectives(METHODS[method], ROWS):
        assert all(math.prod(shape) < M * N for shape in each.shapes), each


@pytest.mark.product(every=2)
@pytest.mark.parametrize("method", ["trion", "dct_adamw"])
def test_split_columns_change_places_with_rows_instead_of_being_gathered(method):
    columns = Layout((N, M), P(AXES, None))
    for each in compiled_collectives(METHODS[method], columns, AxisType.Explicit):
        assert each.bytes < 4 * M * N, each


@pytest.mark.product(every=2)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_mesh_of_one_device_changes_nothing(kind):
    mesh = jax.make_mesh((1,), ("a",), axis_types=(kind,))
    here = draw((16, 32), 1)
    there = jax.device_put(here, NamedSharding(mesh, P("a", None)))
    tx = compiled(lro.scale_by_trion(4, zero_axis="a"))
    updates, _ = tx.update(there, tx.init(there))
    expected, _ = tx.update(here, tx.init(here))
    np.testing.assert_allclose(updates, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.product
@pytest.mark.parametrize("jitted", [False, True], ids=["eager", "jitted"])
@pytest.mark.parametrize("set_mesh", [False, True], ids=["unset", "set"])
def test_explicit_axes_need_no_mesh_to_be_set_and_do_not_mind_one(set_mesh, jitted):
    mesh = eight_devices(AxisType.Explicit)
    here = draw((16, 32), 1)
    there = jax.device_put(here, NamedSharding(mesh, P(None, AXES)))
    tx = lro.scale_by_trion(4, dimension_numbers=kernel_numbers(here.shape))
    plain = compiled(tx)
    expected, _ = plain.update(here, plain.init(here))

    def step():
        state = tx.init(there)
        return (jax.jit(tx.update) if jitted else tx.update)(there, state)

    if set_mesh:
        with jax.set_mesh(mesh):
            updates, state = step()
    else:
        updates, state = step()
    np.testing.assert_allclose(updates, expected, rtol=1e-5, atol=1e-5)
    assert jax.typeof(updates).sharding.spec == P(None, AXES)
    assert state.residual.sharding.spec == P(None, AXES)
