"""What every recipe is tried on: a small Llama over bytes of text, in one compiled step."""

import dataclasses
import functools
import math
import pathlib
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx, traverse_util

import lowrank_optax as lro
from benchmarks.recipes.methods import METHODS
from benchmarks.recipes.texts import (
    rows,
    tokens,
    vocabulary_size,
    write_arrays,
    write_library,
    write_problems,
)
from models.llama import Llama, LlamaConfig, matrix_dimension_numbers
from training.config.model import ModelOptions, NumberOptions, preset_model
from training.steps.objective import next_token_loss

BYTES = 257
VALIDATION_ROWS = 128
EVALUATION_ROWS = 32
WARMUP = 0.1
FINAL_RATE = 0.1
CLIP = 1.0
BASE = {"learning_rate": 0.005, "b2": 0.95}
"""AdamW's numbers at width 64, of the model that fine-tuning starts from."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """A task.

    Attributes:
        width: of the model; 4 layers, or the preset's.
        steps: optimizer steps, a tenth of them warm-up, then a cosine to a tenth of the rate.
        batch_size: sequences of a step.
        seq_len: bytes of a sequence.
        base_steps: of AdamW on the library, before word problems are learnt; None for random
            weights and the library alone.
        preset: of `models.configs`; None for its "small".
        dtype: of parameters and activations; None for float32.
    """

    width: int = 128
    steps: int = 500
    batch_size: int = 8
    seq_len: int = 256
    base_steps: int | None = None
    preset: str | None = None
    dtype: str | None = None

    @property
    def name(self) -> str:
        """For messages."""
        steps = f"{self.base_steps}+{self.steps}" if self.base_steps else self.steps
        return f"w{self.width}-s{steps}-b{self.batch_size}"

    @property
    def key(self) -> dict[str, Any]:
        """For the results: without what is None, which runs made before it existed lack."""
        given = dataclasses.asdict(self)
        return {name: value for name, value in given.items() if value is not None}

    def model(self, vocabulary: int) -> LlamaConfig:
        """The model's shape."""
        dtype: Any = self.dtype or "float32"
        options = ModelOptions(
            preset=self.preset or "small", hidden_size=self.width, seq_len=self.seq_len
        )
        # On one core the products of so small a layer are made sooner than they are stored.
        numbers = NumberOptions(dtype, param_dtype=dtype, remat=self.preset is None)
        return preset_model(options, numbers, vocabulary)


@dataclasses.dataclass(frozen=True)
class Steps:
    """The compiled functions of one method in one setting; numbers are arguments."""

    optimizer: Callable[..., optax.GradientTransformation]
    init: Callable[..., Any]
    train: Callable[..., Any]
    loss: Callable[..., Any]
    parameters: Callable[..., Any]


@functools.cache
def compiled(method: str, setting: Setting, vocabulary: int = BYTES) -> Steps:
    """Compiles, once a process."""
    config = setting.model(vocabulary)
    definition, _ = nnx.split(nnx.eval_shape(lambda: Llama(config, rngs=nnx.Rngs(0))), nnx.Param)
    loss = functools.partial(next_token_loss, definition)

    def parameters(seed: Any) -> Any:
        return nnx.to_pure_dict(
            nnx.state(Llama(config, rngs=nnx.Rngs(jax.random.key(seed))), nnx.Param)
        )

    rate = optax.warmup_cosine_decay_schedule(
        0.0, 1.0, max(1, int(WARMUP * setting.steps)), setting.steps, FINAL_RATE
    )

    def optimizer(numbers: Any, step: Any) -> optax.GradientTransformation:
        numbers = dict(numbers)
        peak, factor = numbers.pop("learning_rate"), rate(step)
        tx = METHODS[method].build(
            peak * factor, factor, dimension_numbers=matrix_dimension_numbers, **numbers
        )
        return optax.chain(optax.clip_by_global_norm(CLIP), tx)

    @jax.jit
    def init(params: Any, numbers: Any) -> Any:
        return optimizer(numbers, 0).init(params)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def train(params: Any, state: Any, batch: Any, numbers: Any, step: Any) -> Any:
        value, gradient = jax.value_and_grad(loss)(params, batch)
        updates, state = optimizer(numbers, step).update(gradient, state, params)
        # Of bfloat16 parameters; others are not rounded.
        key = jax.random.fold_in(jax.random.key(0), step)
        return lro.apply_updates_stochastic(params, updates, key), state, value

    return Steps(optimizer, init, train, jax.jit(loss), jax.jit(parameters))


