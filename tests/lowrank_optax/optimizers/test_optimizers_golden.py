"""Every named optimizer follows the published trajectories, tall, wide and square."""

import golden
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lowrank_optax as lro
from lowrank_optax.core.low_rank import scale_by_low_rank
from lowrank_optax.optimizers._shape_scale import step_scale

LIMITS = {"float64": 1e-5, "float32": 1e-4}
SHAPE_SCALES = {"none": "none", "dion": "dion", "kj": "muon", "kimi": "rms"}


def trion(config):
    settings = dict(
        momentum=config["momentum"],
        select=f"l{config['ranking_norm']}",
        shape_scale=SHAPE_SCALES[config["scaling"]],
        weight_decay=config.get("weight_decay", 0.0),
        dimension_numbers=golden.TORCH_LAYOUT,
    )
    if config["basis"] == "dct2":
        return lro.trion(config["lr"], config["rank"], **settings)
    return optax.chain(
        scale_by_low_rank(
            lro.transforms.orthonormalize(),
            lro.projections.dct(config["rank"], settings["select"], kind="III"),
            residual=lro.residuals.momentum(config["momentum"]),
            scale=step_scale(settings["shape_scale"]),
            dimension_numbers=golden.TORCH_LAYOUT,
        ),
        optax.add_decayed_weights(settings["weight_decay"]),
        optax.scale_by_learning_rate(config["lr"]),
    )


def dct_adamw(config):
    b1, b2 = config["betas"]
    error_feedback = "float32" if config["error_feedback"] else None
    if config["basis"] == "dct2":
        return lro.dct_adamw(
            config["lr"],
            config["rank"],
            b1=b1,
            b2=b2,
            eps=config["eps"],
            update_interval=config["gap"],
            rotate=config["rotate"],
            error_feedback=error_feedback,
            weight_decay=config.get("weight_decay", 0.0),
            dimension_numbers=golden.TORCH_LAYOUT,
        )
    gap = config["gap"]
    return optax.chain(
        scale_by_low_rank(
            optax.scale_by_adam(b1, b2, config["eps"]),
            lro.projections.dct(config["rank"], kind="III"),
            update_interval=lambda count: (count == 0) | ((count + 1) % gap == 0),
            transport="rotate" if config["rotate"] else "keep",
            residual=lro.residuals.error_feedback("float32") if error_feedback else None,
            dimension_numbers=golden.TORCH_LAYOUT,
        ),
        optax.add_decayed_weights(config.get("weight_decay", 0.0)),
        optax.scale_by_learning_rate(config["lr"]),
    )


def check_trajectory(make, name, dtype):
    config, arrays = golden.load(name)
    trajectory, states = golden.replay(make(config), arrays, jnp.dtype(dtype))
    assert golden.trajectory_error(trajectory, arrays["params"]) <= LIMITS[dtype]
    return config, arrays, [lro.matrix_states(state)[0] for state in states]


def transposed_back(config, matrices):
    """State arrays with the compressed axis first, as the golden files store them."""
    left = config["shape"][0] < config["shape"][1]
    return [np.asarray(matrix) if left else np.asarray(matrix).T for matrix in matrices]


def decayed(config, state):
    """Trion's momentum as published; what is stored decays when it is next used."""
    projection = lro.projections.dct(config["rank"])
    columns = projection.subspace(state.basis, state.residual.shape)
    return columns.restore(state.residual, config["momentum"], 1.0)


def in_weight_space(config, coefficients):
    inverse = lro.orthogonal_idct if config["basis"] == "dct2" else lro.orthogonal_dct
    return transposed_back(config, [inverse(c, axis=-2) for c in coefficients])


@pytest.mark.parametrize(("name", "dtype"), golden.cases("trion"))
def test_trion_follows_the_golden_trajectory(name, dtype, request):
    if dtype == "float64":
        request.getfixturevalue("float64")
    config, arrays, states = check_trajectory(trion, name, dtype)
    np.testing.assert_array_equal([state.basis for state in states], arrays["indices"])
    momentum = in_weight_space(config, [decayed(config, state) for state in states])
    assert golden.state_error(momentum, arrays["M"]) <= LIMITS[dtype]


@pytest.mark.parametrize(("name", "dtype"), golden.cases("dct_adamw"))
def test_dct_adamw_follows_the_golden_trajectory(name, dtype, request):
    if dtype == "float64":
        request.getfixturevalue("float64")
    config, arrays, states = check_trajectory(dct_adamw, name, dtype)
    np.testing.assert_array_equal([state.basis for state in states], np.sort(arrays["indices"]))
    slots = np.argsort(arrays["indices"], axis=-1)
    for field in ("m", "v"):
        moments = [{"m": state.inner.mu, "v": state.inner.nu}[field] for state in states]
        stored = arrays[field].mT if config["shape"][0] >= config["shape"][1] else arrays[field]
        stored = np.take_along_axis(stored, slots[:, :, None], axis=-2)
        assert golden.state_error(moments, stored) <= LIMITS[dtype]
    if config["error_feedback"]:
        error = in_weight_space(config, [state.residual for state in states])
        assert golden.state_error(error, arrays["EF"]) <= LIMITS[dtype]
