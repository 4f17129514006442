"""A run that is killed at any moment ends as if nothing had happened; the benchmark does more."""

import pytest

from benchmarks.measure.faults import OPTIONS, Kill, Runs, differences, random_kills, unfinished
from benchmarks.pages.training import faults


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
    found, ending = runs.killed("killed", Kill(8, 0.0, in_save=True), Kill(17, 0.01, in_save=False))
    assert [each["hit"] for each in found] == [True, True]
    assert [each["save_interrupted"] for each in found] == [True, False]
    assert found[0]["steps_written"] < 30
    assert differences(expected, ending) == []
    assert not unfinished(tmp_path / "killed")


def test_differences_are_found():
    one = {"metrics": [{"step": 1, "loss": 2.0}], "summary": {}, "arrays": {"w": 3}}
    assert differences(one, one) == []
    assert differences(one, {**one, "arrays": {"w": 4}}) == ["arrays"]


def test_moments_are_drawn_by_the_seed_half_of_them_in_saves():
    kills = random_kills(20, 10, 56, seed=0)
    assert kills == random_kills(20, 10, 56, seed=0) != random_kills(20, 10, 56, seed=1)
    assert [kill.in_save for kill in kills] == [True] * 10 + [False] * 10
    assert len({kill.step for kill in kills}) > 10
    assert all(0 <= kill.step < 56 for kill in kills)


def test_the_page_says_how_many_fell_where():
    rows = [{"save_interrupted": i < 2, "differs_in": []} for i in range(5)]
    assert faults({"kills": rows}) == (
        "5 kills, 2 of them in the middle of a save and 3 between two; after 5 of them everything "
        "was the same, bit for bit."
    )
