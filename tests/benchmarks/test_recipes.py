"""The search over recipes: tuned until the best is interior, every run once, bytes as they are."""

import math

import jax
import numpy as np
import pytest

from benchmarks.recipes import __main__ as command
from benchmarks.recipes import report, task
from benchmarks.recipes.methods import GRIDS, METHODS
from benchmarks.recipes.search import tune
from benchmarks.recipes.task import Setting

TINY = Setting(width=64, steps=2, batch_size=2, seq_len=16)


class Bowl:
    """Runs whose loss is the distance, in grid steps, from the best numbers."""

    def __init__(self, **best):
        self.best, self.asked = best, []

    def losses(self, method, setting, points, seeds, part):
        assert (list(seeds), part) == ([0], "tuning")
        self.asked += points
        position = lambda name, value: min(
            range(len(GRIDS[name])), key=lambda i: abs(GRIDS[name][i] - value)
        )
        apart = lambda point: sum(
            abs(position(name, point[name]) - position(name, value))
            for name, value in self.best.items()
        )
        return [math.nan if point["learning_rate"] > 0.2 else apart(point) for point in points]


@pytest.mark.parametrize("best", [(0.0025, 0.8), (0.08, 0.98), (0.02, 0.9)])
def test_the_search_finds_the_best_numbers_and_has_tried_their_neighbours(best):
    rate, momentum = best
    runs = Bowl(learning_rate=rate, momentum=momentum)
    assert tune(runs, "muon", TINY, None, None) == {"learning_rate": rate, "momentum": momentum}
    tried = {(round(point["learning_rate"], 6), point["momentum"]) for point in runs.asked}
    at = GRIDS["momentum"].index(momentum)
    assert {(rate, GRIDS["momentum"][i]) for i in (at - 1, at, at + 1)} <= tried
    assert {(rate * factor, momentum) for factor in (0.5, 1, 2)} <= tried


def test_only_what_is_asked_for_is_tuned():
    runs = Bowl(learning_rate=0.005, momentum=0.8)
    found = tune(runs, "muon", TINY, {"learning_rate": 0.02, "momentum": 0.95}, ("learning_rate",))
    assert found == {"learning_rate": 0.005, "momentum": 0.95}


def test_a_best_at_an_end_of_its_grid_is_no_result_unless_that_is_zero():
    last = GRIDS["momentum"][-1]
    with pytest.raises(ValueError, match=r"muon in w64-s2-b2 is best at momentum 0\.99, an end of"):
        tune(Bowl(learning_rate=0.02, momentum=last), "muon", TINY, None, None)
    assert tune(Bowl(learning_rate=0.02, momentum=0.0), "muon", TINY, None, None)["momentum"] == 0


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipes") / "tokens.npz"
    text = np.random.default_rng(0).integers(0, 256, 3000)
    np.savez(path, training=text, tuning=text[:1000], reported=text[1000:])
    return path


@pytest.mark.slow
def test_a_run_repeats_from_its_seed_and_another_seed_is_another_run(data):
    numbers = dict(METHODS["tandem n/4 int8"].start)
    runs = [task.run("tandem n/4 int8", TINY, numbers, seed, data) for seed in (0, 0, 1)]
    assert runs[0] == runs[1] != runs[2]
    assert all(math.isfinite(loss) for loss in (runs[0]["tuning"], runs[0]["reported"]))


@pytest.mark.parametrize(
    ("name", "size"), [("adamw", 8), ("adam8bit", 2.1), ("muon", 4), ("muon int8", 1.1)]
)
def test_bytes_are_those_of_the_matrices_state(name, size):
    steps = task.compiled(name, TINY)
    numbers = dict(METHODS[name].start)
    params = jax.eval_shape(steps.parameters, 0)
    assert task.bytes_per_entry(steps.optimizer(numbers, 0), params) == pytest.approx(size, rel=0.1)


def test_every_method_of_every_stage_is_known_and_builds():
    for stage in command.STAGES.values():
        for name in stage.methods:
            METHODS[name].build(0.1, 1.0, dimension_numbers=None, **_without_rate(name))


def _without_rate(name):
    return {key: value for key, value in METHODS[name].start.items() if key != "learning_rate"}


def test_a_misspelt_method_is_answered_with_the_names(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["recipes", "main", "--methods", "mion"])
    with pytest.raises(SystemExit):
        command.main()
    assert "invalid choice: 'mion' (choose from" in capsys.readouterr().err


def test_differences_are_those_of_equal_seeds():
    line = lambda method, *losses: {
        "stage": "main",
        "method": method,
        "numbers": {"learning_rate": 0.1},
        "reported": losses,
    }
    rows = report.rows_of(
        "main", [line("muon", 1.0, 2.0, 3.0), line("x", 1.5, 2.5, 3.5)], {"muon": 4.0, "x": 1.0}
    )
    assert [row["method"] for row in rows] == ["muon", "x"]
    assert "+0.500 ± 0.000" in report.table(rows, "muon")
    assert "3.000" not in report.table(rows[:1], "muon")
