"""`--rounding stochastic`: small updates are not lost, and a resumed run draws the same bits."""

import jax
import numpy as np
import pytest

from training.checkpoints.manager import Checkpoints
from training.checkpoints.trees import by_path
from training.config.groups import CheckpointOptions
from training.runs.metrics import MetricsLog, read_metrics


@pytest.fixture
def config(trainer, tmp_path):
    """Of a run whose every update is below half of the last bit of most parameters."""
    return trainer.config(
        tmp_path / "whole",
        param_dtype="bfloat16",
        rounding="stochastic",
        learning_rate=1e-5,
        warmup_steps=0,
        checkpoint_every=2,
    )


def losses(folder):
    return [
        {name: record[name] for name in ("loss", "grad_norm", "val_loss") if name in record}
        for record in read_metrics(folder / "metrics.jsonl")
    ]


def parameters(trainer, config, step):
    checkpoints = Checkpoints(config.folder / "checkpoints", CheckpointOptions())
    state, _ = checkpoints.read(step, trainer.steps(config).abstract_state)
    checkpoints.close()
    return {path: np.asarray(x) for path, x in by_path(state.params).items()}


@pytest.mark.slow
def test_a_run_moves_and_resumes_bit_for_bit(trainer, config, tmp_path, monkeypatch):
    start = by_path(jax.device_get(trainer.steps(config).init(config.variant).params))
    trainer(config)
    end = parameters(trainer, config, 6)
    for path, before in start.items():
        assert end[path].dtype == before.dtype == "bfloat16"
        if before.size < 1000:
            continue
        large = np.abs(before.astype(np.float32)) > 0.02  # its last bit is 2^-13 or more
        moved = np.mean(end[path][large] != before[large])
        # Six updates of 1e-5 each, of which nearest would keep none.
        assert 0 < moved < 0.9, path

    parts = trainer.changed(config, out=tmp_path / "parts")
    write = MetricsLog.write

    def crash(self, record):
        write(self, record)
        if record["step"] == 5:
            raise MemoryError

    monkeypatch.setattr(MetricsLog, "write", crash)
    with pytest.raises(MemoryError):
        trainer(parts)
    monkeypatch.undo()
    trainer(trainer.changed(parts, resume=True))
    assert losses(parts.folder) == losses(config.folder)
    again = parameters(trainer, parts, 6)
    assert all((again[path] == end[path]).all() for path in end)
