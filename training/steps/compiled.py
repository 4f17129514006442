"""The compiled functions of a run: initialise, train one step, evaluate.

They depend on the model, the shapes, the mesh and the optimizer's kind, but neither on the seed nor
on the peak learning rates, which are arguments: one compilation serves all runs of a comparison.

Shapes first, shardings second, arrays last: no array ever exists with another sharding than the one
that the training step keeps it in.
"""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import lowrank_optax as lro
from models.llama import Llama, LlamaConfig
from models.partitioning import gather_where_read, partition_specs
from training.config.resolved import StepOptions, Variant
from training.errors import as_user_error
from training.files import cache_folder
from training.steps.diagnostics import Bases, Look, overlaps
from training.steps.ema import mean_weights
from training.steps.mesh import batch_sharding, process_rows
from training.steps.objective import Objective
from training.steps.update import StepArguments, TrainState, Update, step_arguments


@dataclasses.dataclass(frozen=True)
class CompiledSteps:
    """The functions of a run, compiled for one mesh. See `compile_steps`."""

    options: StepOptions  # that they are compiled from
    mesh: Mesh
    # (index, count): this process supplies the index-th of count equal parts of every batch
    process_rows: tuple[int, int]
    init: Callable[[Variant], TrainState]
    # the same as `init`, with these parameters; it takes them over
    init_from: Callable[[Variant, Any], TrainState]
    train: Callable[[TrainState, Any, StepArguments], tuple[TrainState, dict[str, jax.Array]]]
    evaluate: Callable[[Any, Any], jax.Array]
    # of the weights so far, as parameters; None where none is kept
    average: Callable[[TrainState], Any] | None
    all_finite: Callable[[TrainState], jax.Array]
    # at the step that `train` would make, without making it
    look: Callable[[TrainState, Any, StepArguments], Look]
    overlaps: Callable[[Bases, Bases], dict[str, jax.Array]]  # of the subspaces of two looks
    optimizer: optax.GradientTransformation  # at any learning rates
    # shapes, types and shardings of the state, to restore a checkpoint into
    abstract_state: TrainState
    flops_per_token: float  # that the model's own mathematics takes in a step
    compile_seconds: float

    def shard_batch(self, batch: Any) -> Any:
        """Puts this process's rows of a batch, a pytree of arrays (rows, ...), on its devices: the
        batch of all processes, split over the data and fsdp axes."""

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


def keep_compilations() -> None:
    """Keeps what is compiled in the user's cache folder, unless JAX is told another place already.

    Not on CPUs: JAX would load there what was compiled for the processor of another machine that
    shares the folder.
    """
    told = jax.config.values["jax_compilation_cache_dir"]
    if jax.default_backend() != "cpu" and told is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder("compilations")))


def compile_steps(
    options: StepOptions, model: LlamaConfig, mesh: Mesh, objective: Objective
) -> CompiledSteps:
    """Compiles the training step and prepares the other functions.

    The mesh has any of the axes data, fsdp and tensor. An optimizer that does not take matrices of
    the model's shapes is a `UserError`.
    """
    with jax.set_mesh(mesh):
        shapes = nnx.eval_shape(lambda: Llama(model, rngs=nnx.Rngs(0)))
        gather_where_read(shapes, mesh)
        update = Update(options, nnx.split(shapes, nnx.Param)[0], objective, mesh)
        state = _abstract_state(update, model)
    init_params, init_from = _initialisers(update, model, state)

    def average(train_state: TrainState) -> Any:
        return mean_weights(train_state.ema, options.ema_decay, train_state.params)

    replicated = NamedSharding(mesh, PartitionSpec())
    param_shardings = jax.tree.map(lambda x: x.sharding, state.params)
    in_mesh = lambda function, out: _in_mesh(mesh, jax.jit(function, out_shardings=out))
    start = time.perf_counter()
    train = _compile_training(update, state)
    compile_seconds = time.perf_counter() - start
    return CompiledSteps(
        options=options,
        mesh=mesh,
        process_rows=process_rows(mesh, options.batch.batch_size),
        init=_in_mesh(mesh, lambda run: init_from(run, init_params(_key_data(run.seed)))),
        init_from=_in_mesh(mesh, init_from),
        train=train,
        evaluate=in_mesh(update.loss, replicated),
        average=in_mesh(average, param_shardings) if options.ema_decay else None,
        all_finite=in_mesh(_all_finite, replicated),
        look=in_mesh(update.look, Look(replicated, None)),  # type: ignore[arg-type] # shardings
        overlaps=in_mesh(overlaps, replicated),
        optimizer=update.optimizer(1.0, 1.0, seed=0),
        abstract_state=state,
        flops_per_token=flops_per_token(model, state.params, options.batch.seq_len),
        compile_seconds=compile_seconds,
    )


