"""The loss counts answers only, each of their tokens the same: padded, packed, split or sharded."""

import functools

import jax
import numpy as np
import pytest
from flax import nnx
from huggingface_folders import forward, random_model

from models.configs import LlamaConfig
from training.config.resolved import BatchShape
from training.data.answer_batches import answer_batches, shares
from training.data.prompts import EncodedExample
from training.data.questions_corpus import AnswerRows, pack
from training.steps.mesh import batch_sharding, make_mesh
from training.steps.objective import answer_loss, answers_only
from training.steps.update import mean_gradient

CONFIG = LlamaConfig(48, 32, 48, num_layers=1, num_heads=4, num_kv_heads=2, max_position=64)
SEQ_LEN = 24


class Bigram(nnx.Module):
    """A model that compiles in no time, for what does not depend on attention."""

    def __init__(self):
        self.table = nnx.Param(np.random.default_rng(1).normal(size=(48, 48)).astype(np.float32))
        self.config = CONFIG

    def __call__(self, tokens, segments=None):
        return self.project(self.norm(self.last_layer(tokens, segments)), self.head())

    def last_layer(self, tokens, segments=None):
        del segments
        return jax.nn.one_hot(tokens, 48)

    def norm(self, x):
        return x

    def head(self):
        return self.table[...]

    def project(self, x, head):
        return x @ head


MODELS = {"llama": random_model(CONFIG), "bigram": Bigram()}
STRUCTURES = {name: nnx.split(model)[0] for name, model in MODELS.items()}
PARAMS = {
    name: jax.tree.map(lambda x: x * 0.3, nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    for name, model in MODELS.items()
}

# (prompt, answer with its end): none like the other, answers of 1 to 9 tokens.
SIZES = [(3, 1), (7, 9), (1, 4), (10, 2), (5, 5), (2, 8), (12, 3), (4, 6)]
RANDOM = np.random.default_rng(0)
EXAMPLES = [
    EncodedExample(
        RANDOM.integers(0, 48, p + a).astype(np.int32), np.arange(p + a) >= p, f"line {i}"
    )
    for i, (p, a) in enumerate(SIZES, 1)
]


def batch_of(rows, size=None):
    """The rows as one batch, filled up with empty ones."""
    chosen = [rows[i] for i in range(len(rows))]
    empty = {name: np.zeros_like(value) for name, value in chosen[0].items()}
    chosen += [empty] * ((size or len(rows)) - len(rows))
    return {name: np.stack([row[name] for row in chosen]) for name in empty}


@functools.partial(jax.jit, static_argnums=(1, 2))
def loss_and_gradient(batch, name, parts=1):
    loss_fn = functools.partial(answer_loss, STRUCTURES[name])
    return mean_gradient(loss_fn, PARAMS[name], shares(batch, parts), parts)


def by_hand(name):
    """Mean of -log p over the answers' tokens, example by example, in float64."""
    tokens = batch_of(AnswerRows(EXAMPLES, SEQ_LEN))["tokens"]
    of_all = forward(nnx.merge(STRUCTURES[name], PARAMS[name]), tokens)
    losses = []
    for example, logits in zip(EXAMPLES, np.asarray(of_all, np.float64), strict=True):
        log_p = logits - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1))[:, None]
        log_p -= logits.max(-1, keepdims=True)
        for position in np.flatnonzero(example.learnt):
            losses.append(-log_p[position - 1, example.tokens[position]])
    assert len(losses) == sum(answer for _, answer in SIZES)
    return np.mean(losses)


@pytest.mark.parametrize("name", MODELS)
def test_the_loss_is_the_mean_over_the_tokens_of_the_answers(name):
    loss, _ = loss_and_gradient(batch_of(AnswerRows(EXAMPLES, SEQ_LEN)), name)
    assert float(loss) == pytest.approx(by_hand(name), rel=1e-5)


