"""Checkpoints: complete round trips, which are kept, damage, and full disks."""

import contextlib
import errno
import os
import resource
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from training.checkpoints.integrity import fingerprints
from training.checkpoints.manager import Checkpoints
from training.checkpoints.reader import CheckpointReader, UnreadableCheckpointError
from training.checkpoints.trees import by_path, tree_differences
from training.config.groups import CheckpointOptions
from training.errors import TrainingFailedError
from training.files import is_disk_full
from training.steps.mesh import make_mesh


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
    with contextlib.closing(
        Checkpoints(tmp_path / "checkpoints", CheckpointOptions())
    ) as checkpoints:
        yield checkpoints


@contextlib.contextmanager
def full_disk_after(size):
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
    restored, data = checkpoints.read(3, abstract(state, devices=2))
    assert data == {"next_index": 7}
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    for new, old in zip(jax.tree.leaves(restored), jax.tree.leaves(state), strict=True):
        assert new.dtype == old.dtype
        assert len(new.sharding.device_set) == 2
        np.testing.assert_array_equal(np.asarray(new), np.asarray(old))


@pytest.mark.product(every=3)
@pytest.mark.parametrize(
    ("options", "kept"),
    [({}, [9]), ({"keep_best": 2}, [2, 5, 9]), ({"keep_every": 4}, [4, 8, 9])],
)
def test_the_newest_the_best_and_every_so_manyth_are_kept(tmp_path, options, kept):
    """The losses are known again when a run is resumed, and not every step has one."""
    losses = {2: 1.0, 3: 3.0, 5: 2.0, 9: 4.0}
    options = CheckpointOptions(keep_checkpoints=1, **options)
    for steps in (range(1, 6), range(6, 10)):
        with contextlib.closing(Checkpoints(tmp_path, options)) as checkpoints:
            for step in steps:
                checkpoints.save(step, {"a": jnp.ones(3)}, {}, losses.get(step))
            checkpoints.wait()
            assert checkpoints.steps()[0] == step
            assert checkpoints.describe_latest() == str(tmp_path / str(step))
    assert sorted(int(path.name) for path in tmp_path.iterdir()) == kept


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
    with full_disk_after(20_000):
        checkpoints.save(2, state, {})
        with pytest.raises(TrainingFailedError, match="no space left") as failure:
            checkpoints.wait()
    assert f"last good checkpoint: {checkpoints.folder}/1" in str(failure.value)
    assert "--resume" in str(failure.value)
    restored, _ = checkpoints.read(1, abstract(state))
    np.testing.assert_array_equal(restored["kernel"], state["kernel"])
    assert "SignalingThread" not in capfd.readouterr().err


def test_the_tree_of_a_checkpoint_differs_from_another_optimizers_by_paths(checkpoints, state):
    checkpoints.save(1, state, {})
    checkpoints.wait()
    params = {"a": {"kernel": jnp.zeros((10, 10))}, "c": state.params["b"]}
    other = State(state.step, params, optax.sgd(0.1).init(params))
    tree = checkpoints.read_tree(1)
    assert tree_differences(tree, state) == ""
    lines = tree_differences(tree, other).splitlines()
    assert (
        "  params/a/kernel: float32(100000,) in the checkpoint, float32(10, 10) expected" in lines
    )
    assert "  params/b: bfloat16(3, 2) in the checkpoint, not expected" in lines
    assert "  params/c: missing in the checkpoint, bfloat16(3, 2) expected" in lines
    assert "  optimizer_state/1/0/count: int32() in the checkpoint, not expected" in lines


def test_a_reader_takes_some_arrays_and_changes_nothing_of_a_run_under_way(checkpoints, state):
    checkpoints.save(1, state, {})
    checkpoints.wait()
    (checkpoints.folder / "2.orbax-checkpoint-tmp/state").mkdir(parents=True)
    before = {path: path.stat().st_mtime_ns for path in Path(checkpoints.folder).rglob("*")}
    wanted = {f"params/{path}": array for path, array in by_path(abstract(state, 2).params).items()}
    reader = CheckpointReader(checkpoints.folder)
    arrays = reader.read_some(reader.steps()[0], wanted)
    assert arrays.keys() == wanted.keys()
    np.testing.assert_array_equal(arrays["params/a/kernel"], state.params["a"]["kernel"])
    after = {path: path.stat().st_mtime_ns for path in Path(checkpoints.folder).rglob("*")}
    assert before == after


def largest_file(folder):
    files = (path for path in Path(folder).rglob("*") if path.is_file())
    return max(files, key=lambda path: path.stat().st_size)


