"""Benchmarks of times run, keep their samples, and their tables show what was measured."""

import json

import pytest

from benchmarks import dct, optimizers, svd
from benchmarks.methods import EVERY_STEP, METHODS


def kept(result):
    """As it is read back from the JSON."""
    return json.loads(json.dumps(result))


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(optimizers, "LAYERS", 1)
    monkeypatch.setattr(optimizers, "HIDDEN", 32)
    monkeypatch.setattr(optimizers, "INTERMEDIATE", 48)
    some = {name: METHODS[name] for name in ("optax.adamw", "optax.contrib.muon", "trion")}
    monkeypatch.setattr(optimizers, "METHODS", some)
    galore = "optax.contrib.galore, every step"
    monkeypatch.setattr(optimizers, "EVERY_STEP", {galore: EVERY_STEP[galore]})


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_updates_are_compared_with_adamw_muon_and_galore_in_one_run():
    result = kept(optimizers.measure(1 / 4, rounds=7))
    rows = result["methods"]
    assert result["rank"] == 8
    assert {len(row["seconds"]) for row in rows.values()} == {7}
    assert rows["optax.adamw"]["over_adamw"] == [1, 1, 1]
    assert rows["optax.contrib.muon"]["muon_over_this"] == [1, 1, 1]
    low, median, high = (rows["trion"]["over_adamw"][i] for i in (1, 0, 2))
    assert 0 < low <= median <= high
    *_, line, _ = optimizers.table(result).splitlines()
    assert f"{median:.1f} ({low:.1f}–{high:.1f})" in line


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
