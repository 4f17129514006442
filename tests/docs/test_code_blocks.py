"""The Python in the README and in the pages runs as it stands there."""

import re
import runpy

import jax
import pytest

from benchmarks.pages import DOCS, ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
FENCED = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def blocks(page):
    """The blocks of a page, each below as many empty lines as stand above it in the page."""
    text = page.read_text(encoding="utf-8")
    for block in FENCED.finditer(text):
        yield "\n" * (text.count("\n", 0, block.start()) + 1) + block[1]


@each_page
def test_the_blocks_run_in_turn_after_the_prelude(page, capsys):
    names = runpy.run_path(str(DOCS / "examples" / "prelude.py"))
    for block in blocks(page):
        exec(compile(block, str(page), "exec"), names)
    del capsys  # Tables that the blocks print.


def test_there_are_blocks_to_run():
    with_blocks = {page.stem for page in PAGES if [*blocks(page)]}
    assert {"README", "choosing", "migrating", "cookbook", "sharding", "extending"} <= with_blocks


def test_a_block_that_is_not_run_is_marked_as_text_or_as_commands():
    for page in PAGES:
        fences = re.findall(r"^```(\{?[\w:-]*\}?)", page.read_text(encoding="utf-8"), re.MULTILINE)
        known = {
            "",
            "python",
            "text",
            "bash",
            "{toctree}",
            "{include}",
            "{literalinclude}",
            "{eval-rst}",
        }
        assert set(fences) <= known, page.name


def test_the_readmes_new_method_takes_a_step():
    names = runpy.run_path(str(DOCS / "examples" / "prelude.py"))
    names["print"] = lambda *_: None
    for block in blocks(ROOT / "README.md"):
        exec(compile(block, "README.md", "exec"), names)
    tx, params, grads = names["new"], names["params"], names["grads"]
    updates, _ = jax.jit(tx.update)(grads, tx.init(params), params)
    assert updates["mlp"]["up"]["kernel"].shape == params["mlp"]["up"]["kernel"].shape
