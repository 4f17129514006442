import dataclasses
import json
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from run_folders import curve

import lowrank_optax as lro
from models.llama import Llama
from training.config.hyperparameters import Hyperparameters
from training.config.model import preset_model
from training.config.options import with_options
from training.config.pretraining import PretrainConfig
from training.config.resolved import Method
from training.errors import UserError
from training.reports.diagnostics_plots import MOST_LABELS, plot_diagnostics, row_labels
from training.runs.diagnostics import DIAGNOSTICS_FILE
from training.runs.interruption import InterruptedRunError
from training.runs.metrics import read_metrics
from training.runs.resolve import resolve_pretraining
from training.steps.diagnostics import fixed_projection, look, overlaps
from training.steps.optimizers import OPTIMIZERS, accepted_options, build_optimizer

LAYERS, FAN_IN, FAN_OUT, RANK = 3, 8, 12, 2
# NorMuon runs on the same engine, at full rank.
WITH_RANK = [name for name in OPTIMIZERS if "rank" in accepted_options(name)]
# Normuon's subspace is the whole space, apollo_mini's one direction.
LOW_RANK = ["normuon", "apollo_mini", *WITH_RANK]


def one_step(name, **hyperparameters):
    """Parameters, gradient, updates, state after one step, and its method."""
    method = Method(
        optimizer=name,
        rank=RANK if name in WITH_RANK else None,
        weight_decay=0.0,
        clip_norm=0.5,
        zero=False,
        hyperparameters=Hyperparameters(**hyperparameters),
    )
    shapes = {"layers": {"proj": {"kernel": (LAYERS, FAN_IN, FAN_OUT)}}, "norm": {"scale": (8,)}}
    rng = np.random.default_rng(0)
    draw = lambda shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    is_shape = lambda node: isinstance(node, tuple)
    params, gradient = (jax.tree.map(draw, shapes, is_leaf=is_shape) for _ in range(2))
    optimizer = build_optimizer(method, learning_rate=0.1, fallback_learning_rate=0.1, seed=0)

    @jax.jit
    def first(gradient, params):
        return optimizer.update(gradient, optimizer.init(params), params)

    return method, params, gradient, *first(gradient, params)


def kernel(tree):
    return np.asarray(tree["layers"]["proj"]["kernel"], np.float64)


def columns(basis, name):
    """Orthonormal columns (layers, n, r) of what a state holds, by NumPy."""
    basis = np.asarray(basis)
    if not np.issubdtype(basis.dtype, np.integer):
        return np.linalg.qr(basis.astype(np.float64))[0]
    full = {
        "dct": np.asarray(lro.dct_matrix(FAN_IN), np.float64),
        "identity": np.eye(FAN_IN),
    }[name]
    return np.stack([full[:, chosen] for chosen in basis])


@pytest.mark.product(every=6)
@pytest.mark.parametrize(
    ("name", "hyperparameters"),
    [
        ("trion", {}),
        ("galore", {}),
        ("dion", {}),
        ("online_subspace_descent", {}),
        ("frugal", {"projection": "identity"}),
        ("low_rank", {"projection": "dct"}),
    ],
)
def test_a_look_is_what_numpy_computes_for_every_layer(name, hyperparameters):
    method, params, gradient, updates, state = one_step(name, **hyperparameters)
    found = look(method, params, gradient, updates, state)
    path = "layers/proj/kernel"
    U = columns(found.bases[path], fixed_projection(method))
    G = kernel(gradient).swapaxes(-1, -2)  # (layers, out, in): the smaller side, in, is compressed
    energy = np.sum((G @ U) ** 2, axis=(-2, -1)) / np.sum(G**2, axis=(-2, -1))
    norm = np.sqrt(np.sum(kernel(updates) ** 2, axis=(-2, -1)))
    expected = {
        "captured_energy": energy,
        "update_norm": norm,
        "update_rms": norm / np.sqrt(FAN_IN * FAN_OUT),
    }
    assert set(found.measures) == set(expected)
    for quantity, values in expected.items():
        assert set(found.measures[quantity]) == {path}
        np.testing.assert_allclose(found.measures[quantity][path], values, rtol=2e-5)
    assert (energy > RANK / FAN_IN / 2).all()
    assert (energy < 1).all()


