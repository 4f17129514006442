"""The compiled functions of a run: initialise, train one step, evaluate.

They depend on the model, the shapes and the optimizer's kind, but neither on the seed nor on the
peak learning rates, which are arguments: one compilation serves all runs of a comparison.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from models.llama import Llama, LlamaConfig
from training.config import PretrainConfig, TrainingConfig
from training.errors import as_user_error
from training.optimizers import build_optimizer


class TrainState(NamedTuple):
    """Everything that a step changes. All randomness of a run is drawn from keys made of its seed:
    the weights' at initialisation, an optimizer's from the key in its state."""

    step: jax.Array  # int32 scalar, steps done
    params: Any  # pure dict of arrays
    optimizer_state: optax.OptState


def make_mesh(devices: int) -> Mesh:
    """A mesh with one axis, `data`, over the first `devices` devices."""
    return jax.make_mesh(
        (devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices]
    )


def learning_rate_schedule(config: TrainingConfig) -> optax.Schedule:
    """Learning rate over its peak, as a function of the steps done: linear warm-up from
    1 / warmup_steps, then the configured schedule down to `final_learning_rate_ratio`."""
    warmup = config.warmup_steps or 0
    decay_steps = max(1, config.steps - warmup)
    decay = {
        "cosine": optax.cosine_decay_schedule(1.0, decay_steps, config.final_learning_rate_ratio),
        "linear": optax.linear_schedule(1.0, config.final_learning_rate_ratio, decay_steps),
        "constant": optax.constant_schedule(1.0),
    }[config.schedule]
    if not warmup:
        return decay
    rise = optax.linear_schedule(1 / warmup, 1.0, max(1, warmup - 1))
    return optax.join_schedules([rise, decay], [warmup])


def next_token_loss(graphdef: nnx.GraphDef, params: Any, tokens: jax.Array) -> jax.Array:
    """Mean cross entropy in nats of tokens[:, 1:] given what precedes each.

    Args:
        graphdef: the model's static part.
        params: its parameters, a pure dict.
        tokens: int32 (batch, time + 1).
    """
    logits = nnx.merge(graphdef, params)(tokens[:, :-1])
    return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()


def mean_gradient(
    loss_fn: Callable[[Any, jax.Array], jax.Array], params: Any, tokens: jax.Array, parts: int
) -> tuple[jax.Array, Any]:
    """Loss and gradient averaged over `parts` micro-batches, one in memory at a time.

    The batch is split with a stride, so that every micro-batch is spread over all devices.
    """
    value_and_grad = jax.value_and_grad(loss_fn)
    if parts == 1:
        return value_and_grad(params, tokens)
    batch, time_steps = tokens.shape
    microbatches = tokens.reshape(batch // parts, parts, time_steps).swapaxes(0, 1)

    def add(total: Any, microbatch: jax.Array) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, value_and_grad(params, microbatch)), None

    zeros = jax.tree.map(jnp.zeros_like, (jnp.float32(0), params))
    total, _ = jax.lax.scan(add, zeros, microbatches)
    return jax.tree.map(lambda x: x / parts, total)


@dataclasses.dataclass(frozen=True)
class CompiledSteps:
    """The functions of a run, compiled for one mesh. See `compile_steps`."""

    mesh: Mesh
    init: Callable[[PretrainConfig], TrainState]
    train: Callable[[TrainState, jax.Array, jax.Array], tuple[TrainState, dict[str, jax.Array]]]
    evaluate: Callable[[Any, jax.Array], jax.Array]
    all_finite: Callable[[TrainState], jax.Array]
    abstract_state: TrainState
    compile_seconds: float

    def shard_batch(self, tokens: np.ndarray) -> jax.Array:
        """Puts int32 (batch, time) host tokens on the devices, split over the data axis."""
        sharding = NamedSharding(self.mesh, PartitionSpec("data"))
        return jax.make_array_from_process_local_data(sharding, tokens)


def peak_learning_rates(config: PretrainConfig) -> jax.Array:
    """float32 (2,): the peak of the matrices' learning rate and of the fallback's."""
    fallback = config.fallback_learning_rate or config.learning_rate
    return jnp.array([config.learning_rate, fallback], jnp.float32)


def compile_steps(config: PretrainConfig, model_config: LlamaConfig, mesh: Mesh) -> CompiledSteps:
    """Compiles the training step and prepares the other functions.

    Args:
        config: resolved; its learning rates and seed are not compiled in.
        model_config: the model's.
        mesh: with the axis `data`.

    Raises:
        UserError: if the model or the optimizer rejects its configuration.
    """
    replicated = NamedSharding(mesh, PartitionSpec())
    batch_sharding = NamedSharding(mesh, PartitionSpec("data"))
    schedule = learning_rate_schedule(config)
    with as_user_error():
        graphdef, _ = nnx.split(
            nnx.eval_shape(lambda: Llama(model_config, rngs=nnx.Rngs(0))), nnx.Param
        )

    def optimizer_for(learning_rate: Any, fallback: Any, seed: int) -> Any:
        return build_optimizer(
            config.optimizer,
            config,
            learning_rate=learning_rate,
            fallback_learning_rate=fallback,
            seed=seed,
        )

    def loss_fn(params: Any, tokens: jax.Array) -> jax.Array:
        return next_token_loss(graphdef, params, tokens)

    @jax.jit
    def init_params(key: jax.Array) -> Any:
        return nnx.to_pure_dict(nnx.state(Llama(model_config, rngs=nnx.Rngs(key)), nnx.Param))

    def init(run: PretrainConfig) -> TrainState:
        optimizer = optimizer_for(run.learning_rate, run.fallback_learning_rate, run.seed)
        params = init_params(jax.random.key(run.seed))
        state = TrainState(jnp.int32(0), params, jax.jit(optimizer.init)(params))
        return jax.device_put(state, replicated)

    def train(
        state: TrainState, tokens: jax.Array, peaks: jax.Array
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        learning_rates = peaks * schedule(state.step)
        # The seed is in the optimizer's state since init; the update does not depend on it.
        optimizer = optimizer_for(learning_rates[0], learning_rates[1], seed=0)
        loss, gradient = mean_gradient(loss_fn, state.params, tokens, config.accumulate_steps)
        updates, optimizer_state = optimizer.update(gradient, state.optimizer_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {
            "loss": loss,
            "grad_norm": optax.tree.norm(gradient),
            "learning_rate": learning_rates[0],
        }
        return TrainState(state.step + 1, params, optimizer_state), metrics

    with as_user_error():
        abstract = jax.eval_shape(lambda: init(config))
    abstract_state = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated), abstract
    )
    tokens = jax.ShapeDtypeStruct(
        (config.batch_size, config.seq_len + 1), jnp.int32, sharding=batch_sharding
    )
    start = time.perf_counter()
    compiled = (
        jax.jit(train, donate_argnums=0, out_shardings=replicated)
        .lower(abstract_state, tokens, jax.ShapeDtypeStruct((2,), jnp.float32, sharding=replicated))
        .compile()
    )
    return CompiledSteps(
        mesh=mesh,
        init=init,
        train=compiled,
        evaluate=jax.jit(loss_fn),
        all_finite=jax.jit(_all_finite),
        abstract_state=abstract_state,
        compile_seconds=time.perf_counter() - start,
    )


def _all_finite(tree: Any) -> jax.Array:
    floats = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]
    return jnp.all(jnp.stack([jnp.isfinite(x).all() for x in floats]))
