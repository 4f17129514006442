"""What does not divide over the devices is whole where it must be, and right everywhere."""

import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilation import xla_flags
from covers import in_turn
from jax.sharding import PartitionSpec as P
from layouts import AXES, KINDS, METHODS, RANK, Case, Layout, misplaced

import lowrank_optax as lro

UNEVEN = {
    # 9 rows a device, and no way to split m instead: n is gathered.
    "n split, m odd": Layout((72, 101), P(AXES, None)),
    # A fourth of them: m divides by 2, by 8 it does not.
    "n over a, m over b": Layout((36, 54), P("a", "b")),
    # The state's m divides by none of the axes, so it stays whole.
    "zero, m odd": Layout((12, 45), P(), AXES),
    # Over one axis m is split already; over the other it would not divide.
    "m over b, zero": Layout((12, 54), P(None, "b"), AXES),
    # The batch is split, three matrices a device in one axis' direction.
    "layers, odd matrices": Layout((6, 9, 15), P("b", None, None)),
}
# Hadamard's n is a power of two; the DCT's is any.
ANY_SIZE = METHODS | {"low_rank": functools.partial(lro.low_rank, 0.01, RANK)}
CASES = in_turn(ANY_SIZE, KINDS, UNEVEN)
# These begin with singular vectors: from the Gram matrix on several devices, exact on one.
GRAM_ON_SEVERAL = ("golore", "fira", "ldadamw", "online_subspace_descent")


@pytest.mark.product(every=99)
@pytest.mark.parametrize(("method", "kind", "layout"), CASES)
def test_two_steps_are_those_of_one_device(method, kind, layout):
    case = Case(ANY_SIZE[method], UNEVEN[layout], kind)
    places = case.state_shardings()
    state = jax.jit(case.optimizer.init, out_shardings=places)(case.params)
    update = jax.jit(case.optimizer.update, out_shardings=(None, places))
    expected_state, reference = case.reference.init(case.here), jax.jit(case.reference.update)
    for step in range(2):
        gradients = case.gradients(step)
        expected, expected_state = reference(gradients, expected_state, case.here)
        gradients = jax.device_put(gradients, case.shardings)
        updates, state = update(gradients, state, case.params)
        assert not misplaced(state, places)
        for name, wanted in expected.items():
            close = 2e-3 if name == "kernel" and method in GRAM_ON_SEVERAL else 2e-5
            scale = float(jnp.max(jnp.abs(wanted)))
            np.testing.assert_allclose(updates[name], wanted, rtol=0, atol=close * scale)


@pytest.mark.product(every=12)
@pytest.mark.parametrize("method", ANY_SIZE)
def test_without_being_told_where_init_and_update_agree(method):
    case = Case(ANY_SIZE[method], UNEVEN["n split, m odd"], KINDS[1])
    with jax.set_mesh(case.mesh):
        state = jax.jit(case.optimizer.init)(case.params)
    update = jax.jit(case.optimizer.update)
    for step in range(2):
        gradients = jax.device_put(case.gradients(step), case.shardings)
        _, state = update(gradients, state, case.params)
    assert update._cache_size() == 1


SIXTEEN = """
import jax, numpy as np, optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
import lowrank_optax as lro

kind = AxisType.{kind}
mesh = jax.make_mesh((16,), ("d",), axis_types=(kind,))
G = np.random.default_rng(0).normal(size=(24, 72)).astype(np.float32)
numbers = optax.contrib.MuonDimensionNumbers()
for make in (lro.trion, lro.dct_adamw, lro.tandem):
    def steps(tx, x, **placed):
        state = jax.jit(tx.init, **placed)(x)
        for _ in range(2):
            u, state = jax.jit(tx.update)(x, state)
        return np.asarray(u)
    tx = make(0.1, 4, dimension_numbers=numbers, zero_axis="d")
    whole = NamedSharding(mesh, P())
    there = jax.device_put(G, whole)
    split = steps(tx, there, out_shardings=lro.state_shardings(tx, there, whole))
    here = steps(make(0.1, 4, dimension_numbers=numbers), G)
    np.testing.assert_allclose(split, here, atol=2e-5 * np.abs(here).max())
    report = lro.memory_report(tx, there)
    assert report.replicated == ("",), report
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
def test_72_rows_over_16_devices_stay_whole_and_are_right(kind):
    flags = {"XLA_FLAGS": xla_flags(devices=16), "JAX_PLATFORMS": "cpu"}
    program = SIXTEEN.replace("{kind}", kind)
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | flags)
    assert done.returncode == 0, done.stderr