def test_an_oblique_basis_counts_no_direction_twice():
    """Columns of Dion and Online Subspace Descent are not orthogonal to each other."""
    method, params, gradient, updates, state = one_step("dion")
    q = np.random.default_rng(1).normal(size=(LAYERS, FAN_IN, RANK)).astype(np.float32)
    q[:, :, 1] = q[:, :, 0] + 0.05 * q[:, :, 1]
    has_basis = lambda node: "basis" in getattr(node, "_fields", ())
    oblique = jax.tree.map(
        lambda node: (
            node._replace(basis={**node.basis, "layers": {"proj": {"kernel": jnp.asarray(q)}}})
            if has_basis(node)
            else node
        ),
        state,
        is_leaf=has_basis,
    )
    found = look(method, params, gradient, updates, oblique)
    G, U = kernel(gradient).swapaxes(-1, -2), np.linalg.qr(q.astype(np.float64))[0]
    energy = np.sum((G @ U) ** 2, axis=(-2, -1)) / np.sum(G**2, axis=(-2, -1))
    values = found.measures["captured_energy"]["layers/proj/kernel"]
    np.testing.assert_allclose(values, energy, rtol=1e-3)


def test_overlap_is_the_share_of_common_columns_or_the_projected_energy():
    before = {"fixed": jnp.array([[0, 1, 5], [2, 3, 4]], jnp.int32)}
    now = {"fixed": jnp.array([[1, 2, 5], [2, 3, 4]], jnp.int32)}
    rng = np.random.default_rng(0)
    U, V = (np.linalg.qr(rng.normal(size=(2, 6, 3)).astype(np.float32))[0] for _ in range(2))
    before["learned"], now["learned"] = jnp.asarray(U), jnp.asarray(V)
    found = overlaps(before, now)
    np.testing.assert_allclose(found["fixed"], [2 / 3, 1])
    expected = np.sum((np.swapaxes(U, 1, 2) @ V) ** 2, axis=(1, 2)) / 3
    np.testing.assert_allclose(found["learned"], expected, rtol=1e-5)


@pytest.mark.product(every=12)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_of_the_trainer_can_be_looked_at(name):
    config = with_options(PretrainConfig(), optimizer=name, num_layers=2, mesh="data=1")
    method = resolve_pretraining(config).steps.method
    shape = preset_model(config.model, config.numbers, 257)
    model = nnx.eval_shape(lambda: Llama(shape, rngs=nnx.Rngs(0)))
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    optimizer = build_optimizer(method, learning_rate=0.1, fallback_learning_rate=0.1, seed=0)
    state = jax.eval_shape(optimizer.init, params)
    found = jax.eval_shape(lambda *trees: look(method, *trees), params, params, params, state)
    low_rank = {"captured_energy"} if name in LOW_RANK else set()
    assert set(found.measures) == {"update_norm", "update_rms"} | low_rank
    for values in found.measures.values():
        assert len(values) == 7
        assert {value.shape for value in values.values()} == {(2,)}
    assert len(found.bases) == (7 if name in LOW_RANK else 0)


def test_staggered_groups_are_all_found():
    method, params, gradient, updates, state = one_step("galore", stagger=True, update_interval=4)
    found = look(method, params, gradient, updates, state)
    assert list(found.measures["captured_energy"]) == ["layers/proj/kernel"]


