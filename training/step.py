"""The compiled functions of a run: initialise, train one step, evaluate.

They depend on the model, the shapes, the mesh and the optimizer's kind, but neither on the seed nor
on the peak learning rates, which are arguments: one compilation serves all runs of a comparison.

Shapes first, shardings second, arrays last: no array ever exists with another sharding than the one
that the training step keeps it in.
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
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import lowrank_optax as lro
from models.llama import Llama, LlamaConfig
from models.partitioning import gather_where_read, partition_specs
from training.config import PretrainConfig, TrainingConfig
from training.errors import as_user_error
from training.mesh import batch_sharding, process_rows
from training.optimizers import build_optimizer


class TrainState(NamedTuple):
    """Everything that a step changes. All randomness of a run is drawn from keys made of its seed:
    the weights' at initialisation, an optimizer's from the key in its state."""

    step: jax.Array  # int32 scalar, steps done
    params: Any  # pure dict of arrays
    optimizer_state: optax.OptState


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
    """The functions of a run, compiled for one mesh. See `compile_steps`.

    Attributes:
        process_rows: (index, count): this process supplies the index-th of count equal parts of
            every batch.
        optimizer: at the peak learning rates.
        abstract_state: shapes, types and shardings of the state, to restore a checkpoint into.
    """

    mesh: Mesh
    process_rows: tuple[int, int]
    init: Callable[[PretrainConfig], TrainState]
    train: Callable[[TrainState, jax.Array, jax.Array], tuple[TrainState, dict[str, jax.Array]]]
    evaluate: Callable[[Any, jax.Array], jax.Array]
    all_finite: Callable[[TrainState], jax.Array]
    optimizer: optax.GradientTransformation
    abstract_state: TrainState
    compile_seconds: float

    def shard_batch(self, tokens: np.ndarray) -> jax.Array:
        """Puts this process's rows of a batch, int32 (rows, time), on its devices.

        Returns:
            The batch of all processes, split over the data and fsdp axes.
        """
        shape = (len(tokens) * self.process_rows[1], *tokens.shape[1:])
        return jax.make_array_from_process_local_data(batch_sharding(self.mesh), tokens, shape)

    def shard_whole_batch(self, tokens: np.ndarray) -> jax.Array:
        """The same from int32 (batch, time) tokens that every process has all of."""
        index, count = self.process_rows
        return self.shard_batch(np.split(tokens, count)[index])

    def replicate(self, values: np.ndarray) -> jax.Array:
        """Puts the same values on all devices."""
        replicated = NamedSharding(self.mesh, PartitionSpec())
        return jax.make_array_from_process_local_data(replicated, values, values.shape)


def peak_learning_rates(config: PretrainConfig) -> np.ndarray:
    """float32 (2,): the peak of the matrices' learning rate and of the fallback's."""
    fallback = config.fallback_learning_rate or config.learning_rate
    return np.array([config.learning_rate, fallback], np.float32)


def compile_steps(config: PretrainConfig, model_config: LlamaConfig, mesh: Mesh) -> CompiledSteps:
    """Compiles the training step and prepares the other functions.

    Args:
        config: resolved; its learning rates and seed are not compiled in.
        model_config: the model's.
        mesh: with any of the axes data, fsdp and tensor.

    Raises:
        UserError: if the model or the optimizer rejects its configuration.
    """
    replicated = NamedSharding(mesh, PartitionSpec())
    schedule = learning_rate_schedule(config)
    with as_user_error():
        model = nnx.eval_shape(lambda: Llama(model_config, rngs=nnx.Rngs(0)))
        gather_where_read(model, mesh)
        graphdef, _ = nnx.split(model, nnx.Param)

    def optimizer_for(learning_rate: Any, fallback: Any, seed: int) -> Any:
        return build_optimizer(
            config.optimizer,
            config,
            learning_rate=learning_rate,
            fallback_learning_rate=fallback,
            seed=seed,
        )

    def loss_fn(params: Any, tokens: jax.Array) -> jax.Array:
        # A micro-batch of a split batch is not necessarily split any more.
        tokens = jax.lax.with_sharding_constraint(tokens, batch_sharding(mesh))
        return next_token_loss(graphdef, params, tokens)

    def init_model(key_data: jax.Array) -> tuple[jax.Array, Any]:
        rngs = nnx.Rngs(jax.random.wrap_key_data(key_data))
        params = nnx.to_pure_dict(nnx.state(Llama(model_config, rngs=rngs), nnx.Param))
        return jnp.int32(0), params

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

    with as_user_error(), jax.set_mesh(mesh):
        step, params = jax.eval_shape(init_model, _key_data(0))
        param_shardings = jax.tree.map(
            lambda spec: NamedSharding(mesh, spec), partition_specs(params, mesh)
        )
        params = jax.tree.map(_with_sharding, params, param_shardings)
        optimizer = optimizer_for(config.learning_rate, config.fallback_learning_rate, config.seed)
        optimizer_state = jax.tree.map(
            _with_sharding,
            jax.eval_shape(optimizer.init, params),
            lro.state_shardings(optimizer, params, param_shardings),
        )
        abstract_state = TrainState(_with_sharding(step, replicated), params, optimizer_state)
    shardings = jax.tree.map(lambda x: x.sharding, abstract_state)
    init_model = jax.jit(init_model, out_shardings=(shardings.step, shardings.params))

    def init(run: PretrainConfig) -> TrainState:
        optimizer = optimizer_for(run.learning_rate, run.fallback_learning_rate, run.seed)
        step, params = init_model(_key_data(run.seed))
        init_optimizer = jax.jit(optimizer.init, out_shardings=shardings.optimizer_state)
        return TrainState(step, params, init_optimizer(params))

    tokens = jax.ShapeDtypeStruct(
        (config.batch_size, config.seq_len + 1), jnp.int32, sharding=batch_sharding(mesh)
    )
    start = time.perf_counter()
    with jax.set_mesh(mesh):
        compiled = (
            jax.jit(train, donate_argnums=0, out_shardings=(shardings, replicated))
            .lower(
                abstract_state, tokens, jax.ShapeDtypeStruct((2,), jnp.float32, sharding=replicated)
            )
            .compile()
        )
    return CompiledSteps(
        mesh=mesh,
        process_rows=process_rows(mesh, config.batch_size),
        init=_in_mesh(mesh, init),
        train=compiled,
        evaluate=_in_mesh(mesh, jax.jit(loss_fn, out_shardings=replicated)),
        all_finite=_in_mesh(mesh, jax.jit(_all_finite, out_shardings=replicated)),
        optimizer=optimizer,
        abstract_state=abstract_state,
        compile_seconds=time.perf_counter() - start,
    )


def _with_sharding(array: jax.ShapeDtypeStruct, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)


def _key_data(seed: int) -> np.ndarray:
    """The key of a seed as an array of the host: the same for all devices of all processes."""
    return np.asarray(jax.random.key_data(jax.random.key(seed)))


def _in_mesh(mesh: Mesh, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, traced and called with this mesh as JAX's current one."""

    def call(*args: Any) -> Any:
        with jax.set_mesh(mesh):
            return function(*args)

    return call


def _all_finite(tree: Any) -> jax.Array:
    floats = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]
    return jnp.all(jnp.stack([jnp.isfinite(x).all() for x in floats]))
