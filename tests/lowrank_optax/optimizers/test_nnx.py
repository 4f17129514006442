"""flax.nnx.Optimizer takes every named method like an optimizer of optax's own."""

import jax
import jax.numpy as jnp
import optax
import pytest
from drawing import draw
from flax import nnx
from methods import METHODS, make

import lowrank_optax as lro

EIGHT_BITS = optax.chain(lro.scale_by_adam8bit(min_size=0), optax.scale(-1e-3))

# After its first update nnx holds what a state has per parameter, if that is more than one array,
# as a `State` in place of the tuple that it was.
CASES = {name: (name, {}) for name in METHODS} | {
    "galore stagger": ("galore", dict(stagger=True)),
    "galore adaptive": ("galore", dict(update_interval=lro.adaptive(2))),
    "galore adam8bit": ("galore", dict(inner="adam8bit")),
    "dion int8": ("dion", dict(mu_dtype="int8")),
    "trion beside adam8bit": ("trion", dict(fallback=EIGHT_BITS)),
}


class Network(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.embed = nnx.Embed(5, 6, rngs=rngs)
        self.hidden = nnx.Linear(6, 12, rngs=rngs)
        self.out = nnx.Linear(12, 4, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        return self.out(nnx.relu(self.hidden(self.embed(tokens))))


@pytest.mark.product(every=30)
@pytest.mark.parametrize("case", CASES)
def test_two_steps_of_an_nnx_optimizer_lower_the_loss(case):
    name, settings = CASES[case]
    network = Network(nnx.Rngs(0))
    optimizer = nnx.Optimizer(network, make(name, **settings), wrt=nnx.Param)
    tokens, target = jnp.arange(5), draw((5, 4))
    loss = lambda network: jnp.mean((network(tokens) - target) ** 2)

    @nnx.jit
    def step(network, optimizer):
        value, gradients = nnx.value_and_grad(loss)(network)
        optimizer.update(network, gradients)
        return value

    parameters = lambda: jax.device_get(nnx.to_pure_dict(nnx.state(network, nnx.Param)))
    before = parameters()
    values = [float(step(network, optimizer)) for _ in range(3)]
    assert values[0] > values[1] > values[2]
    moved = jax.tree.map(lambda a, b: (a != b).any(), before, parameters())
    assert all(jax.tree.leaves(moved))
