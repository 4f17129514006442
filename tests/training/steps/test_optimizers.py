"""The registry: every optimizer trains, and takes exactly the options that it says it takes."""

import dataclasses
import typing

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from training.config.hyperparameters import Hyperparameters
from training.config.resolved import Method
from training.errors import UserError
from training.steps.optimizers import (
    OPTIMIZERS,
    accepted_options,
    build_optimizer,
    check_accepted,
    decay_mask,
    get_entry,
    optimizer_options,
)

# One value for every hyperparameter, other than the defaults.
VALUES = {
    "momentum": 0.8,
    "nesterov": True,
    "residual_decay": 0.9,
    "ns_steps": 2,
    "power_iters": 2,
    "orthogonalize": "cholesky_qr",
    "shape_scale": "rms",
    "rank_scale": "sqrt",
    "b1": 0.8,
    "b2": 0.95,
    "eps": 1e-6,
    "rho": 0.5,
    "scale": 0.5,
    "inactive_scale": 0.5,
    "growth_limit": 1.1,
    "penalty": 0.1,
    "projection_optimizer": "sgd",
    "update_interval": 2,
    "stagger": True,
    "random_after": 3,
    "rotate": False,
    "error_feedback": "none",
    "projection": "svd",
    "select": "uniform",
    "transport": "rotate",
    "residual": "sign_descent",
    "inner": "lion",
    "compress": "in",
    "mu_dtype": "bfloat16",
    "rest": "orthonormal",
    "blocks": 2,
    "neuron_decay": 0.9,
    "cautious": True,
}


@pytest.fixture
def params():
    key = jax.random.key(0)
    kernel = jax.random.normal(key, (2, 8, 6))
    return {
        "embed_tokens": {"embedding": jnp.ones((5, 8))},
        "layers": {
            "mlp": {"up_proj": {"kernel": kernel}},
            "input_norm": {"scale": jnp.ones((2, 8))},
        },
    }


def build(name, **changes):
    rates = {"learning_rate": 0.1, "fallback_learning_rate": changes.pop("fallback", 0.01)}
    options = {
        **{"rank": 2, "weight_decay": 0.0, "clip_norm": 1.0, "zero": False},
        **{"hyperparameters": Hyperparameters(), **changes},
    }
    return build_optimizer(Method(optimizer=name, **options), **rates, seed=0)


def step(optimizer, params):
    first = jax.jit(lambda params: optimizer.update(params, optimizer.init(params), params)[0])
    return first(params)


@pytest.mark.product(every=5)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_moves_every_parameter_against_its_gradient(name, params):
    updates = step(build(name), params)
    for update, gradient in zip(jax.tree.leaves(updates), jax.tree.leaves(params), strict=True):
        assert float(jnp.vdot(update, gradient)) < 0


@pytest.mark.product(every=12)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_accepted_option_builds(name, params):
    accepted = set(accepted_options(name)) & VALUES.keys()
    assert accepted
    chosen = Hyperparameters(**{option: VALUES[option] for option in accepted})
    check_accepted(vars(chosen), [name])
    updates = step(build(name, hyperparameters=chosen), params)
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(updates))


def test_every_option_is_taken_by_some_optimizer_and_named_in_its_help():
    accepted = {name: accepted_options(name) for name in OPTIMIZERS}
    assert {field.name for field in dataclasses.fields(Hyperparameters)} == VALUES.keys()
    for option in optimizer_options():
        assert any(option in options for options in accepted.values()), option


@pytest.mark.product(every=6)
@pytest.mark.parametrize("option", ["rank_scale", "momentum", "nesterov", "b1", "select", "eps"])
def test_hyperparameters_reach_the_optimizer(option, params):
    # What is so by default of Muon, and of Dion3, must be told not to be.
    default = {"nesterov": False, "rank_scale": "none"}.get(option)
    for name in OPTIMIZERS:
        if option not in accepted_options(name):
            continue
        # Beside a rest, steps have no other length at another rank.
        dropped = option == "rank_scale" and "rest" in accepted_options(name)
        others = {"rest": "none"} if dropped else {}
        changed, plain = (
            _program(
                build(name, hyperparameters=Hyperparameters(**{option: value}, **others)), params
            )
            for value in (VALUES[option], default)
        )
        assert changed != plain, name