def test_prompts_have_no_weight_and_ends_of_texts_do():
    tokens = np.arange(1, 6, dtype=np.int32)
    rows = AnswerRows([EncodedExample(tokens, tokens > 3, "line 1")], 6)
    row = rows[0]
    assert row["tokens"].tolist() == [1, 2, 3, 4, 5, 0, 0]
    assert row["weights"].tolist() == [0, 0, 1, 1, 0, 0]
    assert row.keys() == {"tokens", "weights"}


def test_packing_gives_the_loss_and_the_gradient_of_padding():
    rows = AnswerRows(EXAMPLES, SEQ_LEN, packing=True)
    assert len(rows) < len(EXAMPLES) / 1.5
    assert sorted(i for box in rows.packs for i in box) == list(range(len(EXAMPLES)))
    padded = loss_and_gradient(batch_of(AnswerRows(EXAMPLES, SEQ_LEN)), "llama")
    packed = loss_and_gradient(batch_of(rows, 8), "llama")
    np.testing.assert_allclose(packed[0], padded[0], rtol=1e-5)
    for one, other in zip(jax.tree.leaves(packed[1]), jax.tree.leaves(padded[1]), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize(("packing", "parts"), [(False, 4), (True, 2)])
def test_micro_batches_of_unequal_answers_give_the_gradient_of_the_batch(parts, packing):
    batch = batch_of(AnswerRows(EXAMPLES, SEQ_LEN, packing=packing), 8)
    loss, gradient = loss_and_gradient(batch, "bigram")
    split = loss_and_gradient(batch, "bigram", parts)
    np.testing.assert_allclose(split[0], loss, rtol=1e-5)
    for one, other in zip(jax.tree.leaves(split[1]), jax.tree.leaves(gradient), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-6)


def test_eight_devices_give_the_loss_of_one():
    batch = batch_of(AnswerRows(EXAMPLES, SEQ_LEN, packing=True), 8)
    loss, _ = loss_and_gradient(batch, "bigram")
    spread = jax.device_put(batch, batch_sharding(make_mesh({"data": 8})))
    np.testing.assert_allclose(loss_and_gradient(spread, "bigram")[0], loss, rtol=1e-5)


@pytest.mark.parametrize("packing", [False, True])
def test_the_mean_of_the_answer_batches_is_the_mean_over_all_answers(packing):
    batches = answer_batches(AnswerRows(EXAMPLES, SEQ_LEN, packing=packing), 3, most=16)
    assert {batch["tokens"].shape for batch in batches} == {(3, SEQ_LEN + 1)}
    losses = [
        float(answer_loss(STRUCTURES["bigram"], PARAMS["bigram"], batch)) for batch in batches
    ]
    assert np.mean(losses) == pytest.approx(by_hand("bigram"), rel=1e-5)


def test_few_answer_batches_take_rows_from_everywhere():
    (batch,) = answer_batches(AnswerRows(EXAMPLES, SEQ_LEN), 4, most=1)
    firsts = [int(example.tokens[0]) for example in EXAMPLES[::2]]
    assert batch["tokens"][:, 0].tolist() == firsts
    assert batch["weights"].sum() == pytest.approx(1)


def test_the_compiled_batch_is_the_batch_of_rows():
    for packing in (False, True):
        shapes = answers_only(packing=packing).batch_shapes(BatchShape(8, SEQ_LEN, 1))
        batch = batch_of(AnswerRows(EXAMPLES, SEQ_LEN, packing=packing), 8)
        assert {name: (x.shape, x.dtype) for name, x in batch.items()} == {
            name: (x.shape, x.dtype) for name, x in shapes.items()
        }


def test_packing_fills_boxes_and_never_overfills_them():
    lengths = np.random.default_rng(1).integers(1, 100, 500).tolist()
    boxes = pack(lengths, 128)
    assert sorted(i for box in boxes for i in box) == list(range(500))
    filled = [sum(lengths[i] for i in box) for box in boxes]
    assert max(filled) <= 128
    assert sum(filled) / (128 * len(boxes)) > 0.97
