"""Every named method says what it costs and what differs from the reference."""

import inspect
import re

import jax
import jax.numpy as jnp
import pytest

import lowrank_optax as lro
from benchmarks.pages import generated, methods

METHODS = methods.methods()
DIFFERENCE = re.compile(r"Differs (from|in|as) |As published|This library's own")
M, N, R = 96, 64, 16

each_method = pytest.mark.parametrize("name", METHODS)


def section(name, title):
    """The lines of a section of a method's docstring, joined."""
    _, _, rest = inspect.getdoc(getattr(lro, name)).partition(f"\n{title}:\n")
    return " ".join(rest.partition("\n\n")[0].split())


@each_method
def test_a_docstring_says_what_differs_from_the_reference(name):
    assert DIFFERENCE.search(section(name, "Reference"))


@each_method
def test_a_docstring_states_the_readmes_cost_in_memory_and_then_that_in_work(name):
    cost = section(name, "Cost")
    assert cost.startswith(f"{METHODS[name].state} numbers of state")
    assert "A step takes " in cost


def numbers(formula):
    """The value of a formula as "2 m r + n r", for the sizes above."""
    products = (re.sub(r"(?<=\w) (?=\w)", " * ", term) for term in formula.split(" + "))
    return eval(" + ".join(products), {"m": M, "n": N, "r": R})


@each_method
def test_the_state_is_that_of_the_formula_but_for_indices_and_a_number_per_row_and_column(name):
    takes = inspect.signature(getattr(lro, name)).parameters
    options = {"rank": R} if "rank" in takes else {}
    # What is stored in fewer bits is counted by its numbers, and is checked where it is stored.
    options |= {"mu_dtype": None} if "mu_dtype" in takes else {}
    params = {"w": jax.ShapeDtypeStruct((N, M), jnp.float32)}
    report = lro.memory_report(getattr(lro, name)(1e-3, **options), params)
    beside = report.total_bytes / 4 - numbers(METHODS[name].state)
    assert 0 <= beside <= 2 * (M + N)


def test_a_gain_that_a_docstring_states_is_in_the_table_of_arguments():
    gains = re.findall(r"\d\.\d+ ± \d\.\d+", inspect.getdoc(lro.trion))
    assert len(gains) == 2
    assert all(f" -{gain} " in generated("recipes.md", "arguments") for gain in gains)
