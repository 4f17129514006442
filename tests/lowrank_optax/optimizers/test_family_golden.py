"""The methods beside the DCT ones follow the published trajectories, tall, wide and square."""

import golden
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lowrank_optax as lro

LIMITS = {"float64": 1e-5, "float32": 1e-4}
COMMON = {"dimension_numbers": golden.TORCH_LAYOUT}


def betas(config):
    return dict(zip(("b1", "b2"), config["betas"], strict=True))


def galore(config):
    return lro.galore(
        config["lr"],
        config["rank"],
        update_interval=config["gap"],
        scale=config["scale"],
        eps=config["eps"],
        **betas(config),
        **COMMON,
    )


def fira(config):
    return lro.fira(
        config["lr"],
        config["rank"],
        update_interval=config["gap"],
        scale=config["alpha"],
        growth_limit=config["limiter_gamma"],
        eps=config["eps"],
        **betas(config),
        **COMMON,
    )


def frugal(config):
    return lro.frugal(
        config["lr"],
        config["density"],
        update_interval=config["gap"],
        inactive_scale=config["inactive_lr_scale"],
        eps=config["eps"],
        weight_decay=config["weight_decay"],
        **betas(config),
        **COMMON,
    )


def ldadamw(config):
    square = config["shape"][0] == config["shape"][1]
    return lro.ldadamw(
        config["lr"],
        config["rank"],
        eps=config["eps"],
        rho=config["rho"],
        error_feedback=config["error_feedback"],
        weight_decay=config["weight_decay"],
        compress="out" if square else "smallest",
        **betas(config),
        **COMMON,
    )


def online_subspace_descent(config):
    rate = config["proj_lr"]
    if config["proj_opt"] == "sgd":
        projection_optimizer = optax.sgd(rate)
    else:
        b1, b2 = config["proj_betas"]
        decay = config["proj_weight_decay"]
        projection_optimizer = optax.adamw(rate, b1, b2, config["proj_eps"], weight_decay=decay)
    return lro.online_subspace_descent(
        config["lr"],
        config["rank"],
        projection_optimizer=projection_optimizer,
        penalty=config["aux_lambda"],
        scale=config["scale"],
        inner="adam" if config["inner"] == "adamw" else "lion",
        eps=config["eps"] or 1e-8,
        **betas(config),
        **COMMON,
    )


def dion(config):
    return lro.dion(
        config["lr"],
        config["rank"],
        momentum=config["mu"],
        eps=config["eps"],
        weight_decay=config["weight_decay"],
        **COMMON,
    )


# Prefix of the files -> the optimizer, and whether its published code decays the updated weights.
METHODS = {
    "galore": (galore, True),
    "fira": (fira, True),
    "frugal": (frugal, False),
    "ldadamw": (ldadamw, False),
    "osd": (online_subspace_descent, True),
    "dion": (dion, False),
}
CASES = [case for method in METHODS for case in golden.cases(method)]


def set_first_factor(arrays):
    """Dion starts from the trajectory's own draw."""

    is_matrices = lambda node: isinstance(node, lro.LowRankState)

    def begin(node):
        if not is_matrices(node):
            return node
        return node._replace(basis=jnp.asarray(arrays["Q0"], node.basis.dtype))

    change = lambda state: jax.tree.map(begin, state, is_leaf=is_matrices)
    return change if "Q0" in arrays else lambda state: state


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_the_optimizer_follows_the_golden_trajectory(name, dtype, request):
    if dtype == "float64":
        request.getfixturevalue("float64")
    make, decays_after = METHODS[name.partition("_")[0]]
    config, arrays = golden.load(name)
    trajectory, _ = golden.replay(
        make(config),
        arrays,
        jnp.dtype(dtype),
        decay_after=config["lr"] * config["weight_decay"] if decays_after else 0.0,
        change_state=set_first_factor(arrays),
    )
    assert np.isfinite(trajectory).all()
    assert golden.trajectory_error(trajectory, arrays["params"]) <= LIMITS[dtype]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", ["dion_tall_r4", "dion_wide_r4"])
def test_dion_by_cholesky_qr_follows_the_same_trajectory(name):
    config, arrays = golden.load(name)
    tx = lro.dion(
        config["lr"],
        config["rank"],
        momentum=config["mu"],
        weight_decay=config["weight_decay"],
        orthogonalize="cholesky_qr",
        **COMMON,
    )
    change = set_first_factor(arrays)
    trajectory, _ = golden.replay(tx, arrays, jnp.dtype("float64"), change_state=change)
    assert golden.trajectory_error(trajectory, arrays["params"]) <= LIMITS["float64"]
