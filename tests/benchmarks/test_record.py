"""Figures come with a commit that holds the code."""

import subprocess

import pytest

from benchmarks import record


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
    monkeypatch.setattr(record, "ROOT", tmp_path)
    return tmp_path


def test_results_of_another_benchmark_do_not_make_the_code_unclean(repository):
    (repository / "benchmarks/results/a.json").write_text("[]\n")
    (repository / "README.md").write_text("a table\n")
    record.check_clean(allow_dirty=False)
    assert not record.git_commit().endswith("+")


@pytest.mark.parametrize("name", ["code.py", "new.py"])
def test_code_that_no_commit_holds_is_refused_or_told(repository, name):
    (repository / name).write_text("2\n")
    with pytest.raises(SystemExit, match=name):
        record.check_clean(allow_dirty=False)
    record.check_clean(allow_dirty=True)
    assert record.git_commit().endswith("+")


def test_outside_a_repository_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert record.git_commit() is None


def test_the_command_names_no_folder_of_the_machine(monkeypatch):
    words = [
        "python3",
        "-m",
        "benchmarks",
        "--data",
        "/somewhere/tokens.npz",
        f"{record.ROOT}/runs/a",
    ]
    monkeypatch.setattr("sys.orig_argv", words)
    assert record.environment(None)["command"] == "python -m benchmarks --data tokens.npz runs/a"
