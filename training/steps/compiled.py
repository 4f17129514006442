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
from training.config.pretraining import PretrainConfig, TrainingConfig
from training.errors import as_user_error
from training.steps.arguments import StepArguments, step_arguments
from training.steps.diagnostics import Bases, Look, look, overlaps
from training.steps.mesh import batch_sharding, process_rows
from training.steps.objective import NEXT_TOKEN, Objective
from training.steps.optimizers import build_optimizer
from training.steps.spikes import spike_metrics, without_spikes


class TrainState(NamedTuple):
    """Everything that a step changes. All randomness of a run is drawn from keys made of its seed:
    the weights' at initialisation, an optimizer's from the key in its state, that of stochastic
    rounding from the step."""

    step: jax.Array  # int32 scalar, steps done
    params: Any  # pure dict of arrays
    optimizer_state: optax.OptState


class Proposal(NamedTuple):
    """What a step would do."""

    learning_rates: jax.Array  # float32 (2,)
    loss: jax.Array
    gradient: Any
    updates: Any  # what the optimizer adds to the parameters
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
class CompiledSteps:
    """The functions of a run, compiled for one mesh. See `compile_steps`.

    Attributes:
        process_rows: (index, count): this process supplies the index-th of count equal parts of
            every batch.
        optimizer: at the peak learning rates.
        init_from: the same as `init`, with these parameters; it takes them over.
        look: at the step that `train` would make, without making it.
        overlaps: of the subspaces of two looks.
        abstract_state: shapes, types and shardings of the state, to restore a checkpoint into.
    """

    mesh: Mesh
    process_rows: tuple[int, int]
    init: Callable[[PretrainConfig], TrainState]
    init_from: Callable[[PretrainConfig, Any], TrainState]
    train: Callable[[TrainState, Any, StepArguments], tuple[TrainState, dict[str, jax.Array]]]
    evaluate: Callable[[Any, Any], jax.Array]
    all_finite: Callable[[TrainState], jax.Array]
    look: Callable[[TrainState, Any, StepArguments], Look]
    overlaps: Callable[[Bases, Bases], dict[str, jax.Array]]
    optimizer: optax.GradientTransformation
    abstract_state: TrainState
    compile_seconds: float

    def shard_batch(self, batch: Any) -> Any:
        """Puts this process's rows of a batch, a pytree of arrays (rows, ...), on its devices.

        Returns:
            The batch of all processes, split over the data and fsdp axes.
        """

        def shard(rows: np.ndarray) -> jax.Array:
            shape = (len(rows) * self.process_rows[1], *rows.shape[1:])
            return jax.make_array_from_process_local_data(batch_sharding(self.mesh), rows, shape)

        return jax.tree.map(shard, batch)

    def shard_whole_batch(self, batch: Any) -> Any:
        """The same from a batch that every process has all of."""
        index, count = self.process_rows
        return self.shard_batch(jax.tree.map(lambda x: np.split(x, count)[index], batch))

    def replicate(self, values: Any) -> Any:
        """Puts the same values, a pytree of arrays, on all devices."""
        replicated = NamedSharding(self.mesh, PartitionSpec())
        return jax.tree.map(
            lambda x: jax.make_array_from_process_local_data(replicated, x, x.shape), values
        )


