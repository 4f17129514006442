"""Replay of a golden trajectory: fixed start and gradients in, parameters after every step out."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from covers import in_turn
from optax.contrib import MuonDimensionNumbers

FOLDER = pathlib.Path(__file__).parent / "data" / "golden"
TORCH_LAYOUT = MuonDimensionNumbers(reduction_axis=1, output_axis=0)  # W is (out, in)


def names(prefix):
    return sorted(path.stem for path in FOLDER.glob(f"{prefix}*.npz"))


def cases(prefix):
    """(name, dtype): every trajectory once; quick are few of them in which every word occurs."""
    quick = fewest_with_every_word(names(prefix))
    return [
        pytest.param(name, dtype, marks=() if name in quick else pytest.mark.slow)
        for name, dtype in in_turn(names(prefix), ("float64", "float32"))
    ]


def fewest_with_every_word(names):
    missing, chosen = {word for name in names for word in name.split("_")}, []
    while missing:
        chosen.append(max(names, key=lambda name: len(missing.intersection(name.split("_")))))
        missing -= {*chosen[-1].split("_")}
    return chosen


def load(name):
    with np.load(FOLDER / f"{name}.npz") as file:
        arrays = dict(file)
    return json.loads(str(arrays.pop("config"))), arrays


def replay(tx, arrays, dtype, *, decay_after=0.0, change_state=lambda state: state):
    """Parameters (T + 1, out, in) and the list of states after every step.

    `decay_after` multiplies the updated parameters by 1 − decay_after, as some published code
    does; `change_state` sets what a trajectory started from.
    """
    params = jnp.asarray(arrays["params"][0], dtype)
    state = change_state(tx.init(params))
    update = jax.jit(tx.update)
    trajectory, states = [params], []
    for grad in arrays["grads"]:
        updates, state = update(jnp.asarray(grad, dtype), state, params)
        params = optax.apply_updates(params, updates) * (1 - jnp.asarray(decay_after, dtype))
        assert params.dtype == dtype
        trajectory.append(params)
        states.append(state)
    return np.asarray(jnp.stack(trajectory)), states


def trajectory_error(trajectory, golden):
    """Largest deviation relative to the distance moved."""
    return np.max(np.abs(trajectory - golden)) / np.max(np.abs(golden - golden[0]))


def state_error(arrays, golden):
    return np.max(np.abs(np.stack(arrays) - golden)) / np.max(np.abs(golden))
