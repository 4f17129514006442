"""State bytes equal their closed form, for every matrix and in all."""

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
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
    # The engine's step count and key, and the step count of the other leaves' Adam.
    assert memory.shared_bytes == 4 + 8 + 4


def test_the_momentum_can_be_kept_in_half_precision():
    memory = report(lro.trion, mu_dtype=jnp.bfloat16)
    assert memory["kernel"].state_bytes == 2 * 40 * 10 + 4 * 4


@pytest.mark.parametrize(("mu_dtype", "bits"), [("int8", 8), ("int4", 4)])
def test_dions_momentum_can_be_kept_in_few_bits_and_a_scale_a_block(mu_dtype, bits):
    memory = report(lro.dion, mu_dtype=mu_dtype)
    # 40 columns of 10 codes, one block; and the right factor.
    assert memory["kernel"].state_bytes == 40 * (10 * bits // 8 + 4) + 4 * 10 * 4


def test_dct_adamw_holds_two_moments_of_rank_r_and_indices_and_nothing_else():
    memory = report(lro.dct_adamw, error_feedback=None)
    assert memory["layers/kernel"].state_bytes == 3 * (2 * 4 * 30 * 4 + 4 * 4)
    assert memory["kernel"].state_bytes == 2 * 4 * 40 * 4 + 4 * 4
    # The same, and the step count of the Adam inside.
    assert memory.shared_bytes == 4 + 8 + 4 + 4


@pytest.mark.parametrize(
    ("mu_dtype", "mu_bytes"), [(None, 4 * 40), ("bfloat16", 2 * 40), ("int8", (1 + 4) * 40)]
)
def test_apollo_mini_holds_one_row_of_moments_a_direction_and_the_norm_of_the_last_step(
    mu_dtype, mu_bytes
):
    tx = lro.apollo_mini(0.1, dimension_numbers=NUMBERS, mu_dtype=mu_dtype)
    memory = lro.memory_report(tx, PARAMS)
    assert memory["kernel"].state_bytes == mu_bytes + 4 * 40 + 4 * 10 + 4


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


@pytest.mark.parametrize("kind", [list, tuple])
def test_a_list_of_parameters_is_not_taken_for_a_chain(kind):
    params = kind([PARAMS["kernel"], PARAMS["bias"]])
    memory = lro.memory_report(optax.chain(optax.clip(1.0), lro.trion(0.1, 4)), params)
    assert memory["0"].state_bytes == 4 * 40 * 10 + 4 * 4
    assert memory["1"].state_bytes == 2 * 4 * 7
    assert memory.shared_bytes == 4 + 8 + 4


def test_a_single_array_shares_its_step_count_with_nobody():
    memory = lro.memory_report(optax.adam(0.1), PARAMS["bias"])
    assert (memory[""].state_bytes, memory.shared_bytes) == (2 * 4 * 7, 4)


def test_an_unknown_path_is_explained():
    with pytest.raises(KeyError, match="no parameter 'x'; the paths are"):
        report(lro.trion)["x"]


def on_mesh(kind=AxisType.Auto, **partitions):
    """A kernel, one that does not divide, and a bias, on 4 × 2 devices."""
    mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(kind, kind))
    shapes = {"kernel": (16, 32), "odd": (9, 15), "bias": (16,)}
    return {
        name: jax.ShapeDtypeStruct(
            shape, jnp.float32, sharding=NamedSharding(mesh, partitions.get(name, P()))
        )
        for name, shape in shapes.items()
    }


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=lambda kind: kind.name)
def test_on_a_mesh_the_report_says_what_each_device_holds(kind):
    params = on_mesh(kind, kernel=P(None, ("a", "b")))
    memory = lro.memory_report(lro.trion(0.1, 4), params)
    assert memory["kernel"].state_bytes == 4 * 16 * 32 + 4 * 4
    assert memory["kernel"].device_bytes == 4 * 16 * 32 // 8 + 4 * 4
    assert memory["bias"].device_bytes == memory["bias"].state_bytes == 2 * 4 * 16
    assert memory.replicated == ("bias", "odd")
    state = lro.trion(0.1, 4).init(jax.tree.map(jnp.zeros_like, params))
    held = [x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(state)]
    assert memory.device_bytes == sum(held)


def test_zero_splits_what_divides_and_the_table_says_what_stays_replicated():
    memory = lro.memory_report(lro.trion(0.1, 4, zero_axis=("a", "b")), on_mesh())
    assert memory["kernel"].device_bytes == 4 * 16 * 32 // 8 + 4 * 4
    assert memory["bias"].device_bytes == 2 * 4 * 16 // 8
    assert memory["odd"].device_bytes == memory["odd"].state_bytes
    assert memory.replicated == ("odd",)
    lines = {line.split()[0]: line.split() for line in str(memory).splitlines()}
    assert str(memory).splitlines()[0].endswith("device bytes  split")
    assert lines["bias"][-2:] == ["16", "1/8"]
    assert lines["odd"][-2:] == ["556", "replicated"]
    assert lines["total"][-1] == f"{memory.device_bytes:,}"


def test_without_several_devices_there_is_nothing_to_say_of_them():
    memory = report(lro.trion)
    assert memory.devices == 1
    assert memory.device_bytes == memory.total_bytes
    assert memory.replicated == ()
    assert "device" not in str(memory)
    one = NamedSharding(jax.make_mesh((1,), ("a",)), P())
    params = {"w": jax.ShapeDtypeStruct((16, 32), jnp.float32, sharding=one)}
    assert str(lro.memory_report(lro.trion(0.1, 4), params)) == str(
        lro.memory_report(lro.trion(0.1, 4), {"w": jnp.ones((16, 32))})
    )


def test_the_report_follows_the_side_that_is_whole():
    def memory(partition):
        params = on_mesh(kernel=partition)
        sides = lro.unsharded_sides(params, jax.tree.map(lambda leaf: leaf.sharding, params))
        tx = lro.dct_adamw(0.1, 4, error_feedback=None, compress=sides)
        return lro.memory_report(tx, params)["kernel"]

    rows, columns, indices = memory(P(None, ("a", "b"))), memory(P(("a", "b"), None)), 4 * 4
    assert rows.state_bytes == 2 * 4 * 32 * 4 + indices
    assert columns.state_bytes == 2 * 4 * 16 * 4 + indices
    assert columns.device_bytes == 2 * 4 * 2 * 4 + indices


def test_arrays_off_the_mesh_count_as_whole_on_every_device():
    params = on_mesh(kernel=P(None, "b")) | {"odd": jnp.ones((9, 15))}
    memory = lro.memory_report(lro.trion(0.1, 4), params)
    assert memory["odd"].device_bytes == memory["odd"].state_bytes
    assert memory["kernel"].device_bytes == 4 * 16 * 32 // 2 + 4 * 4
