"""Every example in the library's docstrings runs and prints what it says."""

import doctest
import importlib
import pkgutil

import pytest

import lowrank_optax

MODULES = sorted(
    module.name for module in pkgutil.walk_packages(lowrank_optax.__path__, "lowrank_optax.")
)


@pytest.mark.parametrize("name", ["lowrank_optax", *MODULES])
def test_examples_run(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0


def test_the_examples_are_found():
    finder = doctest.DocTestFinder()
    module = importlib.import_module("lowrank_optax.linalg.dct")
    examples = {test.name.rsplit(".", 1)[-1] for test in finder.find(module) if test.examples}
    assert {"orthogonal_dct", "orthogonal_idct", "choose_method"} <= examples
