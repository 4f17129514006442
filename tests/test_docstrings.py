"""Every example in a docstring runs and prints what it says."""

import doctest
import importlib
import pathlib
import pkgutil

import pytest

import lowrank_optax

ROOT = pathlib.Path(__file__).parents[1]
LIBRARY = [
    "lowrank_optax",
    *(module.name for module in pkgutil.walk_packages(lowrank_optax.__path__, "lowrank_optax.")),
]


def modules_with_examples(package):
    for path in sorted((ROOT / package).rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if ">>> " in text:
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            # A model has to be compiled for them.
            marks = pytest.mark.slow if "Llama(" in text else ()
            yield pytest.param(name, marks=marks)


OTHERS = [
    module
    for package in ("benchmarks", "models", "training")
    for module in modules_with_examples(package)
]


@pytest.mark.parametrize("name", [*LIBRARY, *OTHERS])
def test_examples_run(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0


def test_the_examples_are_found():
    finder = doctest.DocTestFinder()
    module = importlib.import_module("lowrank_optax.linalg.dct")
    examples = {test.name.rsplit(".", 1)[-1] for test in finder.find(module) if test.examples}
    assert {"orthogonal_dct", "orthogonal_idct", "choose_method"} <= examples
    assert len(OTHERS) > 10
