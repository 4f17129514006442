"""Benchmarks of times run, keep their samples, and their tables show what was measured."""

import json

import pytest

from benchmarks.measure import dct, optimizers, svd


def kept(result):
    """As it is read back from the JSON."""
    return json.loads(json.dumps(result))


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(optimizers, "LAYERS", 1)
    monkeypatch.setattr(optimizers, "HIDDEN", 32)
    monkeypatch.setattr(optimizers, "INTERMEDIATE", 48)


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_updates_are_compared_with_adamw_muon_and_galore_in_one_run():
    galore = "optax.contrib.galore, every step"
    result = kept(
        optimizers.measure(1 / 4, 7, ("optax.adamw", "optax.contrib.muon", "trion", galore))
    )
    rows = result["methods"]
    assert result["rank"] == 8
    assert {len(row["seconds"]) for row in rows.values()} == {7}
    assert rows["optax.adamw"]["over_adamw"] == [1, 1, 1]
    assert rows["optax.contrib.muon"]["muon_over_this"] == [1, 1, 1]
    low, median, high = (rows["trion"]["over_adamw"][i] for i in (1, 0, 2))
    assert 0 < low <= median <= high
    *_, line, _ = optimizers.table(result).splitlines()
    assert f"{median:.1f} ({low:.1f}–{high:.1f})" in line


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_a_few_methods_are_measured_alone_with_the_ratios_that_they_have():
    result = kept(optimizers.measure(1 / 4, 7, ("optax.adamw", "tandem (n/2, int4)")))
    assert result["methods"].keys() == {"optax.adamw", "tandem (n/2, int4)"}
    assert "this / adamw" in optimizers.table(result)
    assert "muon / this" not in optimizers.table(result)


def test_singular_subspaces_are_compared_with_the_exact_ones():
    result = kept(svd.measure(24, 16, rounds=7))
    assert {len(samples) for samples in result["seconds"].values()} == {7}
    assert svd.table({"shapes": [result]}).count("(") == 2


@pytest.mark.slow
def test_transforms_are_compared_with_scipys():
    result = kept(dct.measure(16, rounds=7))
    speedup = dct.speedup(result, "dct")
    assert 0 < speedup.low <= speedup.median <= speedup.high
    assert f"{speedup:.2f}" in dct.table([result], "dct")
