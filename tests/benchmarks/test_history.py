"""A result is older than its code where that does something else, and not where it says so."""

import subprocess

import pytest

from benchmarks import history, record

CODE = '''"""A module."""

import math


def area(r):
    """Of a circle."""
    # In any unit.
    return math.pi * r * r
'''


class Repository:
    """A repository of one commit, its code in code/area.py and code/rest.py."""

    def __init__(self, folder):
        self.folder = folder
        self._git("init", "-q")
        self.write("code/area.py", CODE)
        self.write("code/rest.py", "rest = 1\n")
        self.first = self.commit()

    def write(self, name, text):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def commit(self, *options):
        self._git("add", "--all", ".")
        self._git("-c", "user.name=n", "-c", "user.email=e", "commit", "-qm", "a commit", *options)
        return self._git("rev-parse", "HEAD").strip()

    def changed(self, *paths):
        return history.changed_since(self.first, self.commit(), paths)

    def _git(self, *arguments):
        done = subprocess.run(
            ["git", *arguments], cwd=self.folder, check=True, capture_output=True, text=True
        )
        return done.stdout


@pytest.fixture
def repository(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "ROOT", tmp_path)
    return Repository(tmp_path)


def test_what_does_something_else_has_changed_and_nothing_else_has(repository):
    repository.write("code/area.py", CODE.replace("math.pi", "3"))
    assert repository.changed("code/area.py", "code/rest.py") == ["code/area.py"]


def test_a_folder_has_changed_with_any_of_its_files_but_not_with_its_neighbours(repository):
    repository.write("code/new.py", "new = 1\n")
    repository.write("code2/new.py", "new = 1\n")
    assert repository.changed("code", "code/area.py") == ["code"]


def test_comments_docstrings_and_imports_make_no_difference(repository):
    other = CODE.replace("A module", "Areas").replace("Of a circle", "πr²").replace("any", "one")
    repository.write("code/area.py", "import os\n" + other)
    repository.write("notes.txt", "something that a commit needs\n")
    assert repository.changed("code") == []


def test_a_file_that_was_moved_is_compared_with_what_it_was(repository):
    (repository.folder / "code/area.py").unlink()
    repository.write("shapes/area.py", CODE)
    assert repository.changed("shapes") == []
    repository.write("shapes/area.py", CODE.replace("* r * r", "* r**2"))
    assert repository.changed("shapes") == ["shapes"]


def test_a_file_that_is_gone_has_changed(repository):
    (repository.folder / "code/rest.py").unlink()
    assert repository.changed("code", "code/area.py") == ["code"]


def test_a_commit_of_another_history_is_not_known(repository):
    assert history.known(repository.first)
    assert not history.known("0" * 40)


def test_a_commit_that_was_amended_is_not_known(repository):
    repository.write("notes.txt", "a note\n")
    before = repository.commit()
    repository.write("notes.txt", "another\n")
    after = repository.commit("--amend")
    assert history.known(after)
    assert not history.known(before)
