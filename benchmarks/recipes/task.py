"""What every recipe is tried on: a small Llama over bytes of text, in one compiled step."""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import lowrank_optax as lro
from benchmarks.recipes.methods import METHODS
from models.llama import Llama, matrix_dimension_numbers
from training.config.model import model_config
from training.config.pretraining import PretrainConfig
from training.data.documents import STDLIB, find_sources, read_documents
from training.data.tokenization import document_rank
from training.steps.objective import next_token_loss

VOCABULARY = 257
END_OF_TEXT = np.array([256], np.uint16)
HELD_OUT = 0.05
VALIDATION_ROWS = 128
EVALUATION_ROWS = 32
WARMUP = 0.1
FINAL_RATE = 0.1
CLIP = 1.0


@dataclasses.dataclass(frozen=True)
class Setting:
    """A task.

    Attributes:
        width: of the model; 4 layers.
        steps: optimizer steps, a tenth of them warm-up, then a cosine to a tenth of the rate.
        batch_size: sequences of a step.
        seq_len: bytes of a sequence.
    """

    width: int = 128
    steps: int = 500
    batch_size: int = 8
    seq_len: int = 256

    @property
    def name(self) -> str:
        """For tables and the results' keys."""
        return f"w{self.width}-s{self.steps}-b{self.batch_size}"


def write_tokens(path: pathlib.Path) -> None:
    """The bytes of Python's standard library: to train on, to tune by, and to report.

    The split is the search's own, so that its runs stay comparable: documents in the order of the
    hash of their names are held out as long as they fit into a twentieth of the bytes.
    """
    documents = list(read_documents(find_sources(STDLIB)))
    texts = [document.text.encode() for document in documents]
    room = HELD_OUT * sum(map(len, texts))
    smallest = min(map(len, texts))
    held_out = set()
    for i in sorted(range(len(texts)), key=lambda i: document_rank(documents[i].name)):
        if room < smallest:
            break
        if len(texts[i]) <= room:
            held_out.add(i)
            room -= len(texts[i])
    validation = _stream(text for i, text in enumerate(texts) if i in held_out)
    half = len(validation) // 2
    np.savez(
        path,
        training=_stream(text for i, text in enumerate(texts) if i not in held_out),
        tuning=validation[:half],
        reported=validation[half:],
    )


def _stream(texts: Iterable[bytes]) -> np.ndarray:
    """Bytes, and 256 between texts."""
    pieces = [piece for text in texts for piece in (np.frombuffer(text, np.uint8), END_OF_TEXT)]
    return np.concatenate(pieces[:-1]).astype(np.uint16)


@functools.cache
def tokens(path: pathlib.Path) -> Mapping[str, np.ndarray]:
    """What `write_tokens` wrote."""
    with np.load(path) as arrays:
        return dict(arrays)


def rows(stream: np.ndarray, starts: np.ndarray, length: int) -> np.ndarray:
    """Windows of a stream of tokens, int32 (rows, length + 1)."""
    return stream[starts[:, None] + np.arange(length + 1)].astype(np.int32)


@dataclasses.dataclass(frozen=True)
class Steps:
    """The compiled functions of one method in one setting; numbers are arguments."""

    optimizer: Callable[..., optax.GradientTransformation]
    init: Callable[..., Any]
    train: Callable[..., Any]
    loss: Callable[..., Any]
    parameters: Callable[..., Any]


@functools.cache
def compiled(method: str, setting: Setting) -> Steps:
    """Compiles, once a process."""
    width = PretrainConfig(hidden_size=setting.width, seq_len=setting.seq_len)
    config = model_config(width, VOCABULARY)
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
        return optax.apply_updates(params, updates), state, value

    return Steps(optimizer, init, train, jax.jit(loss), jax.jit(parameters))


def run(
    method: str, setting: Setting, numbers: Mapping[str, float], seed: int, data: pathlib.Path
) -> dict[str, Any]:
    """Trains once.

    Args:
        method: a key of `METHODS`.
        setting: the task.
        numbers: learning rate and what else is tuned.
        seed: of the weights and of the order of the data.
        data: file of `write_tokens`.

    Returns:
        The validation losses on both halves, the last training losses' mean, and the bytes of the
        matrices' optimizer state by entry of a matrix.
    """
    arrays, steps = tokens(data), compiled(method, setting)
    numbers = {name: jnp.float32(number) for name, number in numbers.items()}
    params = steps.parameters(seed)
    state = steps.init(params, numbers)
    size = bytes_per_entry(steps.optimizer(numbers, 0), params)
    random = np.random.default_rng(seed)
    last = len(arrays["training"]) - setting.seq_len - 1
    losses = []
    for step in range(setting.steps):
        starts = random.integers(0, last, setting.batch_size)
        batch = rows(arrays["training"], starts, setting.seq_len)
        params, state, value = steps.train(params, state, batch, numbers, step)
        losses.append(value)
    record = {part: _evaluate(steps, params, arrays[part], setting) for part in PARTS}
    final = jnp.stack(losses[-max(1, setting.steps // 20) :])
    return record | {"training": float(final.mean()), "bytes_per_entry": size}


PARTS = ("tuning", "reported")


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
