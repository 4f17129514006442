"""What a training step does, before it is compiled."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

import lowrank_optax as lro
from training.config.resolved import StepOptions, Variant
from training.steps.diagnostics import Look, look
from training.steps.ema import follow, weight_ema
from training.steps.mesh import batch_sharding
from training.steps.objective import Objective
from training.steps.optimizers import build_optimizer
from training.steps.schedule import learning_rate_schedule
from training.steps.spikes import spike_metrics, without_spikes

_ROUNDING = 0x524F554E  # folded into a run's key: that of the weights is made of the seed alone


class TrainState(NamedTuple):
    """Everything that a step changes. All randomness of a run is drawn from keys made of its seed:
    the weights' at initialisation, an optimizer's from the key in its state, that of stochastic
    rounding from the step."""

    step: jax.Array  # int32 scalar, steps done
    params: Any  # pure dict of arrays
    optimizer_state: optax.OptState
    ema: Any  # optax.EmaState of the parameters under --ema-decay, else without arrays


class StepArguments(NamedTuple):
    """Arguments of a step besides the state and a batch; runs that share it may differ in them."""

    peaks: Any  # float32 (2,), of the matrices' learning rate and of the fallback's
    rounding_key: Any  # uint32 (2,), with the step the key of --rounding stochastic; else unused


def step_arguments(variant: Variant) -> StepArguments:
    """The arguments of a run's steps, as arrays of the host."""
    peaks = np.array([variant.learning_rate, variant.fallback_learning_rate], np.float32)
    key = jax.random.fold_in(jax.random.key(variant.seed), _ROUNDING)
    return StepArguments(peaks, np.asarray(jax.random.key_data(key)))


class Proposal(NamedTuple):
    """What a step would do."""

    learning_rates: jax.Array  # float32 (2,)
    loss: jax.Array
    gradient: Any
    updates: Any  # what the optimizer adds to the parameters
    optimizer_state: optax.OptState


def mean_gradient(
    loss_fn: Callable[[Any, Any], jax.Array], params: Any, batch: Any, parts: int
) -> tuple[jax.Array, Any]:
    """Loss and gradient averaged over `parts` micro-batches, one in memory at a time.

    The batch, an array or a pytree of arrays whose first axes are its rows, is split with a stride,
    so that every micro-batch is spread over all devices.

    Gradients are summed in at least float32: a bfloat16 sum stands still once a term is below 1/256
    of it. The mean is rounded once to the parameters' types, which optax's states expect.
    """
    value_and_grad = jax.value_and_grad(loss_fn)
    if parts == 1:
        return value_and_grad(params, batch)
    microbatches = jax.tree.map(
        lambda x: x.reshape(len(x) // parts, parts, *x.shape[1:]).swapaxes(0, 1), batch
    )

    def widen(x: jax.Array) -> jax.Array:
        return x.astype(jnp.promote_types(x.dtype, jnp.float32))

    def add(total: Any, microbatch: Any) -> tuple[Any, None]:
        term = jax.tree.map(widen, value_and_grad(params, microbatch))
        return jax.tree.map(jnp.add, total, term), None

    zeros = jax.tree.map(lambda x: jnp.zeros_like(widen(x)), (jnp.float32(0), params))
    (loss, gradient), _ = jax.lax.scan(add, zeros, microbatches)
    return loss / parts, jax.tree.map(lambda x, p: (x / parts).astype(p.dtype), gradient, params)


@dataclasses.dataclass(frozen=True)
class Update:
    """The functions of a step: of arrays alone, to be compiled."""

    options: StepOptions
    graphdef: nnx.GraphDef  # of the model
    objective: Objective
    mesh: Mesh

    def optimizer(
        self, learning_rate: Any, fallback_learning_rate: Any, seed: int
    ) -> optax.GradientTransformation:
        """The configured optimizer at these rates."""
        optimizer = build_optimizer(
            self.options.method,
            learning_rate=learning_rate,
            fallback_learning_rate=fallback_learning_rate,
            seed=seed,
        )
        return without_spikes(optimizer, self.options.spikes)

    @property
    def ema(self) -> optax.GradientTransformation:
        """What keeps the average of the weights."""
        return weight_ema(self.options.ema_decay)

    def loss(self, params: Any, batch: Any) -> jax.Array:
        """Of a batch or a micro-batch."""
        # A micro-batch of a split batch is not necessarily split any more.
        batch = jax.lax.with_sharding_constraint(batch, batch_sharding(self.mesh))
        return self.objective.loss(self.graphdef, params, batch)

    def propose(self, state: TrainState, batch: Any, arguments: StepArguments) -> Proposal:
        """What the step does, not done yet."""
        learning_rates = arguments.peaks * learning_rate_schedule(self.options.schedule)(state.step)
        # The seed is in the optimizer's state since init; the update does not depend on it.
        optimizer = self.optimizer(learning_rates[0], learning_rates[1], seed=0)
        parts = self.options.accumulate_steps
        batch = self.objective.balance(batch, parts)
        loss, gradient = mean_gradient(self.loss, state.params, batch, parts)
        extra = {"loss": loss} if self.options.spikes.skip_updates else {}
        updates, optimizer_state = optimizer.update(
            gradient, state.optimizer_state, state.params, **extra
        )
        return Proposal(learning_rates, loss, gradient, updates, optimizer_state)

    def train(
        self, state: TrainState, batch: Any, arguments: StepArguments
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """The step, and its metrics."""
        step = self.propose(state, batch, arguments)
        if self.options.rounding == "stochastic":
            key = jax.random.fold_in(jax.random.wrap_key_data(arguments.rounding_key), state.step)
            params = lro.apply_updates_stochastic(state.params, step.updates, key)
        else:
            params = optax.apply_updates(state.params, step.updates)
        metrics = {
            "loss": step.loss,
            "grad_norm": optax.tree.norm(step.gradient),
            "learning_rate": step.learning_rates[0],
            **spike_metrics(step.optimizer_state),
        }
        ema = follow(self.ema, state.ema, params)
        return TrainState(state.step + 1, params, step.optimizer_state, ema), metrics

    def look(self, state: TrainState, batch: Any, arguments: StepArguments) -> Look:
        """What the diagnostics say of the step."""
        step = self.propose(state, batch, arguments)
        return look(
            self.options.method, state.params, step.gradient, step.updates, step.optimizer_state
        )
