"""What the pages' code blocks take for granted; the tests run it before those of each page.

A model of two matrices between an embedding and a head, its parameters, gradients and batches, and
a mesh over which they could be spread.
"""

import functools  # noqa: F401 - the blocks use it
import tempfile

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import lowrank_optax as lro  # noqa: F401

VOCABULARY, WIDTH = 16, 8


def loss_fn(params, tokens):
    """Mean cross-entropy of the next token (batch, time)."""
    x = params["embed"]["embedding"][tokens[:, :-1]]
    x = x + jnp.tanh(x @ params["mlp"]["up"]["kernel"]) @ params["mlp"]["down"]["kernel"]
    logits = x @ params["lm_head"]["kernel"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()


def init_params(key):
    """Parameters of `loss_fn`."""
    draw = lambda i, *shape: 0.3 * jax.random.normal(jax.random.fold_in(key, i), shape)
    return {
        "embed": {"embedding": draw(0, VOCABULARY, WIDTH)},
        "mlp": {"up": {"kernel": draw(1, WIDTH, 16)}, "down": {"kernel": draw(2, 16, WIDTH)}},
        "lm_head": {"kernel": draw(3, WIDTH, VOCABULARY)},
    }


params = jax.jit(init_params)(jax.random.key(0))
batches = [jnp.arange(start, start + 36).reshape(4, 9) % VOCABULARY for start in range(4)]
grads = jax.jit(jax.grad(loss_fn))(params, batches[0])
schedule = optax.warmup_cosine_decay_schedule(0.0, 0.02, 2, 10)
folder = tempfile.mkdtemp()  # an empty one

# All devices in one axis, which splits the larger side of every matrix.
mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
param_shardings = jax.tree.map(
    lambda leaf: NamedSharding(mesh, P("data", None) if leaf.shape[0] > 8 else P(None, "data")),
    params,
)
