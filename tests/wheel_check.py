"""Run by .ci/run where only the wheel is installed: the library works without the trainer."""

import importlib.util

import jax.numpy as jnp
import optax

import lowrank_optax as lro

for absent in ("models", "training", "flax", "orbax"):
    if importlib.util.find_spec(absent) is not None:
        raise SystemExit(f"{absent} is importable: the wheel or its dependencies hold too much")
params = {"w": jnp.ones((8, 16)), "b": jnp.ones(16)}
for make in (lro.trion, lro.dct_adamw):
    tx = make(0.1, rank=4)
    updates, _ = tx.update(params, tx.init(params), params)
    if not all(
        bool(jnp.isfinite(leaf).all()) for leaf in optax.apply_updates(params, updates).values()
    ):
        raise SystemExit(f"{make.__name__} gives non-finite updates")
print(f"lowrank_optax from the wheel: {len(lro.__all__)} public names, two optimizers step")
