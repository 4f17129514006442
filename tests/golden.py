"""Replay of a golden trajectory: fixed start and gradients in, parameters after every step out."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax.contrib import MuonDimensionNumbers

FOLDER = pathlib.Path(__file__).parent / "data" / "golden"
TORCH_LAYOUT = MuonDimensionNumbers(reduction_axis=1, output_axis=0)  # W is (out, in)


def names(prefix):
    return sorted(path.stem for path in FOLDER.glob(f"{prefix}*.npz"))


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