def cut_array_file(folder):
    path = largest_file(folder)
    os.truncate(path, path.stat().st_size // 2)


def change_a_bit(folder):
    path = largest_file(folder)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


def empty(folder):
    folder.rmtree()
    folder.mkdir()


def write_position(text):
    return lambda folder: (folder / "data" / "metadata").write_text(text)


DAMAGES = {
    "array file cut short": (cut_array_file, r"state/ocdbt.* has [\d,]+ bytes instead of [\d,]+"),
    "array file missing": (
        lambda folder: largest_file(folder).unlink(),
        "state/ocdbt.* is missing",
    ),
    "a bit changed": (change_a_bit, r"params/a/kernel\d is not what was saved"),
    "no metadata": (lambda f: (f / "state/_METADATA").unlink(), "state/_METADATA is missing"),
    "empty folder": (empty, "files.json is missing: it is not complete"),
    "position cut short": (write_position('{"next'), "data/metadata has 6 bytes instead of 17"),
    "position damaged": (write_position('{"next_index": 7]'), "JSONDecodeError: Expecting"),
    "another position": (write_position('{"next_index": 8}'), "the position in the data is not wh"),
    "fingerprints damaged": (
        lambda f: (f / "fingerprints/metadata").write_text("{}"),
        "fingerprints/metadata has 2 bytes",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_found_and_the_damage_named(checkpoints, damage, capfd):
    """In one line, and without the tracebacks of Orbax's threads."""
    kernels = {f"kernel{i}": jax.random.normal(jax.random.key(i), (100, 100)) for i in range(9)}
    state = {"params": {"a": kernels}}
    for step in (1, 2):
        checkpoints.save(step, state, {"next_index": 7})
    checkpoints.wait()
    harm, message = DAMAGES[damage]
    harm(checkpoints.folder / "2")
    assert checkpoints.steps() == [2, 1]
    with pytest.raises(UnreadableCheckpointError, match=message) as failure:
        checkpoints.read_tree(2) and checkpoints.read(2, abstract(state))
    assert "\n" not in str(failure.value)
    assert str(failure.value).startswith(f"checkpoint {checkpoints.folder}/2 cannot be read: ")
    assert capfd.readouterr().err == ""
    restored, _ = checkpoints.read(1, abstract(state))
    assert fingerprints(restored) == fingerprints(state)


def test_a_checkpoint_set_aside_is_kept_and_makes_room_for_another(checkpoints, state):
    for _ in range(2):
        checkpoints.save(5, state, {})
        checkpoints.wait()
        checkpoints.set_aside(5)
        assert checkpoints.steps() == []
    kept = checkpoints.folder.parent / "unreadable-checkpoints"
    assert sorted(path.name for path in kept.iterdir()) == ["5", "5-2"]
    assert (kept / "5-2/state/_METADATA").exists()


def test_an_interrupted_save_is_told_of(tmp_path, state):
    half = tmp_path / "checkpoints" / "7.orbax-checkpoint-tmp"
    (half / "state").mkdir(parents=True)
    with contextlib.closing(Checkpoints(half.parent, CheckpointOptions())) as checkpoints:
        assert checkpoints.unfinished == [7]
        assert checkpoints.steps() == []
        checkpoints.save(7, state, {})
        checkpoints.wait()
        assert checkpoints.steps() == [7]
    assert not half.exists()


@pytest.mark.product(every=3)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "uint8", "int32", "bool"])
def test_a_fingerprint_notices_every_entry_and_its_place(dtype):
    array = jnp.arange(24).reshape(4, 6).astype(dtype)
    changed = [array.at[i, j].set(array[i, j] == 0) for i in range(4) for j in range(6)]
    numbers = {fingerprints({"x": x})["x"] for x in (array, array[::-1], array.T, *changed)}
    # Transposed, those bools are in memory as they were: the shape is compared apart.
    assert len(numbers) == (26 if dtype == "bool" else 27)


def test_a_fingerprint_is_the_same_on_any_devices(state):
    array = jax.random.normal(jax.random.key(0), (16, 8))
    mesh = make_mesh({"data": 4, "fsdp": 2})
    split = jax.device_put(array, NamedSharding(mesh, PartitionSpec("data", "fsdp")))
    assert fingerprints([split]) == fingerprints([array])


def test_many_differences_are_counted():
    arrays = {f"{i:02}": jnp.zeros(i) for i in range(11)}
    lines = tree_differences(arrays, {}).splitlines()
    assert len(lines) == 9
    assert lines[0] == "  00: float32(0,) in the checkpoint, not expected"
    assert lines[-1] == "  and 3 more"
    assert tree_differences(arrays, arrays) == ""


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
