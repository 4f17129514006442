"""Figures in the README and in the pages of docs/ come from the JSON that a benchmark wrote."""

import pathlib
import re

from benchmarks import training_page
from benchmarks.readme import ROOT, render


def test_the_readmes_tables_are_those_of_the_results():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert render(readme) == readme


def test_the_tables_of_the_page_on_training_are_those_of_the_results():
    page = training_page.PAGE.read_text(encoding="utf-8")
    assert training_page.render(page) == page


def test_every_file_that_the_readme_points_to_is_there():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!http)([^)#]+)", readme)
    assert links
    assert [link for link in links if not pathlib.Path(ROOT, link).exists()] == []


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
