"""A training step of a Llama with each optimizer on random tokens: time, peak memory and state.

Where the device counts its memory, every measurement has a process of its own: the count's peak
is that of the process.
"""

import concurrent.futures
import dataclasses
import functools
import multiprocessing
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from benchmarks.accelerator.sizes import Size
from benchmarks.accelerator.timed import array_bytes, seconds
from benchmarks.methods import METHODS
from benchmarks.tables import markdown_table
from benchmarks.timing import median, ratio
from models.configs import LlamaConfig
from models.llama import Llama, matrix_dimension_numbers


def items(size: Size, dtype: str) -> dict[str, Callable[[], dict[str, Any]]]:
    """One for every method."""
    return {name: functools.partial(measure_apart, name, size, dtype) for name in size.optimizers}


def measure_apart(name: str, size: Size, dtype: str) -> dict[str, Any]:
    """`measure`, in a fresh process where the device counts the peak of its memory."""
    if jax.local_devices()[0].memory_stats() is None:
        return measure(name, size, dtype)
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, name, size, dtype).result()


def random_tokens(config: LlamaConfig, batch: int, time: int) -> jax.Array:
    """int32 (batch, time + 1)."""
    shape = (batch, time + 1)
    return jax.random.randint(jax.random.key(0), shape, 0, config.vocab_size, jnp.int32)


class Trainer:
    """A compiled step, in place, on one batch.

    Args:
        tx: the optimizer.
        config: the model's shape and dtypes.
        tokens: int32 (batch, time + 1).
    """

    def __init__(self, tx: optax.GradientTransformation, config: LlamaConfig, tokens: jax.Array):
        graphdef = nnx.graphdef(nnx.eval_shape(lambda: Llama(config, rngs=nnx.Rngs(0))))

        def loss(params, tokens):
            logits = nnx.merge(graphdef, params)(tokens[:, :-1])
            return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()

        def init():
            params = nnx.to_pure_dict(nnx.state(Llama(config, rngs=nnx.Rngs(0)), nnx.Param))
            return tx.init(params), params

        def step(state, params, tokens):
            value, gradient = jax.value_and_grad(loss)(params, tokens)
            updates, state = tx.update(gradient, state, params)
            return (state, optax.apply_updates(params, updates)), value

        self._carry = jax.jit(init)()
        self._tokens = tokens
        jitted = jax.jit(step, donate_argnums=(0, 1))
        self._step = jitted.lower(*self._carry, tokens).compile()
        self.memory = self._step.memory_analysis()
        self.state_bytes = array_bytes(self._carry[0])

    def __call__(self) -> jax.Array:
        self._carry, loss = self._step(*self._carry, self._tokens)
        return loss


def compiled_bytes(memory: Any) -> int:
    """What a compiled program holds: arguments, results that are not in place, temporaries."""
    return (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
    )


def measure(name: str, size: Size, dtype: str) -> dict[str, Any]:
    """A step with this optimizer, and one with AdamW beside it."""
    config = dataclasses.replace(size.trained, dtype=dtype, param_dtype=dtype)
    rank = round(size.rank_fraction * config.hidden_size)
    tokens = random_tokens(config, size.batch, size.time)
    tx = METHODS[name](rank, dimension_numbers=matrix_dimension_numbers)
    this = Trainer(tx, config, tokens)
    first_loss = float(this())
    this().block_until_ready()
    # Before AdamW's arrays are there as well.
    stats = jax.local_devices()[0].memory_stats()
    return {
        "rank": rank,
        "batch": size.batch,
        "time": size.time,
        "first_loss": first_loss,
        "seconds": seconds({"this": this, "adamw": _adamw(config, size.batch, size.time)}),
        "state_bytes": this.state_bytes,
        "compiled_bytes": compiled_bytes(this.memory),
        "peak_bytes": None if stats is None else stats["peak_bytes_in_use"],
    }


@functools.cache
def _adamw(config: LlamaConfig, batch: int, time: int) -> Trainer:
    """One for all methods of a process."""
    return Trainer(METHODS["optax.adamw"](None), config, random_tokens(config, batch, time))


def table(results: dict[str, Any]) -> str:
    """A row per method; the ratio with quartiles."""
    header = ("method", "step, ms", "/ adamw", "state, MB", "compiled, MB", "peak in use, MB")
    rows = [
        (
            name,
            f"{1e3 * median(result['seconds']['this']):.2f}",
            f"{ratio(result['seconds'], 'this', 'adamw'):.2f}",
            f"{result['state_bytes'] / 1e6:.2f}",
            f"{result['compiled_bytes'] / 1e6:.1f}",
            "not counted" if result["peak_bytes"] is None else f"{result['peak_bytes'] / 1e6:.1f}",
        )
        for name, result in results.items()
    ]
    return markdown_table(header, rows)
