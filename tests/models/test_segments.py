"""Several texts in a row: each is read as if it were alone."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from huggingface_folders import forward, random_model

from models.attention import segment_positions
from models.configs import LlamaConfig
from models.rope_scaling import Llama3RopeScaling

CONFIG = LlamaConfig(48, 32, 48, num_layers=2, num_heads=4, num_kv_heads=2, max_position=320)
LENGTHS = [[5, 1, 9], [9, 5], [15]]
TEXTS = [
    [np.random.default_rng(10 * row + i).integers(0, 48, length) for i, length in enumerate(own)]
    for row, own in enumerate(LENGTHS)
]


def packed():
    """The texts in three rows of 16, padded with segment 0, and their numbers."""
    tokens, segments = np.zeros((3, 16), np.int32), np.zeros((3, 16), np.int32)
    for row, texts in enumerate(TEXTS):
        joined = np.concatenate(texts)
        tokens[row, : len(joined)] = joined
        segments[row, : len(joined)] = np.repeat(np.arange(len(texts)) + 1, LENGTHS[row])
    return tokens, segments


def with_segments(model, tokens, segments):
    structure, state = nnx.split(model)
    return _with_segments(structure, state, tokens, segments)


@functools.partial(jax.jit, static_argnums=0)
def _with_segments(structure, state, tokens, segments):
    return nnx.merge(structure, state)(tokens, segments)


def test_positions_count_from_the_start_of_each_segment():
    segments = jnp.array([[3, 3, 1, 1, 1, 0], [2, 2, 2, 2, 2, 2]])
    assert segment_positions(segments).tolist() == [[0, 1, 0, 1, 2, 0], [0, 1, 2, 3, 4, 5]]


@pytest.mark.product(every=3)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_kv_heads": 4, "qkv_bias": True, "tie_embeddings": True},
        {"rope_scaling": Llama3RopeScaling(8.0, 1.0, 4.0, 32), "remat": True},
    ],
    ids=str,
)
def test_packed_texts_have_the_logits_that_each_has_alone(changes):
    model = random_model(dataclasses.replace(CONFIG, **changes))
    tokens, segments = packed()
    together = with_segments(model, tokens, segments)
    for row, texts in enumerate(TEXTS):
        start = 0
        for text in texts:
            # Padded, which nothing before it sees, so that one program serves all lengths.
            alone = forward(model, np.pad(text, (0, 16 - len(text)))[None])[0, : len(text)]
            found = together[row, start : start + len(text)]
            np.testing.assert_allclose(found, alone, rtol=2e-5, atol=2e-4)
            start += len(text)
    whole = forward(model, tokens)
    assert np.abs(np.asarray(whole - together)[0, 6:15]).max() > 1, "segments do change something"


def test_no_text_sees_another_across_query_chunks():
    """Long enough rows for all chunks of queries: what one text says leaves the rest bit-equal."""
    model = random_model(CONFIG)
    tokens = np.random.default_rng(0).integers(0, 48, (1, 300)).astype(np.int32)
    segments = np.repeat([1, 2, 3], [130, 90, 80])[None]
    before = with_segments(model, tokens, segments)
    changed = tokens.copy()
    changed[0, 130:220] = (changed[0, 130:220] + 1) % 48
    after = with_segments(model, changed, segments)
    np.testing.assert_array_equal(before[0, :130], after[0, :130])
    np.testing.assert_array_equal(before[0, 220:], after[0, 220:])
    assert np.abs(np.asarray(before - after)[0, 130:220]).max() > 1


def test_one_segment_is_no_segment():
    model = random_model(CONFIG)
    tokens, _ = packed()
    np.testing.assert_allclose(
        with_segments(model, tokens, np.ones_like(tokens)),
        forward(model, tokens),
        rtol=1e-5,
        atol=1e-4,
    )


def test_segments_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"segments has shape \(2, 4\), the tokens have \(2, 5\)"):
        random_model(CONFIG)(jnp.zeros((2, 5), jnp.int32), jnp.ones((2, 4), jnp.int32))
