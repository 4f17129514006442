"""What benchmarks.measure.loop measures is the loop of train.py, on its own data."""

import pytest

import benchmarks.measure.loop
from benchmarks.measure.loop import compare, pipeline_rates
from training.config.options import with_options
from training.config.pretraining import PretrainConfig
from training.runs.metrics import read_metrics
from training.runs.resolve import resolve_pretraining


@pytest.mark.slow
def test_loop_and_bare_step_are_timed_and_both_kinds_of_data(tmp_path, monkeypatch):
    text = tmp_path / "text"
    text.mkdir()
    for i in range(10):
        lines = [f"file {i} line {j}: {i * j} and {i + j} are numbers.\n" for j in range(40)]
        (text / f"{i}.txt").write_text("".join(lines))
    monkeypatch.setattr(benchmarks.measure.loop, "HOST_STEPS", 5)
    monkeypatch.setattr(benchmarks.measure.loop, "PIPELINE_SECONDS", 0.05)
    config = resolve_pretraining(
        with_options(
            PretrainConfig(),
            optimizer="sgd",
            hidden_size=32,
            num_layers=1,
            seq_len=16,
            batch_size=8,
            eval_batches=1,
            eval_every=0,
            checkpoint_every=0,
            data=(str(text),),
            validation_fraction=0.2,
            mesh="data=1",
        )
    )
    samples, host = compare(config, tmp_path, rounds=2, count=3)
    assert [len(seconds) for seconds in samples.values()] == [2, 2]
    assert all(x > 0 for seconds in samples.values() for x in seconds)
    assert host > 0
    added = benchmarks.measure.loop.overhead({"loop": [1.1, 1.2, 1.3], "step": [1.0, 1.0, 1.0]})
    assert added.median == pytest.approx(0.2)
    # Warming up, two rounds, and the steps that do nothing.
    records = read_metrics(tmp_path / "run/metrics.jsonl")
    assert [record["step"] for record in records] == list(range(1, 2 + 2 * 3 + 2 + 5 + 1))
    rates = pipeline_rates(config, tmp_path)
    assert list(rates) == ["in memory", "memory-mapped"]
    assert [len(of_rounds) for of_rounds in rates.values()] == [7, 7]
    assert all(rate > 0 for of_rounds in rates.values() for rate in of_rounds)
