"""Which rooms of the trainer know of which: read from the imports in the source, nothing runs."""

import ast
import collections
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
FILES = {
    ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__"): path
    for folder in ("training", "models", "lowrank_optax")
    for path in (REPOSITORY / folder).rglob("*.py")
}


def imports(path):
    """Names of the modules that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


IMPORTS = {module: imports(path) for module, path in FILES.items()}


def reached(module):
    """Everything that is imported with a module, by way of the files here."""
    found, waiting = set(), [module]
    while waiting:
        for name in IMPORTS.get(waiting.pop(), ()):
            if name not in found:
                found.add(name)
                waiting.append(name)
    return found


def packages(names):
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("module", [name for name in FILES if name.startswith("training.config")])
def test_options_know_no_other_room(module):
    outside = ("training.config", "training.errors", "training.files")
    rooms = {name for name in reached(module) if name.startswith("training.")}
    assert {name for name in rooms if not name.startswith(outside)} == set()
    unwanted = {"matplotlib", "rich", "socket", "gzip", "datasets", "orbax", "tokenizers"}
    assert packages(reached(module)) & unwanted == set()


OPTIONS_ALONE = """
import sys, tyro, jax, models.configs, etils.epath
before = set(sys.modules)
import training.config.files, training.config.finetuning, training.config.resolved
packages = {name.partition(".")[0] for name in sys.modules.keys() - before}
print(*sorted(packages - set(sys.stdlib_module_names)))
"""


@pytest.mark.slow
def test_options_load_nothing_besides_what_tyro_jax_and_the_models_sizes_do():
    """Really loaded: tyro and JAX have sockets and gzip themselves, so that these say nothing."""
    command = [sys.executable, "-c", OPTIONS_ALONE]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["training"]


def test_a_step_is_compiled_without_plotting_or_reading():
    unwanted = {"matplotlib", "rich", "datasets", "grain", "orbax", "tokenizers"}
    assert packages(reached("training.steps.compiled")) & unwanted == set()
    assert packages(reached("training.runs.loop")) >= unwanted - {"datasets", "tokenizers"}


@pytest.mark.parametrize("module", [name for name in FILES if name.startswith("training.data")])
def test_data_are_read_without_a_model_or_a_run(module):
    rooms = ("steps", "checkpoints", "runs", "inference", "reports", "commands")
    unwanted = tuple(f"training.{room}" for room in rooms)
    assert {name for name in reached(module) if name.startswith(unwanted)} == set()
    # Options, which data have too, know the sizes of models, but models are made of flax.
    assert "flax" not in packages(reached(module))


def test_reports_are_made_of_values():
    """Runs draw them; they know no run."""
    reports = {name for name in FILES if name.startswith("training.reports")}
    rooms = set().union(*(reached(name) for name in reports))
    rooms = {name for name in rooms if name.startswith("training.")}
    known = ("training.reports", "training.errors", "training.files")
    assert {name for name in rooms if not name.startswith(known)} == set()


BELOW_RUNS = ("config", "data", "steps", "checkpoints", "inference")


def test_rooms_that_runs_are_made_of_know_no_run():
    rooms = ("training.runs", "training.reports", "training.commands")
    below = [name for name in FILES if name.startswith(tuple(f"training.{x}" for x in BELOW_RUNS))]
    found = {name: {x for x in IMPORTS[name] if x.startswith(rooms)} for name in below}
    assert {name: modules for name, modules in found.items() if modules} == {}


def test_nothing_imports_a_command():
    commands = {name for name in imports(REPOSITORY / "train.py") if name in FILES}
    commands = {name for name in commands if name.startswith("training.commands.")}
    assert len(commands) == 9
    assert {name: IMPORTS[name] & commands for name in FILES if IMPORTS[name] & commands} == {}


def test_no_two_functions_have_one_name():
    names = collections.Counter(
        node.name
        for module, path in FILES.items()
        if module.startswith("training.")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    )
    assert [name for name, count in names.items() if count > 1] == []
