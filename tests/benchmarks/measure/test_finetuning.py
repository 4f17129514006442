"""Fine-tuning is compared at learning rates that are better than both their neighbours."""

import math

import pytest

from benchmarks.measure import finetuning


@pytest.fixture
def optima(monkeypatch):
    """Best learning rate by (method, rank), of runs that cost nothing; 0.02 where none is told."""
    optima = {}

    def measure(method, rate, rank, base, out):
        best = optima.get((method, rank), 0.02)
        loss = math.log(rate / best) ** 2
        return {"method": method, "rank": rank, "learning_rate": rate, "val_loss": loss}

    monkeypatch.setattr(finetuning, "measure", measure)
    return optima


def chosen(ranks):
    runs = finetuning.measure_all(None, None, ranks)
    found = {(run["method"], run["rank"]): run for run in runs if run["chosen"]}
    for (method, rank), best in found.items():
        own = {r["learning_rate"] for r in runs if (r["method"], r["rank"]) == (method, rank)}
        assert {best["learning_rate"] / 2, best["learning_rate"] * 2} <= own
    return {key: run["learning_rate"] for key, run in found.items()}


def test_the_rate_is_searched_beyond_where_it_starts_at_every_rank(optima):
    optima |= {("Trion", 16): 0.08, ("Trion", 64): 0.00125, ("AdamW", None): 0.01}
    found = chosen([16, 64])
    assert found["Trion", 16] == pytest.approx(0.08)
    assert found["Trion", 64] == pytest.approx(0.00125)
    assert found["AdamW", None] == pytest.approx(0.01)
    assert len(found) == 1 + 2 * (len(finetuning.METHODS) - 1)


def test_a_rate_whose_best_is_at_the_end_of_the_grid_is_no_result(optima):
    optima["GaLore", 16] = 1e3
    with pytest.raises(ValueError, match="GaLore in fine-tuning at rank 16 is best at"):
        finetuning.measure_all(None, None, [16])
