"""Subspaces are chosen anew, and moments carried over, on eight devices as on one."""

import functools

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
import pytest
from covers import in_turn
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from layouts import LAYOUTS, Case, Layout, assert_close, misplaced

import lowrank_optax as lro

RANK, STEPS = 4, 5
every_other = functools.partial(functools.partial, update_interval=2)
REFRESHED = {
    "galore": every_other(lro.galore, 0.01, RANK),
    "galore, importance": every_other(lro.galore, 0.01, RANK, select="importance"),
    "golore": every_other(lro.golore, 0.01, RANK, random_after=3),
    "fira": every_other(lro.fira, 0.01, RANK),
    "frugal": every_other(lro.frugal, 0.01, RANK, projection="svd"),
    "ldadamw": functools.partial(lro.ldadamw, 0.01, RANK),
    "online_subspace_descent": functools.partial(lro.online_subspace_descent, 0.01, RANK),
    "dct_adamw": every_other(lro.dct_adamw, 0.01, RANK, error_feedback="float32"),
    "dct, rotate_moments": every_other(
        lro.low_rank, 0.01, RANK, projection="dct", transport="rotate_moments"
    ),
    "dct, staggered": every_other(lro.low_rank, 0.01, RANK, stagger=True, transport="reset"),
    "dct, adaptive": functools.partial(
        lro.low_rank, 0.01, RANK, update_interval=lro.adaptive(1, longest=4), transport="rotate"
    ),
}
SPLITS = [
    ("rows", AxisType.Explicit),
    ("both", AxisType.Auto),
    ("columns", AxisType.Explicit),
    ("zero", AxisType.Explicit),
    ("zero", AxisType.Auto),
]


def gradients(case, step):
    """Of a spectrum in which the leading singular vectors are apart from the others.

    Those of a random matrix are nearly interchangeable, and then any rounding decides.
    """
    found = case.gradients(step)
    U, _, Vt = jnp.linalg.svd(found["kernel"], full_matrices=False)
    found["kernel"] = (U * 2.0 ** -jnp.arange(U.shape[-1])) @ Vt
    return found


@functools.cache
def on_one_device(method, shape):
    case = Case(REFRESHED[method], Layout(shape, P()), AxisType.Auto)
    state, update = case.reference.init(case.here), jax.jit(case.reference.update)
    found = []
    for step in range(STEPS):
        updates, state = update(gradients(case, step), state, case.here)
        found.append(updates)
    return found, state


def tolerance(method):
    # Singular vectors are of the Gram matrix on several devices.
    return 2e-5 if method.startswith("dct") else 1e-3


def type_of(x):
    return x.shape, x.dtype, x.weak_type


@pytest.mark.product(every=99)
@pytest.mark.parametrize(("method", "split"), in_turn(REFRESHED, SPLITS))
def test_five_steps_with_refreshes_are_those_of_one_device(method, split):
    layout, kind = split
    case = Case(REFRESHED[method], LAYOUTS[layout], kind)
    places = case.state_shardings()
    state = jax.jit(case.optimizer.init, out_shardings=places)(case.params)
    update = jax.jit(case.optimizer.update)
    types = jax.tree.map(type_of, state)
    found, expected_state = on_one_device(method, LAYOUTS[layout].shape)
    for step, expected in enumerate(found):
        here = jax.device_put(gradients(case, step), case.shardings)
        updates, state = update(here, state, case.params)
        assert jax.tree.map(type_of, state) == types
        assert not misplaced(state, places)
        assert_close(updates, expected, tolerance(method))
    assert jax.tree.structure(state) == jax.tree.structure(expected_state)
    if kind is AxisType.Explicit:
        # Not even the types differ in which axes are split, so nothing is compiled twice.
        assert update._cache_size() == 1


@pytest.mark.product(every=3)
@pytest.mark.parametrize("method", ["galore", "ldadamw", "dct_adamw"])
def test_a_state_that_zero_split_over_eight_is_continued_on_two_without_it(method, tmp_path):
    """Through a checkpoint, after one refresh and before the next."""
    case = Case(REFRESHED[method], LAYOUTS["zero"], AxisType.Auto)
    state = jax.jit(case.optimizer.init, out_shardings=case.state_shardings())(case.params)
    update = jax.jit(case.optimizer.update)
    for step in range(3):
        here = jax.device_put(gradients(case, step), case.shardings)
        _, state = update(here, state, case.params)
    mesh = jax.make_mesh((2,), ("a",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    shardings = jax.tree.map(lambda _: NamedSharding(mesh, P()), case.shardings)
    shardings["kernel"] = NamedSharding(mesh, P(None, "a"))
    params = jax.device_put(case.here, shardings)
    places = lro.state_shardings(case.reference, params, shardings)
    shapes = jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), state, places
    )
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        state = checkpointer.restore(tmp_path / "state", shapes)
    assert not misplaced(state, places)
    found, _ = on_one_device(method, LAYOUTS["zero"].shape)
    for step in range(3, STEPS):
        here = jax.device_put(gradients(case, step), shardings)
        updates, state = case.reference.update(here, state, params)
        assert_close(updates, found[step], tolerance(method))
