"""Shared test set-up: eight host devices, run-time shape checks, float64 on request."""

import collections
import os
from importlib.metadata import version

# Before jax is imported anywhere: the sharding tests need several devices on one host. And most of
# the time goes into compiling programs that run once: LLVM takes a sixth of it when it leaves them
# as they are. What XLA makes of a program before that, which the tests of HLO read, is the same.
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        "--xla_backend_optimization_level=0",
        "--xla_llvm_disable_expensive_passes=true",
        "--xla_cpu_parallel_codegen_split_count=1",
        # Later versions know no such flag, and end the process.
        "--xla_cpu_use_fusion_emitters=false" * version("jaxlib").startswith("0.10."),
    ]
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jaxtyping
import pytest
from hypothesis import settings

jaxtyping.install_import_hook("lowrank_optax", "beartype.beartype")

settings.register_profile("lowrank_optax", deadline=None, max_examples=20, derandomize=True)
settings.load_profile("lowrank_optax")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Of a product of parameters the quick command takes every n-th; the others are slow."""
    counts = collections.Counter()
    for item in items:
        if product := item.get_closest_marker("product"):
            function = item.nodeid.partition("[")[0]
            if counts[function] % product.kwargs["every"]:
                item.add_marker(pytest.mark.slow)
            counts[function] += 1


@pytest.fixture(autouse=True, scope="module")
def free_compiled_programs():
    """Every program that XLA compiles maps memory; of thousands in one process it runs out."""
    yield
    jax.clear_caches()


@pytest.fixture
def float64():
    """Run one test with 64-bit arithmetic."""
    with jax.enable_x64(True):
        yield
