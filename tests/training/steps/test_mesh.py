"""Meshes: what --mesh takes and refuses, and that every layout trains to the same losses."""

import contextlib
import dataclasses

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from training.checkpoints.manager import Checkpoints
from training.config.groups import CheckpointOptions
from training.errors import UserError
from training.runs.summary import summarize
from training.steps.mesh import (
    batch_sharding,
    batch_shards,
    make_mesh,
    mesh_text,
    parse_mesh,
    process_rows,
)
from training.steps.update import step_arguments


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        (None, {"data": 8}),
        ("data=4", {"data": 4}),
        ("fsdp=8", {"fsdp": 8}),
        ("data=4,fsdp=2", {"data": 4, "fsdp": 2}),
        (" tensor = 2 , data=2,fsdp=2 ", {"data": 2, "fsdp": 2, "tensor": 2}),
        ("data=1,tensor=1", {"data": 1, "tensor": 1}),
    ],
)
def test_any_subset_of_the_axes_in_any_order_is_a_mesh(text, sizes):
    parsed = parse_mesh(text, available=8)
    assert list(parsed.items()) == list(sizes.items())  # outermost first
    mesh = make_mesh(parsed)
    assert dict(mesh.shape) == sizes
    assert set(mesh.axis_types) == {AxisType.Auto}
    assert parse_mesh(mesh_text(parsed), available=8) == parsed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data", r"--mesh data: expected axis=size,\.\.\., e\.g\. --mesh data=8"),
        ("", r"expected axis=size"),
        ("data=4,", r"expected axis=size"),
        ("model=2", r"unknown axis 'model'\. Known: data, fsdp, tensor\."),
        ("fdsp=2", r"unknown axis 'fdsp'\. Did you mean 'fsdp'\?"),
        ("data=2,data=4", r"the axis data is named more than once"),
        ("data=0", r"the size of data is '0', but must be an integer >= 1"),
        ("data=-1", r"the size of data is '-1'"),
        ("fsdp=two", r"the size of fsdp is 'two'"),
        (
            "data=99",
            r"only 8 device\(s\) .* takes 99; e\.g\. --mesh data=8\. For .*_count=99$",
        ),
        (
            "data=4,fsdp=4",
            r"only 8 device\(s\) .* takes 16; e\.g\. --mesh data=4,fsdp=2\. For more",
        ),
        (
            "tensor=3,fsdp=3,data=3",
            r"takes 27; e\.g\. --mesh tensor=2,fsdp=2,data=2\. For more",
        ),
    ],
)
def test_a_mesh_that_cannot_be_is_refused_with_what_can(text, message):
    with pytest.raises(UserError, match=message):
        parse_mesh(text, available=8)


def test_several_processes_must_use_all_their_devices():
    assert parse_mesh("data=4,fsdp=2", available=8, processes=2) == {"data": 4, "fsdp": 2}
    message = r"--mesh data=4 takes 4 of 8 devices, but 2 processes .*; e\.g\. --mesh data=8"
    with pytest.raises(UserError, match=message):
        parse_mesh("data=4", available=8, processes=2)


@pytest.mark.parametrize("text", ["data=8", "fsdp=8", "data=4,fsdp=2", "data=2,fsdp=2,tensor=2"])
def test_a_batch_is_split_over_data_and_fsdp_only(text):
    sizes = parse_mesh(text, available=8)
    shape = batch_sharding(make_mesh(sizes)).shard_shape((16, 5))
    assert shape == (16 // batch_shards(sizes), 5)
    assert process_rows(make_mesh(sizes), 16) == (0, 1)


def test_a_mesh_of_the_tensor_axis_alone_replicates_the_batch():
    assert batch_sharding(make_mesh({"tensor": 8})).spec == PartitionSpec(None)
    assert batch_shards({"tensor": 8}) == 1


@dataclasses.dataclass(frozen=True)
class Device:
    """Of another process, for `process_rows`."""

    id: int
    process_index: int


class Layout:
    """Enough of a mesh and its batch sharding: which process holds which rows."""

    def __init__(self, rows_by_device):
        self.shape = {"data": len(rows_by_device)}
        self._rows = rows_by_device

    def devices_indices_map(self, shape):
        del shape
        return {Device(i, process): (slice(*rows),) for i, (process, rows) in enumerate(self._rows)}


@pytest.mark.parametrize(
    ("rows_by_device", "expected"),
    [
        ([(0, (0, 4)), (0, (4, 8)), (1, (8, 12)), (1, (12, 16))], (0, 2)),
        ([(1, (0, 4)), (1, (4, 8)), (0, (8, 12)), (0, (12, 16))], (1, 2)),
        ([(0, (0, 16)), (0, (0, 16)), (1, (0, 16)), (1, (0, 16))], (0, 1)),
    ],
)
def test_processes_load_the_rows_that_their_devices_hold(monkeypatch, rows_by_device, expected):
    monkeypatch.setattr("training.steps.mesh.batch_sharding", lambda mesh: mesh)
    assert process_rows(Layout(rows_by_device), 16) == expected


def test_processes_with_overlapping_rows_are_refused(monkeypatch):
    monkeypatch.setattr("training.steps.mesh.batch_sharding", lambda mesh: mesh)
    layout = Layout([(0, (0, 8)), (1, (0, 8)), (1, (8, 16)), (2, (8, 16))])
    with pytest.raises(UserError, match="3 processes would hold overlapping parts of a batch"):
        process_rows(layout, 16)


TINY = {
    "hidden_size": 64,
    "num_layers": 1,
    "batch_size": 16,
    "steps": 20,
    "ema_decay": 0.9,
}


def continued(trainer, config, state, count, data_state=None):
    """The losses of the next steps, without the rest of a run.

    Returns:
        (losses, last state, last state of the data).
    """
    steps, corpus = trainer.steps(config), trainer.corpus(config)
    data = corpus.train_batches(config.steps.batch, config.variant.seed)
    if data_state is not None:
        data.set_state(data_state)
    peaks = steps.replicate(step_arguments(config.variant))
    losses = []
    for _ in range(count):
        state, metrics = steps.train(state, steps.shard_batch(next(data)), peaks)
        losses.append(float(metrics["loss"]))
    return losses, state, data.get_state()


# The 8 bits of DCT-AdamW's error feedback are no continuous function of the gradient: a last digit
# that differs becomes a step of the quantiser. 32 bits have none.
LAYOUTS = [
    ("adamw", "data=4,fsdp=2", True, {}),
    ("trion", "data=8", False, {}),
    ("trion", "fsdp=8", False, {}),
    ("dct_adamw", "data=2,fsdp=2,tensor=2", True, {"error_feedback": "float32"}),
]


@pytest.fixture(scope="module")
def one_device(trainer):
    """one_device(config): the first state, as arrays of the host, and the losses on one device."""
    known = {}

    def train(config):
        optimizer, steps = config.steps.method.optimizer, config.steps.schedule.steps
        if optimizer not in known:
            config = trainer.changed(config, mesh="data=1", zero=False)
            state = trainer.steps(config).init(config.variant)
            first_state = jax.device_get(state)
            known[optimizer] = (first_state, continued(trainer, config, state, steps)[0])
        return known[optimizer]

    return train


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "mesh", "zero", "hyperparameters"), LAYOUTS)
def test_every_layout_trains_to_the_losses_of_one_device(
    trainer, tmp_path, one_device, optimizer, mesh, zero, hyperparameters
):
    config = trainer.config(
        tmp_path, optimizer=optimizer, mesh=mesh, zero=zero, **hyperparameters, **TINY
    )
    first_state, expected = one_device(config)
    abstract_state = trainer.steps(config).abstract_state
    state = jax.tree.map(
        lambda x, place: jax.device_put(x, place.sharding), first_state, abstract_state
    )
    losses, state, _ = continued(trainer, config, state, TINY["steps"])
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    largest = max(jax.tree.leaves(state.optimizer_state), key=lambda array: array.size)
    on_device = largest.addressable_shards[0].data.size
    assert (on_device < largest.size) == (zero or "fsdp" in mesh)
    jax.tree.map(lambda mean, x: _same_place(mean, x.sharding), state.ema.ema, state.params)
    jax.tree.map(lambda x, stored: _same_place(x, stored.sharding), state, abstract_state)


