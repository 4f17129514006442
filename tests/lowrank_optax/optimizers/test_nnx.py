"""flax.nnx.Optimizer takes every named method like an optimizer of optax's own."""

import jax
import jax.numpy as jnp
from flax import nnx
from methods import draw, each_method, make


class Network(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.embed = nnx.Embed(5, 6, rngs=rngs)
        self.hidden = nnx.Linear(6, 12, rngs=rngs)
        self.out = nnx.Linear(12, 4, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        return self.out(nnx.relu(self.hidden(self.embed(tokens))))


@each_method
def test_two_steps_of_an_nnx_optimizer_lower_the_loss(name):
    network = Network(nnx.Rngs(0))
    optimizer = nnx.Optimizer(network, make(name), wrt=nnx.Param)
    tokens, target = jnp.arange(5), draw(0, (5, 4))
    loss = lambda network: jnp.mean((network(tokens) - target) ** 2)

    @nnx.jit
    def step(network, optimizer):
        value, gradients = nnx.value_and_grad(loss)(network)
        optimizer.update(network, gradients)
        return value

    before = jax.tree.map(jnp.copy, nnx.state(network, nnx.Param))
    values = [step(network, optimizer) for _ in range(2)] + [loss(network)]
    assert values[0] > values[1] > values[2]
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), before, nnx.state(network, nnx.Param))
    assert all(jax.tree.leaves(moved))