def abstract_parameters(model: LlamaConfig, mesh: Mesh) -> Any:
    """Shapes, types and shardings of a model's parameters, a pure dict; nothing is allocated."""
    params = jax.eval_shape(functools.partial(_init_params, model), _key_data(0))
    shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), partition_specs(params, mesh))
    return jax.tree.map(_with_sharding, params, shardings)


def _abstract_state(update: Update, model: LlamaConfig) -> TrainState:
    """The same of the state."""
    mesh = update.mesh
    params = abstract_parameters(model, mesh)
    shardings = jax.tree.map(lambda x: x.sharding, params)

    def kept_by(transform: optax.GradientTransformation) -> Any:
        with as_user_error():
            state = jax.eval_shape(transform.init, params)
        places = lro.state_shardings(transform, params, shardings)
        return jax.tree.map(_with_sharding, state, places)

    step = _with_sharding(jnp.int32(0), NamedSharding(mesh, PartitionSpec()))
    optimizer = update.optimizer(1.0, 1.0, seed=0)
    return TrainState(step, params, kept_by(optimizer), kept_by(update.ema))


def _initialisers(
    update: Update, model: LlamaConfig, state: TrainState
) -> tuple[Callable[..., Any], Callable[..., TrainState]]:
    """key data -> parameters, and (variant, parameters) -> state, both sharded as the state is."""
    shardings = jax.tree.map(lambda x: x.sharding, state)
    init_params = functools.partial(_init_params, model)

    def init_from(variant: Variant, params: Any) -> TrainState:
        rates = (variant.learning_rate, variant.fallback_learning_rate)
        optimizer = update.optimizer(*rates, variant.seed)
        init = jax.jit(optimizer.init, out_shardings=shardings.optimizer_state)
        init_ema = jax.jit(update.ema.init, out_shardings=shardings.ema)
        step = jax.jit(lambda: jnp.int32(0), out_shardings=shardings.step)()
        return TrainState(step, params, init(params), init_ema(params))

    return jax.jit(init_params, out_shardings=shardings.params), init_from


def _init_params(model: LlamaConfig, key_data: jax.Array) -> Any:
    rngs = nnx.Rngs(jax.random.wrap_key_data(key_data))
    return nnx.to_pure_dict(nnx.state(Llama(model, rngs=rngs), nnx.Param))


def _compile_training(update: Update, state: TrainState) -> Callable[..., Any]:
    """The training step, compiled; it takes its state over."""
    options, mesh = update.options, update.mesh
    replicated = NamedSharding(mesh, PartitionSpec())
    on = lambda sharding: lambda x: _with_sharding(x, sharding)
    batch = jax.tree.map(on(batch_sharding(mesh)), update.objective.batch_shapes(options.batch))
    arguments = jax.tree.map(on(replicated), step_arguments(Variant(1.0, 1.0, seed=0)))
    shardings = jax.tree.map(lambda x: x.sharding, state)
    train = jax.jit(update.train, donate_argnums=0, out_shardings=(shardings, replicated))
    with jax.set_mesh(mesh):
        return train.lower(state, batch, arguments).compile()


def flops_per_token(model: LlamaConfig, params: Any, seq_len: int) -> float:
    """Of the products, forwards and backwards (PaLM, 2204.02311, appendix B): 6 for every weight
    that multiplies and 12 for every channel of a head and position, half of which are masked."""
    table = 0 if model.tie_embeddings else model.vocab_size * model.hidden_size
    weights = sum(x.size for x in jax.tree.leaves(params)) - table
    heads = model.num_layers * model.num_heads * model.head_dim
    return 6.0 * weights + 6.0 * heads * seq_len


def _with_sharding(array: Any, sharding: NamedSharding) -> Any:
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
