"""Shared test set-up: eight host devices, run-time shape checks, float64 on request."""

import os

# Before jax is imported anywhere: the sharding tests need several devices on one host.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jaxtyping
import pytest
from hypothesis import settings

jaxtyping.install_import_hook("lowrank_optax", "beartype.beartype")

settings.register_profile("lowrank_optax", deadline=None, max_examples=20, derandomize=True)
settings.load_profile("lowrank_optax")


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