def test_moments_in_integers_are_for_our_own_optimizers(params):
    chosen = Hyperparameters(mu_dtype="int8")
    assert step(build("tandem", hyperparameters=chosen), params)
    with pytest.raises(UserError, match="--mu-dtype int8 is for the optimizers of lowrank_optax"):
        build("adamw", hyperparameters=chosen)


def test_what_is_left_out_is_not_stored(params):
    chosen = Hyperparameters(momentum="none", neuron_decay="none")
    kept, bare = (
        build("normuon", hyperparameters=values) for values in (Hyperparameters(), chosen)
    )
    sizes = [sum(x.size for x in jax.tree.leaves(tx.init(params))) for tx in (kept, bare)]
    rows, entries = 2 * 6, 2 * 8 * 6
    assert sizes[0] - sizes[1] == rows + entries
    with pytest.raises(UserError, match="--momentum none is for normuon and tandem; trion needs"):
        build("trion", hyperparameters=chosen)


@pytest.mark.product(every=13)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_fallback_learning_rate_is_that_of_the_other_leaves_alone(name, params):
    if "fallback_learning_rate" not in accepted_options(name):
        assert "rank" not in accepted_options(name)
        return
    slow, fast = (step(build(name, fallback=rate), params) for rate in (0.01, 0.02))
    np.testing.assert_array_equal(
        slow["layers"]["mlp"]["up_proj"]["kernel"], fast["layers"]["mlp"]["up_proj"]["kernel"]
    )
    for leaves in (
        lambda tree: tree["embed_tokens"]["embedding"],
        lambda tree: tree["layers"]["input_norm"]["scale"],
    ):
        np.testing.assert_allclose(leaves(fast), 2 * leaves(slow), rtol=1e-6)


def _program(optimizer, params):
    """What is computed of a gradient and a state, without what no result depends on."""
    state = jax.eval_shape(optimizer.init, params)
    return jax.jit(optimizer.update).lower(params, state, params).as_text()


def test_an_option_of_another_optimizer_is_refused_by_name():
    with pytest.raises(UserError, match="--momentum is not an option of lion: lion takes --b1"):
        check_accepted({"momentum": 0.9}, ["lion"])
    check_accepted({"momentum": 0.9}, ["lion", "trion"])


@pytest.mark.parametrize("option", ["rank", "fallback_learning_rate"])
def test_low_rank_options_are_refused_by_full_rank_optimizers(option):
    flag = "--" + option.replace("_", "-")
    with pytest.raises(UserError, match=f"{flag} is not an option of lion"):
        check_accepted({option: 1}, ["lion"])


def test_an_unknown_optimizer_gets_the_nearest_name():
    with pytest.raises(UserError, match=r"unknown optimizer 'muonn'. Did you mean 'muon'\? Known:"):
        get_entry("muonn")


def test_a_value_that_the_optimizer_rejects_is_a_user_error():
    with pytest.raises(UserError, match="rank"):
        build("trion", rank=1.5)


def test_weight_decay_spares_norms(params):
    mask = decay_mask(params)
    assert mask["embed_tokens"]["embedding"]
    assert mask["layers"]["mlp"]["up_proj"]["kernel"]
    assert not mask["layers"]["input_norm"]["scale"]


@pytest.mark.product(every=13)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weight_decay_shrinks_matrices(name, params):
    decayed, plain = step(build(name, weight_decay=0.5), params), step(build(name), params)
    kernel = params["layers"]["mlp"]["up_proj"]["kernel"]
    difference = (
        decayed["layers"]["mlp"]["up_proj"]["kernel"] - plain["layers"]["mlp"]["up_proj"]["kernel"]
    )
    np.testing.assert_allclose(difference, -0.1 * 0.5 * kernel, rtol=1e-3, atol=1e-5)


def test_clipping_bounds_the_gradient(params):
    clipped = step(
        build("sgd", clip_norm=1e-3, hyperparameters=Hyperparameters(momentum=0.0)), params
    )
    assert float(optax.tree.norm(clipped)) == pytest.approx(0.1 * 1e-3, rel=1e-4)


def test_builders_give_defaults_for_all_their_options():
    """An option left out must mean the optimizer's own default."""
    hints = typing.get_type_hints(Hyperparameters)
    assert all(type(None) in typing.get_args(hint) for hint in hints.values())
    assert all(value is None for value in vars(Hyperparameters()).values())