def _same_place(array, sharding):
    assert array.sharding.is_equivalent_to(sharding, array.ndim)


@pytest.mark.slow
def test_a_checkpoint_of_eight_devices_is_continued_by_one_two_and_four(
    trainer, tmp_path, one_device
):
    # A learned basis, which changes between the steps, and is split over devices by --zero.
    def config(mesh, zero=False):
        return trainer.config(
            tmp_path, optimizer="galore", update_interval=2, mesh=mesh, zero=zero, **TINY
        )

    eight = config("data=4,fsdp=2", zero=True)
    first_state, one_device_losses = one_device(eight)
    state = trainer.steps(eight).init(eight.variant)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), first_state)
    _, state, position = continued(trainer, eight, state, 3)
    with contextlib.closing(
        Checkpoints(tmp_path / "checkpoints", CheckpointOptions(keep_checkpoints=1))
    ) as checkpoints:
        checkpoints.save(3, state, position)
        checkpoints.wait()
        expected, _, _ = continued(trainer, eight, state, 3, position)
        np.testing.assert_allclose(expected, one_device_losses[3:6], rtol=1e-5)
        for mesh in ("data=1", "fsdp=2", "data=2,fsdp=2"):
            restored, position = checkpoints.read(3, trainer.steps(config(mesh)).abstract_state)
            losses, _, _ = continued(trainer, config(mesh), restored, 3, position)
            np.testing.assert_allclose(losses, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"mesh": "data=2,fsdp=2,tensor=2", "batch_size": 6},
            r"--batch-size 6 cannot be divided over 4 device\(s\) .* use a multiple of 4",
        ),
        (
            {"mesh": "fsdp=8", "zero": True},
            r"--zero splits .* --mesh fsdp=8 has none of 2 or more devices: give one, e\.g\.",
        ),
        (
            {"mesh": "data=8", "zero": True, "optimizer": "muon"},
            r"--zero does not go with muon, .* use one of adamw, .*trion",
        ),
    ],
)
def test_options_that_a_mesh_does_not_allow_are_refused(trainer, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        trainer.config(tmp_path / "run", **options)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mesh", "options"),
    [
        ("data=8", {"zero": True}),
        ("data=1", {}),
        ("data=4,fsdp=2", {"optimizer": "trion"}),
        ("fsdp=2,tensor=2", {"skip_updates": "outlier", "optimizer": "dion"}),
    ],
)
def test_the_summary_says_the_bytes_of_the_state_that_a_device_holds(
    trainer, tmp_path, mesh, options
):
    config = trainer.config(tmp_path, mesh=mesh, **options)
    steps = trainer.steps(config)
    last = {"step": 6, "loss": 1.0, "val_loss": 1.0, "seconds": 1.0}
    summary = summarize(config.variant, steps, [last])
    state = jax.tree.leaves(steps.init(config.variant).optimizer_state)
    on_device = sum(array.addressable_shards[0].data.nbytes for array in state)
    assert summary["optimizer_state_bytes_per_device"] == on_device
    assert (on_device < sum(array.nbytes for array in state)) == (mesh != "data=1")
