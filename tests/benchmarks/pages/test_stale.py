"""Every result says what made it, and the page which of its code has changed since."""

import pytest

from benchmarks.history import known
from benchmarks.pages import generated, stale
from benchmarks.record import RESULTS, ROOT, git
from benchmarks.tables import captioned_tables

WITHOUT_COMMIT = {"papers/tuned.jsonl", "recipes/tuned.jsonl"}
"""Which of others' runs were the best."""


def test_every_result_names_its_commit_and_declares_its_code():
    files = {str(path.relative_to(RESULTS)) for path in RESULTS.rglob("*.json*")}
    assert {made.file for made in stale.results()} == files - WITHOUT_COMMIT
    assert stale.SOURCES.keys() == files - WITHOUT_COMMIT


@pytest.mark.parametrize("file", stale.SOURCES)
def test_what_a_result_declares_is_code_that_exists(file):
    paths = stale.SOURCES[file]
    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []
    assert len(paths) == len(set(paths))


def test_the_page_lists_every_result_with_its_commit():
    ((_, (_, *rows)),) = captioned_tables(generated("results.md", "provenance"))
    assert [tuple(row[:3]) for row in rows] == [stale.told(made) for made in stale.results()]
    assert {made.clean for made in stale.results()} == {"yes"}


@pytest.mark.slow
def test_what_the_page_says_has_changed_is_what_history_says():
    page = stale.PAGE.read_text(encoding="utf-8")
    until = stale.named_commit(page)
    assert until, f"{stale.PAGE.name} names no commit: run python -m benchmarks.pages.stale"
    if git("rev-parse", "--is-shallow-repository") != "false\n":
        pytest.skip("there is no git repository here, or a shallow one, to read history from")
    if not known(until):
        pytest.skip(f"the history here does not hold {until}, whose code the page compares with")
    assert [made for made in stale.results() if not known(made.commit)] == []
    assert stale.render(page, until) == page
