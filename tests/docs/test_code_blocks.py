"""The Python in the README and in the pages runs as it stands there."""

import re
import runpy

import jax
import pytest

from benchmarks.pages import DOCS, ROOT

README = ROOT / "README.md"
PAGES = [ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
FENCED = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(page):
    """The blocks of a page, each below as many empty lines as stand above it in the page."""
    text = page.read_text(encoding="utf-8")
    for block in FENCED.finditer(text):
        yield "\n" * (text.count("\n", 0, block.start()) + 1) + block[1]


def run(page):
    """What the blocks leave behind, run in turn after the prelude."""
    names = runpy.run_path(str(DOCS / "examples" / "prelude.py"))
    for block in blocks(page):
        exec(compile(block, str(page), "exec"), names)
    return names


# Steps with every recipe and layout; what they are made of has tests of its own.
SLOW = ("cookbook", "sharding")


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=page.stem, marks=pytest.mark.slow if page.stem in SLOW else ())
        for page in PAGES
        if [*blocks(page)]
    ],
)
def test_the_blocks_of_a_page_run_in_turn_after_the_prelude(page, capsys):
    run(page)
    del capsys  # of the tables that they print


def test_the_readmes_blocks_run_and_its_new_method_takes_a_step(capsys):
    names = run(README)
    assert "not a matrix because" in capsys.readouterr().out
    tx, params, grads = names["new"], names["params"], names["grads"]
    updates, _ = jax.jit(tx.update)(grads, tx.init(params), params)
    assert updates["mlp"]["up"]["kernel"].shape == params["mlp"]["up"]["kernel"].shape


def test_there_are_blocks_to_run():
    with_blocks = {page.stem for page in PAGES if [*blocks(page)]}
    assert {"choosing", "migrating", "cookbook", "sharding", "extending"} <= with_blocks
    assert len([*blocks(README)]) >= 3


def test_a_block_that_is_not_run_is_marked_as_text_or_as_commands():
    directives = {"{toctree}", "{include}", "{literalinclude}", "{eval-rst}"}
    for page in [README, *PAGES]:
        fences = re.findall(r"^```(\{?[\w:-]*\}?)", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert {*fences} <= {"", "python", "text", "bash"} | directives, page.name
