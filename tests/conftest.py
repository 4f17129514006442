"""Shared test set-up: eight host devices, run-time shape checks, float64 on request."""

import collections
import gc
import importlib.util
import os
import tempfile

from compilation import xla_flags

# Before jax is imported anywhere: the sharding tests need several devices on one host.
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), xla_flags(devices=8)])
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# What is compiled twice, by another test, by the other worker or in a child process, is read the
# second time.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    compilations = tempfile.TemporaryDirectory(prefix="compilations-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = compilations.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

import jax
import jaxtyping
import pytest
from hypothesis import settings

# The README's command does without what these import; CI adds the extra dev before the slow tests.
NEEDED = {"test_notebooks.py": "nbclient", "training/runs/test_writers.py": "wandb"}
collect_ignore = [file for file, name in NEEDED.items() if importlib.util.find_spec(name) is None]

# What is imported stays: the collector of garbage need not go through it, now or later.
gc.disable()

# CI sets it for some of the quick tests: all tests would take a seventh longer by it.
if os.environ.get("CHECK_SHAPES"):
    jaxtyping.install_import_hook("lowrank_optax", "shape_checks.checked")

settings.register_profile("lowrank_optax", deadline=None, max_examples=6, derandomize=True)
settings.load_profile("lowrank_optax")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Of a product of parameters the quick command takes a diagonal, or every n-th."""
    products = collections.defaultdict(list)
    for item in items:
        if item.get_closest_marker("product") and not item.get_closest_marker("slow"):
            products[item.nodeid.partition("[")[0]].append(item)
    for cases in products.values():
        every = cases[0].get_closest_marker("product").kwargs.get("every")
        quick = cases[::every] if every else diagonal(cases)
        for case in cases:
            if case not in quick:
                case.add_marker(pytest.mark.slow)


def diagonal(cases):
    """Few cases in which every value of every parameter occurs."""
    values = {
        case: {(name, id(value)) for name, value in case.callspec.params.items()} for case in cases
    }
    missing, chosen = set().union(*values.values()), []
    while missing:
        chosen.append(max(cases, key=lambda case: len(values[case] & missing)))
        missing -= values[chosen[-1]]
    return chosen


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """The tests of a file share what they compute: one worker runs them, in the files' order."""
    if config.option.dist != "load":  # what `-n` alone asks for
        return None
    from xdist.scheduler import LoadFileScheduling

    config.option.loadscopereorder = False
    return LoadFileScheduling(config, log)


def pytest_collection_finish():
    gc.freeze()
    gc.enable()


compiled = collections.Counter()
jax.monitoring.register_event_duration_secs_listener(lambda name, *_, **__: compiled.update([name]))


@pytest.fixture(autouse=True, scope="module")
def free_compiled_programs():
    """Every program that XLA compiles maps memory; of thousands in one process it runs out."""
    yield
    if compiled["/jax/core/compile/backend_compile_duration"] > 2000:
        compiled.clear()
        jax.clear_caches()


@pytest.fixture
def float64():
    """Run one test with 64-bit arithmetic."""
    with jax.enable_x64(True):
        yield
