"""A run that is killed at any moment ends as if nothing had happened; the benchmark does more."""

import pytest

from benchmarks.measure.faults import OPTIONS, Kill, Runs, differences, random_kills, unfinished


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    for i in range(10):
        lines = [f"file {i} line {j}: {i * j} and {i + j} are numbers.\n" for j in range(40)]
        (folder / f"{i}.txt").write_text("".join(lines))
    return str(folder)


@pytest.mark.slow
def test_a_run_killed_in_a_save_and_between_two_ends_as_if_nothing_had_happened(tmp_path, data):
    options = {"optimizer": "adamw", "steps": 30, "validation-fraction": 0.2}
    runs = Runs(tmp_path, data, OPTIONS | options, cache=True)
    expected = runs.undisturbed()
    assert [record["step"] for record in expected["metrics"]] == list(range(1, 31))
    assert sum("val_loss" in record for record in expected["metrics"]) == 5
    found, ending = runs.killed("killed", Kill(0.0, save=5), Kill(0.01, step=17))
    assert [each["hit"] for each in found] == [True, True]
    assert found[0]["steps_written"] < 30
    assert differences(expected, ending) == []
    assert not unfinished(tmp_path / "killed")


def test_differences_are_found():
    one = {"metrics": [{"step": 1, "loss": 2.0}], "summary": {}, "arrays": {"w": 3}}
    assert differences(one, one) == []
    assert differences(one, {**one, "arrays": {"w": 4}}) == ["arrays"]


def test_moments_are_drawn_by_the_seed():
    kills = random_kills(20, 8, 60, 30, seed=0)
    assert kills == random_kills(20, 8, 60, 30, seed=0) != random_kills(20, 8, 60, 30, seed=1)
    assert [kill.save is not None for kill in kills] == [True] * 8 + [False] * 12
    assert all(0 <= kill.step < 60 for kill in kills)
