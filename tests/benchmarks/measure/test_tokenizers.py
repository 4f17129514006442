import io

import numpy as np
import pytest
from rich.console import Console

from benchmarks.measure.tokenizers import BASE, experiment, step_flops, table, training_curve
from training.config.options import with_options
from training.data.corpus import load_corpus
from training.runs.resolve import resolve_pretraining


@pytest.fixture
def base(tmp_path, monkeypatch):
    """The benchmark's configuration on a model and a corpus that are tiny."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "corpus"
    folder.mkdir()
    for i in range(10):
        lines = [f"file {i} line {j}: {i * j} and {i + j} are numbers.\n" for j in range(40)]
        (folder / f"{i}.txt").write_text("".join(lines))
    return with_options(
        BASE,
        hidden_size=32,
        num_layers=1,
        optimizer="adamw",
        fallback_learning_rate=None,
        batch_size=2,
        seq_len=16,
        eval_batches=2,
        data=(str(folder),),
        validation_fraction=0.2,
        mesh="data=1",
    )


@pytest.mark.slow
def test_operations_are_counted_for_every_layer(base):
    """The compiler alone would count the scanned layer once, however many there are."""
    counts = []
    for layers in (1, 2, 3):
        config = resolve_pretraining(with_options(base, num_layers=layers))
        counts.append(step_flops(config, load_corpus(config.options.corpus)))
    assert counts[2] - counts[1] == pytest.approx(counts[1] - counts[0], rel=1e-3)
    assert counts[1] > 1.3 * counts[0]


@pytest.mark.slow
def test_all_tokenizers_spend_the_same_operations(base):
    console = Console(file=io.StringIO())
    results = experiment(base, ("bytes", "bpe:300"), (0.01,), 12, console)
    bytes_, pieces = results["bytes"], results["bpe:300"]
    assert bytes_["steps"] == 12
    assert abs(pieces["flops"] - bytes_["flops"]) <= pieces["flops_per_step"] / 2
    assert bytes_["bytes_per_token"] == pytest.approx(1, abs=0.01)
    assert pieces["bytes_per_token"] > 1.3
    for row in results.values():
        assert [run["learning_rate"] for run in row["runs"]] == [0.01]
        assert row["best"] == min(run["val_bits_per_byte"] for run in row["runs"])
        for run in row["runs"]:
            # Of random weights: about log2(vocabulary) bits a token.
            assert 0 < run["val_bits_per_byte"] < 10
            assert run["curve"][-1]["flops"] == row["flops"]
    assert "bpe:300 |" in table(results)


def test_the_training_curve_is_of_means_over_equal_stretches():
    curve = training_curve(np.arange(24.0), bits_per_nat=2.0, flops_per_step=10.0)
    assert curve[0] == {"flops": 20.0, "train_bits_per_byte": 1.0}
    assert curve[-1] == {"flops": 240.0, "train_bits_per_byte": 45.0}
    assert len(curve) == 12
