"""Figures in the pages come from the JSON that a benchmark wrote; links and examples work."""

import pathlib
import re

import pytest

from benchmarks import results_page, training_page
from benchmarks.pages import ROOT
from benchmarks.recipes import report

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def test_the_readme_is_read_in_one_sitting():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


def test_the_tables_of_the_page_of_results_are_those_of_the_results():
    page = results_page.PAGE.read_text(encoding="utf-8")
    assert results_page.render(page) == page


def test_the_tables_of_the_page_on_recipes_are_those_of_the_runs():
    page = report.PAGE.read_text(encoding="utf-8")
    assert report.render(page) == page
    readme = report.README.read_text(encoding="utf-8")
    assert report.render_readme(readme) == readme


def test_the_tables_of_the_page_on_training_are_those_of_the_results():
    page = training_page.PAGE.read_text(encoding="utf-8")
    assert training_page.render(page) == page


@each_page
def test_every_file_that_a_page_points_to_is_there(page):
    links = re.findall(r"\]\((?!http)([^)#]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not pathlib.Path(page.parent, link).exists()] == []


def test_the_readmes_python_examples_run():
    """Each block in turn, in one namespace with a model that they refer to."""
    import jax
    import jax.numpy as jnp
    import optax
    from jax.sharding import NamedSharding, PartitionSpec

    params = {"w": jnp.ones((16, 32)), "b": jnp.ones(32)}
    mesh = jax.make_mesh((8,), ("data",))
    names = {
        "optax": optax,
        "jax": jax,
        "params": params,
        "param_shardings": jax.tree.map(lambda _: NamedSharding(mesh, PartitionSpec()), params),
        "print": lambda *_: None,
    }
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL)
    assert len(blocks) >= 3
    for block in blocks:
        exec(block, names)
    updates, _ = names["new"].update(params, names["new"].init(params), params)
    assert updates["w"].shape == (16, 32)


CALLS = re.findall(
    r"\| `(lro\..*?)` \|", (ROOT / "docs" / "published.md").read_text(encoding="utf-8")
)


@pytest.mark.parametrize("call", CALLS)
def test_every_call_of_the_page_on_methods_takes_a_step(call):
    import jax
    import jax.numpy as jnp
    import optax

    import lowrank_optax as lro

    tx = eval(call, {"lro": lro, "optax": optax, "rate": 0.1, "r": 2})
    params = {"w": jax.random.normal(jax.random.key(0), (6, 8))}
    step, _ = jax.jit(tx.update)(params, jax.jit(tx.init)(params), params)
    assert step["w"].shape == (6, 8)
    assert bool(jnp.isfinite(step["w"]).all() & jnp.any(step["w"] != 0))
