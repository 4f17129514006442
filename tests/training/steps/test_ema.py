"""The running average of the weights: what it is, that it is resumed, and who can ask for it."""

import json
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import train
from models import huggingface
from training.checkpoints.pretrained import open_model
from training.checkpoints.reader import CheckpointReader
from training.checkpoints.trees import by_path
from training.errors import UserError
from training.runs.interruption import InterruptedRunError
from training.runs.metrics import read_metrics
from training.steps.ema import follow, mean_weights, weight_ema
from training.steps.mesh import make_mesh

MESH = make_mesh({"data": 1})
DECAY = 0.9
OPTIONS = {"ema_decay": DECAY, "checkpoint_every": 1, "keep_checkpoints": 6}
EVALUATE = ["evaluate", "--model", "run", "--data", "stdlib"]


@pytest.fixture(scope="module")
def run(trainer, tmp_path_factory):
    """Folder of a run of six steps, each with a checkpoint; its summary and what it printed."""
    folder = tmp_path_factory.mktemp("averaged") / "run"
    return folder, *trainer(trainer.config(folder, **OPTIONS))


@pytest.mark.slow
def test_the_average_weighs_the_weights_after_each_step(trainer, run):
    folder, summary, _ = run
    abstract = trainer.steps(trainer.config(folder, **OPTIONS)).abstract_state
    checkpoints = CheckpointReader(folder / "checkpoints")
    params = [checkpoints.read(step, abstract)[0].params for step in range(1, 7)]
    powers = np.array([DECAY ** (6 - step) for step in range(1, 7)])
    expected = jax.tree.map(
        lambda *x: np.tensordot(powers / powers.sum(), np.stack(x).astype(np.float64), 1), *params
    )
    model = open_model(folder, "ema").load(MESH)
    found = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-8), found, expected
    )
    assert summary["ema_bytes"] == 4 * summary["parameters"] + 4


@pytest.mark.slow
def test_its_loss_is_beside_that_of_the_weights(trainer, run):
    folder, summary, printed = run
    config = trainer.config(folder, **OPTIONS)
    steps, batch = trainer.steps(config), config.steps.batch
    model = open_model(folder, "ema").load(MESH)
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    rows = trainer.corpus(config).validation_batches(batch)["val_loss"]
    batches = map(steps.shard_whole_batch, rows)
    loss = np.mean([float(steps.evaluate(params, rows)) for rows in batches])
    evaluations = [r for r in read_metrics(folder / "metrics.jsonl") if "val_loss" in r]
    assert [record["step"] for record in evaluations if "ema_val_loss" in record] == [3, 6]
    assert evaluations[-1]["ema_val_loss"] == summary["ema_val_loss"] == pytest.approx(loss)
    assert abs(summary["ema_val_loss"] - summary["val_loss"]) > 1e-6
    assert f"(average {summary['ema_val_loss']:.4f})" in printed


@pytest.mark.slow
def test_a_resumed_run_has_the_same_average_bit_for_bit(trainer, run, tmp_path, signal_at):
    parts = trainer.config(tmp_path / "parts", **OPTIONS)
    signal_at(3, signal.SIGTERM)
    with pytest.raises(InterruptedRunError):
        trainer(parts)
    trainer(trainer.changed(parts, resume=True))
    saved = [
        json.loads((folder / "checkpoints/6/fingerprints/metadata").read_text())["state"]
        for folder in (run[0], tmp_path / "parts")
    ]
    assert any(path.startswith("ema/ema/") for path in saved[0])
    assert saved[0] == saved[1]


@pytest.mark.slow
def test_it_is_neither_begun_nor_left_off_in_mid_run(trainer, run):
    config = trainer.config(run[0], **OPTIONS)
    for other in (0.0, 0.99):
        with pytest.raises(UserError, match=rf"ema_decay: 0.9 before, {other} now(?s:.*)--init-fr"):
            trainer(trainer.changed(config, ema_decay=other, resume=True))


@pytest.mark.slow
def test_a_run_that_begins_with_another_ones_parameters_averages_anew(trainer, run, tmp_path):
    config = trainer.config(tmp_path / "new", **OPTIONS, init_from=run[0], init_state="shared")
    trainer(config)
    abstract = trainer.steps(config).abstract_state
    state, _ = CheckpointReader(tmp_path / "new/checkpoints").read(6, abstract)
    assert state.ema.count == 6  # and not 12, as the moments of the optimizer


def test_it_is_kept_in_float32_whatever_the_parameters_are():
    """2^-9 of what is added each time is less than bfloat16 keeps beside 1."""
    ema = weight_ema(0.999)
    state = ema.init({"w": jnp.zeros(3, jnp.bfloat16)})
    for step in range(3):
        params = {"w": jnp.full(3, 1 + step / 128, jnp.bfloat16)}
        state = follow(ema, state, params)
    assert state.ema["w"].dtype == jnp.float32
    mean = mean_weights(state, 0.999, {"w": jnp.zeros(3)})
    np.testing.assert_allclose(mean["w"], 1 + 1 / 128, rtol=1e-4)
    assert mean_weights(state, 0.999, params)["w"].dtype == jnp.bfloat16


@pytest.mark.slow
def test_an_exported_average_is_the_average(run, tmp_path, capsys):
    assert train.main(["export", str(run[0]), str(tmp_path / "model"), "--weights", "ema"]) == 0
    exported, mean, last = (
        by_path(nnx.to_pure_dict(nnx.state(model, nnx.Param)))
        for model in (
            huggingface.load(tmp_path / "model"),
            *(open_model(run[0], weights).load(MESH) for weights in ("ema", "last")),
        )
    )
    for path in mean:
        np.testing.assert_array_equal(exported[path], mean[path])
        assert np.any(exported[path] != last[path])


@pytest.mark.parametrize(
    "command", [["export", "run", "out"], ["generate", "--model", "run"], EVALUATE]
)
def test_where_there_is_no_average_that_is_said(tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    (tmp_path / "run/config.json").write_text('{"preset": "small", "ema_decay": 0.0}')
    assert train.main([*command, "--weights", "ema"]) == 2
    message = "--weights ema: run is a run trained without --ema-decay, and has no average of its"
    assert message in " ".join(capsys.readouterr().err.split())
    (tmp_path / "run/checkpoints").rmdir()
    assert train.main([*command, "--weights", "ema"]) == 2
    assert "--weights ema: run is a Hugging Face model" in capsys.readouterr().err
