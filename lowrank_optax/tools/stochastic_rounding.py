"""Parameters in bfloat16 that do not lose small updates: added in float32, rounded at random.

Of 8 significant bits, an update below half of the last is lost every time when the sum is rounded
to nearest; rounded up with the probability of its share of the way, it is kept on average.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, BFloat16, PRNGKeyArray, Shaped

from lowrank_optax.core.trees import is_none


def stochastic_round(x: Shaped[Array, "*shape"], key: PRNGKeyArray) -> BFloat16[Array, "*shape"]:
    """Returns x as bfloat16, each entry one of its two neighbours, with expectation x.

    Entries that bfloat16 holds exactly, infinities and NaN stay what they are. Of an entry's
    neighbours low and high, high is taken with probability (x - low) / (high - low), exactly. The
    bits drawn depend on the key and the shape, not on how the array is sharded.

    Args:
        x: float32, of any shape.
        key: random key; each entry has bits of its own.

    Raises:
        TypeError: x is not float32.

    Reference: Zamirai et al., "Revisiting BFloat16 Training" (arXiv 2010.06192).

    >>> import jax, jax.numpy as jnp
    >>> x = jnp.full(1000, 1 + 1 / 512)  # a quarter of the way from 1 to 1 + 1 / 128
    >>> rounded = stochastic_round(x, jax.random.key(0))
    >>> sorted(set(rounded.tolist()))
    [1.0, 1.0078125]
    >>> bool(abs(rounded.astype(jnp.float32).mean() - x[0]) < 1e-3)
    True
    """
    if x.dtype != jnp.float32:
        raise TypeError(f"only float32 is rounded to bfloat16 stochastically, not {x.dtype.name}")
    # bfloat16 is the upper half of float32. A carry out of the lower half, which happens in as many
    # cases of 2^16 as that half says, is the next number away from zero.
    noise = jax.random.bits(key, x.shape, jnp.uint16).astype(jnp.uint32)
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32) + noise
    rounded = jax.lax.bitcast_convert_type((bits >> 16).astype(jnp.uint16), jnp.bfloat16)
    return jnp.where(jnp.isfinite(x), rounded, x.astype(jnp.bfloat16))


def apply_updates_stochastic(
    params: optax.Params, updates: optax.Updates, key: PRNGKeyArray
) -> optax.Params:
    """Adds updates like :func:`optax.apply_updates`, rounding bfloat16 parameters stochastically.

    Types stay: the sum is formed in float32 and rounded by :func:`stochastic_round`; parameters of
    other types are added as optax does. Where the update is zero the parameter stays what it is.
    Use a new key at every step, e.g. `jax.random.fold_in(key, step)`, and a run is reproducible
    without anything in its state.

    Args:
        params: pytree of arrays; `None` leaves stay.
        updates: pytree of params' structure; a leaf that is `None` changes nothing.
        key: random key; every leaf draws from a key of its own.

    >>> import jax, jax.numpy as jnp, optax
    >>> params, step = jnp.ones(4096, jnp.bfloat16), jnp.full(4096, 1e-3, jnp.bfloat16)
    >>> float(optax.apply_updates(params, step).mean())  # less than half of 1 / 128 is lost
    1.0
    >>> new = apply_updates_stochastic(params, step, jax.random.key(0))
    >>> bool(abs(new.astype(jnp.float32).mean() - 1.001) < 1e-4)
    True
    """
    leaves, structure = jax.tree.flatten(params, is_leaf=is_none)
    steps = jax.tree.leaves(updates, is_leaf=is_none)
    new = [
        _add(param, update, jax.random.fold_in(key, index))
        for index, (param, update) in enumerate(zip(leaves, steps, strict=True))
    ]
    return jax.tree.unflatten(structure, new)


def _add(param: Any, update: Any, key: PRNGKeyArray) -> Any:
    if param is None or update is None:
        return param
    param = jnp.asarray(param)
    if param.dtype != jnp.bfloat16:
        return optax.apply_updates(param, update)
    total = param.astype(jnp.float32) + jnp.asarray(update).astype(jnp.float32)
    return stochastic_round(total, key)