def prepare(setting: Setting, data: pathlib.Path) -> None:
    """Writes what runs in a setting read, where it is missing.

    For fine-tuning those are the word problems and the model that every run starts from, which is
    trained here.

    Args:
        setting: of the runs.
        data: file of the library's tokens; the others lie beside it.
    """
    if not data.exists():
        write_library(data)
    if setting.base_steps is None:
        return
    if not _problems(data).exists():
        write_problems(_problems(data))
    if not _base_path(setting, data).exists():
        steps = compiled("adamw", _before(setting), vocabulary_size(data))
        numbers = {name: jnp.float32(number) for name, number in BASE.items()}
        params = steps.parameters(0)
        training = training_steps(steps, _before(setting), numbers, 0, tokens(data), params)
        params, _ = _trained(training)
        leaves = traverse_util.flatten_dict(params, sep="/")
        write_arrays(
            _base_path(setting, data), {path: np.asarray(leaf) for path, leaf in leaves.items()}
        )


def text_of(setting: Setting, data: pathlib.Path) -> Mapping[str, np.ndarray]:
    """What is read in a setting."""
    return tokens(data if setting.base_steps is None else _problems(data))


def _before(setting: Setting) -> Setting:
    """The setting of the base model's training."""
    assert setting.base_steps is not None
    return dataclasses.replace(setting, steps=setting.base_steps, base_steps=None)


def _problems(data: pathlib.Path) -> pathlib.Path:
    return data.with_name(f"{data.stem}-problems.npz")


def _base_path(setting: Setting, data: pathlib.Path) -> pathlib.Path:
    return data.with_name(f"{data.stem}-base-{_before(setting).name}.npz")


def _base(setting: Setting, data: pathlib.Path) -> Any:
    """The parameters that fine-tuning starts from."""
    with np.load(_base_path(setting, data)) as arrays:
        return traverse_util.unflatten_dict(
            {path: jnp.asarray(arrays[path]) for path in arrays}, sep="/"
        )


def run(
    method: str, setting: Setting, numbers: Mapping[str, float], seed: int, data: pathlib.Path
) -> dict[str, Any]:
    """Trains once.

    Args:
        method: a key of `METHODS`.
        setting: the task.
        numbers: learning rate and what else is tuned.
        seed: of the weights and of the order of the data.
        data: the tokens, for which `prepare` has been called.

    Returns:
        The validation losses on both halves, the last training losses' mean, the bytes of the
        matrices' optimizer state by entry of a matrix, and what made them.
    """
    text, steps = text_of(setting, data), compiled(method, setting, vocabulary_size(data))
    numbers = {name: jnp.float32(number) for name, number in numbers.items()}
    params = steps.parameters(seed) if setting.base_steps is None else _base(setting, data)
    size = bytes_per_entry(steps.optimizer(numbers, 0), params)
    params, losses = _trained(training_steps(steps, setting, numbers, seed, text, params))
    record = {part: _evaluate(steps, params, text[part], setting) for part in PARTS}
    final = jnp.stack(losses[-max(1, setting.steps // 20) :])
    device = f"{jax.devices()[0].device_kind} ({platform.machine()})"
    made_with = f"{device}, jax {jax.__version__}, optax {optax.__version__}"
    record |= {"training": float(final.mean()), "bytes_per_entry": size}
    return record | {"made_with": made_with}


PARTS = ("tuning", "reported")


def _trained(training: Iterable[tuple[Any, Any, jax.Array]]) -> tuple[Any, list[jax.Array]]:
    """The parameters at the end, and every step's loss."""
    losses = []
    for done in training:
        params, _, loss = done
        losses.append(loss)
    return params, losses


def training_steps(
    steps: Steps,
    setting: Setting,
    numbers: Mapping[str, Any],
    seed: int,
    text: Mapping[str, np.ndarray],
    params: Any,
) -> Iterator[tuple[Any, Any, jax.Array]]:
    """Parameters, optimizer state and loss after every step.

    A step takes the memory of the parameters and the state before it: look at them before the next.
    """
    state = steps.init(params, numbers)
    random, training = np.random.default_rng(seed), text["training"]
    for step in range(setting.steps):
        starts = random.integers(0, len(training) - setting.seq_len - 1, setting.batch_size)
        batch = rows(training, starts, setting.seq_len)
        params, state, loss = steps.train(params, state, batch, numbers, step)
        yield params, state, loss


def _evaluate(steps: Steps, params: Any, stream: np.ndarray, setting: Setting) -> float:
    starts = np.linspace(0, len(stream) - setting.seq_len - 1, VALIDATION_ROWS).astype(int)
    batches = np.split(rows(stream, starts, setting.seq_len), VALIDATION_ROWS // EVALUATION_ROWS)
    return float(np.mean([steps.loss(params, batch) for batch in batches]))


def bytes_per_entry(tx: optax.GradientTransformation, params: Any) -> float:
    """Bytes of the optimizer's state that belong to matrices, by their entries."""
    report = lro.memory_report(tx, params)
    matrices = [leaf for leaf in report.leaves if leaf.path.endswith("kernel")]
    matrices = [leaf for leaf in matrices if leaf.path.startswith("layers")]
    return sum(leaf.state_bytes for leaf in matrices) / sum(
        math.prod(leaf.shape) for leaf in matrices
    )
