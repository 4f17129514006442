"""Ratios come with their rounds, and figures with a commit that holds the code."""

import doctest
import json
import subprocess

import pytest

from benchmarks import timing
from benchmarks.timing import Spread, interleaved_seconds, ratio, read_ratio


def test_the_examples_run():
    assert doctest.testmod(timing).failed == 0


def test_a_ratio_is_of_the_rounds_and_not_of_the_medians():
    """A round in which everything was slow has the same ratio as a quiet one."""
    samples = {"a": [2.0, 20.0, 2.0, 4.0], "b": [1.0, 10.0, 1.0, 1.0]}
    assert ratio(samples, "a", "b") == Spread(2.0, 2.0, 2.5)


def test_every_round_is_kept_and_few_are_refused():
    samples = interleaved_seconds({"nothing": lambda: None, "too": lambda: None}, rounds=7)
    assert [len(seconds) for seconds in samples.values()] == [7, 7]
    with pytest.raises(ValueError, match="7 or more"):
        interleaved_seconds({"nothing": lambda: None}, rounds=6)


def test_a_spread_survives_its_json_and_an_old_median_is_read_as_it_is():
    spread = Spread(2.0, 1.5, 2.5)
    assert read_ratio(json.loads(json.dumps(spread))) == spread
    assert f"{read_ratio(2.0):.1f}" == "2.0"


@pytest.fixture
def repository(tmp_path, monkeypatch):
    git = lambda *arguments: subprocess.run(
        ["git", "-c", "user.name=n", "-c", "user.email=e", *arguments], cwd=tmp_path, check=True
    )
    git("init", "-q")
    (tmp_path / "code.py").write_text("1\n")
    (tmp_path / "benchmarks/results").mkdir(parents=True)
    (tmp_path / "benchmarks/results/a.json").write_text("{}\n")
    git("add", ".")
    git("commit", "-qm", "first")
    monkeypatch.setattr(timing, "REPOSITORY", tmp_path)
    return tmp_path


def test_results_of_another_benchmark_do_not_make_the_code_unclean(repository):
    (repository / "benchmarks/results/a.json").write_text("[]\n")
    (repository / "README.md").write_text("a table\n")
    timing.check_clean(allow_dirty=False)
    assert not timing.git_commit().endswith("+")


@pytest.mark.parametrize("name", ["code.py", "new.py"])
def test_code_that_no_commit_holds_is_refused_or_told(repository, name):
    (repository / name).write_text("2\n")
    with pytest.raises(SystemExit, match=name):
        timing.check_clean(allow_dirty=False)
    timing.check_clean(allow_dirty=True)
    assert timing.git_commit().endswith("+")


def test_outside_a_repository_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(timing, "REPOSITORY", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert timing.git_commit() is None
