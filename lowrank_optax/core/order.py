"""One matrix after the other, so that all of them share the temporaries of one."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def once(done: Any, x: Float[Array, "*shape"], mesh: Any = None) -> Float[Array, "*shape"]:
    """x, in a program that cannot begin with it before the arrays in `done` are there.

    XLA's CPU backend runs what does not depend on each other side by side, with temporaries for
    all of it, and drops `jax.lax.optimization_barrier` before it decides. So x is made to depend on
    `done`, by a zero that the compiler does not know to be one. On a mesh there is no one place to
    see that `done` is there, and x stays as it is.
    """
    leaves = jax.tree.leaves(done)
    if not leaves or mesh is not None:
        return x
    entry = leaves[0].reshape(-1)[0].astype(jnp.float32)
    bits = jax.lax.bitcast_convert_type(entry, jnp.uint32)
    zero = (bits >> 31) >> 1
    return x + zero.astype(x.dtype)
