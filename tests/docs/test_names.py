"""Every public name is on a page, and every name on a page exists."""

import importlib
import inspect
import re
from functools import reduce

import pytest

import lowrank_optax as lro
from benchmarks.pages import DOCS
from benchmarks.pages import methods as method_pages

DIRECTIVE = re.compile(r"^\.\. auto(?:function|class):: lowrank_optax\.(\S+)$", re.MULTILINE)


def documented():
    """Names below `lowrank_optax` with a directive on a page."""
    pages = [path.read_text(encoding="utf-8") for path in DOCS.rglob("*.md")]
    pages += [method_pages.render(name, line) for name, line in method_pages.methods().items()]
    return {name for page in pages for name in DIRECTIVE.findall(page)}


MODULES = [name for name in lro.__all__ if inspect.ismodule(getattr(lro, name))]
"""What is public in them they say themselves, in `__all__`."""


def test_every_public_name_is_on_a_page():
    names = documented()
    in_modules = {name.partition(".")[0] for name in names if "." in name}
    assert {*lro.__all__} - {*MODULES} - names == set()
    assert {*MODULES} - in_modules == set()


@pytest.mark.parametrize("name", MODULES)
def test_every_class_of_a_public_module_is_public_or_begins_with_an_underscore(name):
    module = getattr(lro, name)
    own = {
        name
        for name, value in inspect.getmembers(module, inspect.isclass)
        if value.__module__ == module.__name__ and not name.startswith("_")
    }
    assert own - {*module.__all__} == set()


@pytest.mark.parametrize("package", MODULES)
def test_every_public_name_of_a_module_is_on_a_page(package):
    module = getattr(lro, package)
    text = "".join(path.read_text(encoding="utf-8") for path in (DOCS / "api").glob("*.md"))
    here = {name.partition(".")[2] for name in documented() if name.startswith(f"{package}.")}
    # What is neither a function nor a class is described in the text.
    missing = {*module.__all__} - here - (documented() & {*lro.__all__})
    assert [name for name in missing if f"`{package}.{name}`" not in text] == []


def test_every_name_on_a_page_exists_and_has_a_docstring():
    for name in documented():
        assert reduce(getattr, name.split("."), importlib.import_module("lowrank_optax")).__doc__
