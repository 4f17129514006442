"""The notebooks run from start to end, and the outputs that are committed with them are whole."""

import ast
import os
import sys
import time
from pathlib import Path

import nbformat
import pytest
from compilation import FAST
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
NAMES = ["choosing.ipynb", "quickstart.ipynb", "sharding.ipynb", "subspaces.ipynb"]
# What a reader has who installed the library and matplotlib.
INSTALLED = {"jax", "lowrank_optax", "matplotlib", "numpy", "optax"}

# A reader waits so long for all cells, on two cores; the timeout is of each of them.
SECONDS = 90

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)


def read(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


def execute(notebook):
    """Run all cells in a new kernel of the interpreter that runs this test, in notebooks/."""
    # No directories to search: only ipykernel's own specification is left, and its interpreter is
    # sys.executable, whichever kernels the machine has installed under the same name.
    manager = AsyncKernelManager(
        kernel_name=notebook.metadata.kernelspec.name,
        kernel_spec_manager=KernelSpecManager(kernel_dirs=[]),
    )
    assert manager.kernel_spec.argv[0] == sys.executable
    client = NotebookClient(
        notebook,
        km=manager,
        timeout=SECONDS,
        resources={"metadata": {"path": str(REPOSITORY / "notebooks")}},
    )
    # A reader has no eight host devices, which conftest.py asks for. And the library is this one,
    # wherever another one is installed.
    environment = os.environ | {"XLA_FLAGS": FAST, "PYTHONPATH": str(REPOSITORY)}
    client.execute(env=environment, cleanup_kc=True)


def outputs(notebook):
    return [
        output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
    ]


def streams(notebook):
    return [output for output in outputs(notebook) if output.output_type == "stream"]


def pictures(notebook):
    return [output for output in outputs(notebook) if "image/png" in output.get("data", {})]


def assert_clean(notebook):
    for output in outputs(notebook):
        assert output.output_type != "error", output.get("traceback")
    for output in streams(notebook):
        assert "warning" not in output.text.lower(), output.text


def test_there_are_the_notebooks_to_test():
    assert [path.name for path in NOTEBOOKS] == NAMES


@each_notebook
def test_a_reader_can_copy_it_without_the_repository(path):
    code = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "code")
    imported = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module.partition(".")[0])
    assert "lowrank_optax" in imported
    assert imported <= INSTALLED | sys.stdlib_module_names
    assert "sys.path" not in code


@each_notebook
def test_notebook_runs_in_ninety_seconds_without_error_or_warning(path):
    notebook = read(path)
    saved_pictures = len(pictures(notebook))
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None

    start = time.monotonic()
    execute(notebook)
    seconds = time.monotonic() - start

    assert seconds < SECONDS
    assert_clean(notebook)
    assert len(pictures(notebook)) == saved_pictures
    assert streams(notebook)


@each_notebook
def test_saved_outputs_are_those_of_one_complete_run(path):
    notebook = read(path)
    assert_clean(notebook)
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))
    assert streams(notebook)
    assert pictures(notebook)


@each_notebook
def test_file_is_small_and_names_no_place_on_the_machine_that_ran_it(path):
    text = path.read_text(encoding="utf-8")
    assert len(text) < 400_000
    for place in (str(REPOSITORY), str(Path.home()), sys.prefix, "/tmp/", "/home/"):
        assert place == "/" or place not in text, f"{path.name} contains {place}"
