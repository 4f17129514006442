"""Configuration of Sphinx: ``sphinx-build -W -b html docs OUT``, which needs no network."""

import pathlib
import sys

DOCS = pathlib.Path(__file__).parent
sys.path.insert(0, str(DOCS.parent))

from benchmarks.pages import methods as method_pages  # noqa: E402 - found by the line above

project = "lowrank_optax"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = "lowrank_optax"
exclude_patterns = ["_build"]
highlight_language = "text"
smartquotes_action = "D"  # dashes only: quotes stand around strings
nb_execution_mode = "off"  # notebooks are executed in the tests; here are the outputs they saved
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # types of arrays stand in the text, with their shapes
# `name` in a docstring is a link where the name is documented, and code where it is not.
default_role = "py:obj"
python_maximum_signature_line_length = 80
napoleon_use_rtype = False
napoleon_custom_sections = ["Cost", "Reference"]


def setup(app):
    """Writes the pages that are made from others: one a method, and the notebooks' copies."""
    method_pages.write(DOCS / "methods")
    copies = DOCS / "notebooks"
    copies.mkdir(exist_ok=True)
    for notebook in (DOCS.parent / "notebooks").glob("*.ipynb"):
        text = notebook.read_text(encoding="utf-8").replace("../README.md", "../index.md")
        (copies / notebook.name).write_text(text.replace("../docs/", "../"), encoding="utf-8")
