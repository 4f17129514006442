"""Figures in the pages come from the JSON that a benchmark wrote; links and examples work."""

import pathlib
import re

import pytest

from benchmarks import pages
from benchmarks.pages import ROOT, choosing, methods, results, training
from benchmarks.recipes import report

PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
each_page = pytest.mark.parametrize(
    "page", PAGES, ids=lambda page: f"{page.parent.name}/{page.name}"
)


def test_the_readme_is_read_in_one_sitting():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


def test_the_tables_of_the_page_of_results_are_those_of_the_results():
    page = results.PAGE.read_text(encoding="utf-8")
    assert results.render(page) == page


def test_the_tables_of_the_page_on_recipes_are_those_of_the_runs():
    page = report.PAGE.read_text(encoding="utf-8")
    assert report.render(page) == page
    readme = report.README.read_text(encoding="utf-8")
    assert report.render_readme(readme) == readme


def test_the_tables_of_the_page_on_training_are_those_of_the_results():
    page = training.PAGE.read_text(encoding="utf-8")
    assert training.render(page) == page


def test_the_measured_lines_of_the_page_on_choosing_are_those_of_the_other_pages():
    page = choosing.PAGE.read_text(encoding="utf-8")
    assert choosing.render(page) == page


def test_a_line_that_is_gone_cannot_be_quoted():
    with pytest.raises(SystemExit, match=r"recipes.md has no \['adamw2'\] in main any more"):
        choosing.quote("recipes.md", "main", ("method",), ("adamw2",))


def test_a_page_of_a_method_has_its_rows_and_adamws_and_no_others():
    page = methods.render("trion", methods.methods()["trion"])
    rows = [line.split("|")[1].strip(" `") for line in page.splitlines() if line.startswith("|")]
    assert {"adamw", "optax.adamw", "trion", "Trion"} <= set(rows)
    assert not {"muon", "dion", "dct_adamw (int8)"} & set(rows)
    assert "autofunction:: lowrank_optax.scale_by_trion" in page


# No search, no comparison and no timing has it.
UNMEASURED = {"dion2"}


def test_every_method_that_was_measured_has_rows_on_its_page():
    found = {name for name in methods.methods() if [*methods.measurements(name)]}
    assert methods.methods().keys() - found == UNMEASURED


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("trion", "What two arguments change"),
        ("dct_adamw", "What two arguments change"),
        ("normuon", "Fine-tuning at width 64"),
        *((name, "fine-tuning at width 64") for name in ("trion", "dct_adamw", "galore", "fira")),
    ],
)
def test_a_page_of_a_method_has_its_arguments_and_its_fine_tuning(name, title):
    assert any(title in text for text in methods.measurements(name))


@pytest.mark.parametrize(
    ("name", "column"),
    [
        *((name, "validation loss") for name in ("apollo", "dion", "galore", "ldadamw", "fira")),
        *((name, "validation loss") for name in ("frugal", "online_subspace_descent", "normuon")),
        *((name, "this / adamw") for name in ("normuon", "tandem", "muon", "galore")),
    ],
)
def test_a_page_of_a_method_has_what_was_measured_of_it(name, column):
    tables = [text.splitlines() for text in methods.measurements(name) if text.startswith("|")]
    kept = [rows for header, _, *rows in tables if column in header]
    assert any(
        methods.method_of(row.split("|")[1].strip()) == name for rows in kept for row in rows
    )


def test_two_results_of_one_method_are_not_quoted(tmp_path, monkeypatch):
    table = "Tuned, at toy scale:\n\n| method | loss |\n|---:|---:|\n| trion | {} |\n"
    monkeypatch.setattr(pages, "DOCS", tmp_path)
    page = tmp_path / pages.CLAIMS
    page.write_text(table.format(1) + "\n" + table.format(1))
    assert pages.tuned_in_claims() == [["method", "loss"], ["trion", "1"]]
    page.write_text(table.format(1) + "\n" + table.format(2))
    with pytest.raises(SystemExit, match=r"papers.md has two results of trion"):
        pages.tuned_in_claims()


@each_page
def test_every_file_that_a_page_points_to_is_there(page):
    prose = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    links = re.findall(r"\]\((?!http)([^)#]+)", prose)
    paths = {pathlib.Path(page.parent, link).resolve() for link in links}
    # Those of methods are made when the documents are built.
    made = {ROOT / "docs" / "methods" / f"{name}.md" for name in methods.methods()}
    assert [path for path in paths - made if not path.exists()] == []


CALLS = re.findall(
    r"\| `((?:lro|optax)\..*?)` \|", (ROOT / "docs" / "published.md").read_text(encoding="utf-8")
)


@pytest.mark.product(every=3)
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