def compile_steps(
    config: PretrainConfig,
    model_config: LlamaConfig,
    mesh: Mesh,
    objective: Objective = NEXT_TOKEN,
) -> CompiledSteps:
    """Compiles the training step and prepares the other functions.

    Args:
        config: resolved; its learning rates and seed are not compiled in.
        model_config: the model's.
        mesh: with any of the axes data, fsdp and tensor.
        objective: what is minimised, and of which batches.

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
        optimizer = build_optimizer(
            config.optimizer,
            config,
            learning_rate=learning_rate,
            fallback_learning_rate=fallback,
            seed=seed,
        )
        return without_spikes(optimizer, config.spikes)

    def loss_fn(params: Any, batch: Any) -> jax.Array:
        # A micro-batch of a split batch is not necessarily split any more.
        batch = jax.lax.with_sharding_constraint(batch, batch_sharding(mesh))
        return objective.loss(graphdef, params, batch)

    def init_model(key_data: jax.Array) -> tuple[jax.Array, Any]:
        rngs = nnx.Rngs(jax.random.wrap_key_data(key_data))
        params = nnx.to_pure_dict(nnx.state(Llama(model_config, rngs=rngs), nnx.Param))
        return jnp.int32(0), params

    def propose(state: TrainState, batch: Any, arguments: StepArguments) -> Proposal:
        learning_rates = arguments.peaks * schedule(state.step)
        # The seed is in the optimizer's state since init; the update does not depend on it.
        optimizer = optimizer_for(learning_rates[0], learning_rates[1], seed=0)
        batch = objective.balance(batch, config.accumulate_steps)
        loss, gradient = mean_gradient(loss_fn, state.params, batch, config.accumulate_steps)
        extra = {"loss": loss} if config.spikes.skip_updates else {}
        updates, optimizer_state = optimizer.update(
            gradient, state.optimizer_state, state.params, **extra
        )
        return Proposal(learning_rates, loss, gradient, updates, optimizer_state)

    def look_at(state: TrainState, batch: Any, arguments: StepArguments) -> Look:
        step = propose(state, batch, arguments)
        return look(config, state.params, step.gradient, step.updates, step.optimizer_state)

    def train(
        state: TrainState, batch: Any, arguments: StepArguments
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        learning_rates, loss, gradient, updates, optimizer_state = propose(state, batch, arguments)
        if config.rounding == "stochastic":
            key = jax.random.fold_in(jax.random.wrap_key_data(arguments.rounding_key), state.step)
            params = lro.apply_updates_stochastic(state.params, updates, key)
        else:
            params = optax.apply_updates(state.params, updates)
        metrics = {
            "loss": loss,
            "grad_norm": optax.tree.norm(gradient),
            "learning_rate": learning_rates[0],
            **spike_metrics(optimizer_state),
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
        step, params = init_model(_key_data(run.seed))
        return TrainState(step, params, init_optimizer_state(run, params))

    def init_from(run: PretrainConfig, params: Any) -> TrainState:
        step = jax.jit(lambda: jnp.int32(0), out_shardings=shardings.step)()
        return TrainState(step, params, init_optimizer_state(run, params))

    def init_optimizer_state(run: PretrainConfig, params: Any) -> optax.OptState:
        optimizer = optimizer_for(run.learning_rate, run.fallback_learning_rate, run.seed)
        return jax.jit(optimizer.init, out_shardings=shardings.optimizer_state)(params)

    batch = jax.tree.map(
        lambda x: _with_sharding(x, batch_sharding(mesh)), objective.batch_shapes(config)
    )
    start = time.perf_counter()
    with jax.set_mesh(mesh):
        compiled = (
            jax.jit(train, donate_argnums=0, out_shardings=(shardings, replicated))
            .lower(
                abstract_state,
                batch,
                jax.tree.map(
                    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated),
                    step_arguments(config),
                ),
            )
            .compile()
        )
    return CompiledSteps(
        mesh=mesh,
        process_rows=process_rows(mesh, config.batch_size),
        init=_in_mesh(mesh, init),
        init_from=_in_mesh(mesh, init_from),
        train=compiled,
        evaluate=_in_mesh(mesh, jax.jit(loss_fn, out_shardings=replicated)),
        all_finite=_in_mesh(mesh, jax.jit(_all_finite, out_shardings=replicated)),
        look=_in_mesh(mesh, jax.jit(look_at, out_shardings=Look(replicated, None))),
        overlaps=_in_mesh(mesh, jax.jit(overlaps, out_shardings=replicated)),
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