@pytest.mark.slow
def test_looks_change_nothing_of_a_run_and_are_written_and_drawn(trainer, tmp_path):
    trainer(trainer.config(tmp_path / "plain", optimizer="trion"))
    config = trainer.config(tmp_path / "watched", optimizer="trion", diagnostics_every=2)
    trainer(config)
    assert curve(tmp_path / "watched") == curve(tmp_path / "plain")
    assert not list((tmp_path / "plain").glob("diagnostics*"))
    looks = read_metrics(tmp_path / "watched" / DIAGNOSTICS_FILE)
    assert [record["step"] for record in looks] == [2, 4, 6]
    assert [record["subspace_overlap"] is None for record in looks] == [True, False, False]
    for record in looks:
        assert len(record["captured_energy"]) == 7
        for quantity in ("captured_energy", "subspace_overlap"):
            for values in (record[quantity] or {}).values():
                assert all(0 <= value <= 1 for value in values)
    assert (tmp_path / "watched/diagnostics.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_without_looks_their_function_is_never_called(trainer, tmp_path):
    config = trainer.config(tmp_path / "run", optimizer="trion")

    def look(*_):
        raise AssertionError("looked")

    trainer(config, dataclasses.replace(trainer.steps(config), look=look))
    watched = trainer.changed(config, out=tmp_path / "watched", diagnostics_every=2)
    with pytest.raises(AssertionError, match="looked"):
        trainer(watched, dataclasses.replace(trainer.steps(config), look=look))


@pytest.mark.slow
def test_a_resumed_run_has_every_look_once(trainer, tmp_path, signal_at):
    whole = trainer.config(tmp_path / "whole", optimizer="trion", diagnostics_every=2)
    parts = trainer.changed(whole, out=tmp_path / "parts")
    trainer(whole)
    signal_at(3, signal.SIGTERM)
    with pytest.raises(InterruptedRunError):
        trainer(parts)
    with (parts.folder / DIAGNOSTICS_FILE).open("a") as file:  # as a crash would
        file.write(json.dumps({"step": 6, "update_rms": {}}) + "\n")
    trainer(trainer.changed(parts, resume=True))
    looks, expected = (
        read_metrics(folder / DIAGNOSTICS_FILE) for folder in (parts.folder, whole.folder)
    )
    assert [record["step"] for record in looks] == [2, 4, 6]
    for record, other in zip(looks, expected, strict=True):
        # What the subspace was at the last look before the interruption is not saved.
        if record["subspace_overlap"] is None:
            other["subspace_overlap"] = None
        assert record == other
    assert looks[-1]["subspace_overlap"] is not None


@pytest.mark.parametrize("name", ["trion", "dion"])
def test_looks_are_the_same_where_rows_and_columns_are_split(name):
    method, *trees = one_step(name)
    mesh = jax.make_mesh((2, 4), ("tensor", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    split = NamedSharding(mesh, PartitionSpec(None, "tensor", "fsdp"))

    def place(tree):
        kernel = jax.device_put(tree["layers"]["proj"]["kernel"], split)
        return tree | {"layers": {"proj": {"kernel": kernel}}}

    sharded = [*map(place, trees[:3]), trees[3]]
    found = jax.jit(lambda *trees: look(method, *trees))(*sharded)
    expected = look(method, *trees)
    for quantity, values in expected.measures.items():
        for path in values:
            np.testing.assert_allclose(found.measures[quantity][path], values[path], rtol=2e-5)


def test_a_negative_interval_is_refused(trainer, tmp_path):
    with pytest.raises(UserError, match="--diagnostics-every is -1, but must be 0 or more"):
        trainer.config(tmp_path / "run", diagnostics_every=-1)


@pytest.mark.slow
def test_a_picture_of_many_layers_labels_as_many_rows_as_fit(tmp_path):
    kinds = [f"layers/{name}/kernel" for name in ("q_proj", "up_proj", "down_proj")]
    labels = row_labels(dict.fromkeys(kinds, 80))
    assert len(labels) <= MOST_LABELS
    assert list(labels)[:2] == [0, 5]
    assert labels[80] == "up_proj 0"
    values = {kind: [0.5, None] * 40 for kind in kinds}
    records = [{"step": 10, "update_rms": values, "captured_energy": values}]
    plot_diagnostics(records, tmp_path / "looks.png", title="many")
    assert (tmp_path / "looks.png").read_bytes().startswith(b"\x89PNG")
