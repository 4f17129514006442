"""optax's own conformance suite for contributed optimizers, all of it, on every named method."""

import inspect
import itertools

import jax.numpy as jnp
import pytest
from covers import in_turn
from methods import METHODS
from optax.contrib import _common_test as suite

import lowrank_optax as lro

# The targets' matrices are 2 x 2, so that rank 1 is the one at which a subspace is at work.
# optax.contrib.galore is held to the same constant rate, at rank 8, which there is full.
SETTINGS = {name: {"learning_rate": 1e-2, "rank": 1} for name in METHODS}
# Sign-like steps in a subspace of its own at every step end in a circle of about this radius.
SETTINGS["dct_adamw"]["learning_rate"] = 3e-3
SETTINGS["ldadamw"]["learning_rate"] = 3e-3
SETTINGS["online_subspace_descent"]["learning_rate"] = 3e-3
# Wrappers of optimizers are optax's own.
ALONE = {"wrapper_name": None, "wrapper_kwargs": None}
FLOATS = (jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64)
TARGETS = (
    suite._setup_parabola,
    suite._setup_rosenbrock,
    suite._setup_matrix_parabola,
    suite._setup_mixed_tensor_target,
)
VARIANTS = {
    "test_optimizers": {"target": TARGETS, "dtype": ("float32",)},
    "test_optimizers_accept_extra_args": {"wrap": (False,)},
    "test_optimizers_accept_learning_rate_schedule_if_type_annotated_as_such": {},
    "test_optimizers_can_be_wrapped_in_inject_hyperparams": {},
    "test_preserve_dtype": {"dtype": ("bfloat16", "float32")},
    "test_gradient_accumulation": {"dtype": ("bfloat16", "float32")},
    "test_state_shape_dtype_shard_stability": {"dtype": FLOATS},
}
"""What the suite varies in each of its tests beside the optimizer."""
LONG = "test_optimizers"  # scans over 30,000 steps


def bodies():
    """The suite's tests before they were bound to optax's optimizers."""
    members = inspect.getmembers(suite.ContribTest, inspect.isfunction)
    found = [inspect.unwrap(member) for name, member in members if name.startswith("test")]
    return {test.__name__: test for test in found}


def variants(test):
    options = VARIANTS[test]
    for values in itertools.product(*options.values()):
        words = [getattr(value, "__name__", str(value)) for value in values]
        yield "-".join([test, *words]), dict(zip(options, values, strict=True))


def cases():
    """Every method in every test, with the targets or dtypes of each test in turn."""
    for test in VARIANTS:
        marks, times = (pytest.mark.slow, 2) if test == LONG else ((), 1)
        for name, (words, variant) in in_turn(METHODS, list(variants(test)), times=times):
            yield pytest.param(test, variant, name, id=f"{words}-{name}", marks=marks)


def test_every_test_of_the_suite_is_run():
    assert set(bodies()) == set(VARIANTS)


@pytest.mark.product
@pytest.mark.parametrize(("test", "variant", "name"), list(cases()))
def test_the_suite_for_contributed_optimizers_passes(test, variant, name, monkeypatch):
    monkeypatch.setattr(suite, "_get_opt_factory", lambda name: getattr(lro, name))
    run = bodies()[test]
    arguments = {"opt_name": name, "opt_kwargs": SETTINGS[name]} | ALONE | variant
    try:
        run(suite.ContribTest(), **arguments)
    except suite.absltest.SkipTest as skipped:
        pytest.fail(f"optax's suite left {name} out: {skipped}")
