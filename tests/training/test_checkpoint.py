"""Checkpoints: complete round trips, the newest n, and full disks."""

import contextlib
import errno
import resource
import shutil
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from training.checkpoint import Checkpoints, describe_differences, is_disk_full
from training.errors import TrainingFailedError, UserError
from training.mesh import make_mesh


class State(NamedTuple):
    step: jax.Array
    params: dict
    optimizer_state: optax.OptState


@pytest.fixture
def state():
    params = {"a": {"kernel": jnp.arange(100_000.0)}, "b": jnp.ones((3, 2), jnp.bfloat16)}
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(0.1))
    return State(jnp.int32(3), params, optimizer.init(params))


def abstract(state, devices=1):
    sharding = NamedSharding(make_mesh({"data": devices}), PartitionSpec())
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state)


@pytest.fixture
def checkpoints(tmp_path):
    with contextlib.closing(Checkpoints(tmp_path / "checkpoints", keep=2)) as checkpoints:
        yield checkpoints


@contextlib.contextmanager
def largest_file(size):
    """Makes every write past `size` bytes of a file fail, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_round_trip_keeps_values_types_structure_and_data_position(checkpoints, state):
    checkpoints.save(3, state, {"next_index": 7})
    checkpoints.wait()
    restored, data = checkpoints.restore(3, abstract(state, devices=2))
    assert data == {"next_index": 7}
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    for new, old in zip(jax.tree.leaves(restored), jax.tree.leaves(state), strict=True):
        assert new.dtype == old.dtype
        assert len(new.sharding.device_set) == 2
        np.testing.assert_array_equal(np.asarray(new), np.asarray(old))


def test_only_the_newest_are_kept(checkpoints, state):
    assert checkpoints.latest_step() is None
    assert checkpoints.describe_latest() == "none was written"
    for step in (1, 2, 3):
        checkpoints.save(step, state, {})
    checkpoints.wait()
    assert checkpoints.latest_step() == 3
    assert checkpoints.describe_latest() == str(checkpoints.folder / "3")
    assert sorted(int(path.name) for path in checkpoints.folder.iterdir()) == [2, 3]


def test_a_disk_without_room_is_refused_before_anything_is_written(checkpoints, state, monkeypatch):
    checkpoints.save(1, state, {})
    checkpoints.wait()
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    with pytest.raises(TrainingFailedError, match=r"1,200,\d+ bytes are needed, 1,000 are free"):
        checkpoints.save(2, state, {})
    assert [path.name for path in checkpoints.folder.iterdir()] == ["1"]


def test_a_disk_that_fills_up_is_explained_and_leaves_the_earlier_checkpoint_intact(
    checkpoints, capfd
):
    # One array only: when several fail, TensorStore calls back into an event loop that Orbax has
    # closed by then, and Python reports that on its own.
    state = {"kernel": jnp.arange(100_000.0)}
    checkpoints.save(1, state, {})
    checkpoints.wait()
    with largest_file(20_000):
        checkpoints.save(2, state, {})
        with pytest.raises(TrainingFailedError, match="no space left") as failure:
            checkpoints.wait()
    assert f"last good checkpoint: {checkpoints.folder}/1" in str(failure.value)
    assert "--resume" in str(failure.value)
    restored, _ = checkpoints.restore(1, abstract(state))
    np.testing.assert_array_equal(restored["kernel"], state["kernel"])
    assert "SignalingThread" not in capfd.readouterr().err


def test_a_checkpoint_of_another_optimizer_is_refused_by_the_arrays_that_differ(checkpoints, state):
    checkpoints.save(1, state, {})
    checkpoints.wait()
    before = sorted(checkpoints.folder.rglob("*"))
    params = {"a": {"kernel": jnp.zeros((10, 10))}, "c": state.params["b"]}
    other = State(state.step, params, optax.sgd(0.1).init(params))
    with pytest.raises(UserError) as failure:
        checkpoints.restore(1, abstract(other))
    message = str(failure.value).splitlines()
    assert message[0] == (
        f"checkpoint {checkpoints.folder}/1 is of another model or optimizer; nothing was changed. "
        "Its arrays differ in"
    )
    assert (
        "  params/a/kernel: float32(100000,) in the checkpoint, float32(10, 10) expected" in message
    )
    assert "  params/b: bfloat16(3, 2) in the checkpoint, not expected" in message
    assert "  params/c: missing in the checkpoint, bfloat16(3, 2) expected" in message
    assert "  optimizer_state/1/0/count: int32() in the checkpoint, not expected" in message
    assert message[-1].startswith("Use the options that it was written with, or start a new run")
    assert sorted(checkpoints.folder.rglob("*")) == before


def test_many_differences_are_counted():
    arrays = {f"{i:02}": jnp.zeros(i) for i in range(11)}
    lines = describe_differences(arrays, {}).splitlines()
    assert len(lines) == 9
    assert lines[0] == "  00: float32(0,) in the checkpoint, not expected"
    assert lines[-1] == "  and 3 more"
    assert describe_differences(arrays, arrays) == ""


def test_other_errors_are_not_taken_for_a_full_disk(checkpoints):
    with pytest.raises(OSError, match="broken"), checkpoints.full_disk_explained():
        raise OSError(errno.EIO, "broken")


def test_a_full_disk_is_recognised_behind_other_exceptions():
    assert is_disk_full(OSError(errno.ENOSPC, "full"))
    assert is_disk_full(ValueError("RESOURCE_EXHAUSTED: No space left on device"))
    wrapped = RuntimeError("while saving")
    wrapped.__cause__ = OSError(errno.EDQUOT, "quota")
    assert is_disk_full(wrapped)
    assert not is_disk_full(ValueError("shapes differ"))
