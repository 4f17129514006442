"""Every example in a docstring runs and prints what it says."""

import doctest
import importlib
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGES = ("lowrank_optax", "benchmarks", "models", "training")
EXAMPLE = re.compile(r"^ *(>>>|\.\.\.) .*$", re.MULTILINE)
# A step or a model has to be compiled, which tests of its own do; CI runs these examples.
COMPILED = re.compile(r"(Llama|update|init)\(")


def modules_with_examples():
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            examples = [match[0] for match in EXAMPLE.finditer(path.read_text(encoding="utf-8"))]
            if examples:
                name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
                slow = any(map(COMPILED.search, examples))
                yield pytest.param(
                    name.removesuffix(".__init__"), marks=pytest.mark.slow if slow else ()
                )


MODULES = [*modules_with_examples()]


@pytest.mark.product(every=3)
@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted
    assert result.failed == 0


def test_the_examples_are_found():
    names = {module.values[0] for module in MODULES}
    assert {"lowrank_optax.linalg.dct", "lowrank_optax.optimizers.trion"} <= names
    for package in PACKAGES:
        assert any(name.startswith(f"{package}.") for name in names)
    assert sum(not module.marks for module in MODULES) > 20
