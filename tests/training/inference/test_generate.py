"""Generation with a cache is generation by whole forward passes, whatever the padding."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from huggingface_folders import DATA, FOLDERS, forward, golden, random_model
from jax.sharding import AxisType

from models import huggingface
from models.configs import LlamaConfig
from models.decoding import decode, prefill
from models.rope_scaling import Llama3RopeScaling
from training.inference import continue_prompts, greedy
from training.inference.generate import _generate

CONFIG = LlamaConfig(48, 32, 48, num_layers=2, num_heads=4, num_kv_heads=2, max_position=96)
LENGTHS = [7, 1, 12, 4]
PROMPTS = [np.random.default_rng(i).integers(0, 48, length) for i, length in enumerate(LENGTHS)]
NEW = 10


def model_of(scale=0.25, **changes):
    """Large enough weights that the most likely token depends on all earlier ones."""
    structure, state = nnx.split(random_model(dataclasses.replace(CONFIG, **changes)))
    return nnx.merge(structure, jax.tree.map(lambda leaf: leaf * scale, state))


def padded(side, fill=0):
    """The prompts as one array, and the mask of their tokens."""
    tokens, mask = np.full((4, max(LENGTHS)), fill), np.zeros((4, max(LENGTHS)), bool)
    for row, prompt in enumerate(PROMPTS):
        columns = slice(-len(prompt), None) if side == "left" else slice(len(prompt))
        tokens[row, columns], mask[row, columns] = prompt, True
    return tokens, mask


def by_whole_passes(model, prompt, new):
    """The continuation by one pass over everything for each token, nothing kept."""
    tokens = np.zeros((1, max(LENGTHS) + new), np.int32)
    tokens[0, : len(prompt)] = prompt
    for end in range(len(prompt), len(prompt) + new):
        tokens[0, end] = int(jnp.argmax(forward(model, tokens)[0, end - 1]))
    return tokens[0, len(prompt) : len(prompt) + new]


@pytest.mark.product(every=9)
@pytest.mark.parametrize("name", FOLDERS)
def test_continuations_match_transformers(name):
    data = golden(name)
    generated = greedy(huggingface.load(DATA / name), data["tokens"], 8)
    np.testing.assert_array_equal(generated, data["greedy"])


@pytest.mark.product(every=4)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"dtype": "bfloat16"},
        {"num_kv_heads": 4, "qkv_bias": True, "tie_embeddings": True},
        {"num_kv_heads": 1, "rope_scaling": Llama3RopeScaling(8.0, 1.0, 4.0, 32)},
    ],
    ids=str,
)
def test_padded_prompts_continue_as_each_does_alone(changes):
    model = model_of(**changes)
    expected = np.stack([by_whole_passes(model, prompt, NEW) for prompt in PROMPTS])
    assert len(np.unique(expected)) > 5, "the continuations are not trivial"
    for side in ("left", "right"):
        tokens, mask = padded(side)
        np.testing.assert_array_equal(continue_prompts(model, tokens, NEW, mask=mask), expected)


def test_what_is_in_the_padding_does_not_matter():
    model = model_of()
    for side in ("left", "right"):
        zeros, mask = padded(side)
        others, _ = padded(side, fill=31)
        np.testing.assert_array_equal(
            continue_prompts(model, zeros, NEW, mask=mask),
            continue_prompts(model, others, NEW, mask=mask),
        )


@pytest.mark.product(every=2)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_logits_with_a_cache_are_those_of_one_pass(dtype):
    model = model_of(dtype=dtype)
    tokens = jax.random.randint(jax.random.key(0), (2, 12), 0, 48)
    lengths = jnp.array([5, 3])
    structure, state = nnx.split(model)

    logits, cache = jax.jit(
        lambda state, tokens: prefill(nnx.merge(structure, state), tokens, lengths, 9)
    )(state, tokens[:, :5])
    add = jax.jit(lambda state, *rest: decode(nnx.merge(structure, state), *rest))
    steps = [logits]
    for step in range(4):
        logits, cache = add(state, tokens[jnp.arange(2), lengths + step], cache)
        steps.append(logits)
    logits = jnp.stack(steps, axis=1)
    whole = forward(model, tokens)
    expected = jnp.stack([whole[row, n - 1 : n + 4] for row, n in enumerate((5, 3))])
    assert logits.dtype == jnp.float32
    # In bfloat16 sums of other lengths round differently: 2 ** -8 of the largest, twice.
    tolerance = 1e-5 if dtype == "float32" else 2**-7 * float(jnp.abs(expected).max())
    np.testing.assert_allclose(logits, expected, rtol=0, atol=tolerance)
    np.testing.assert_array_equal(cache.lengths, lengths + 4)


def test_after_the_end_of_a_text_there_is_only_its_token():
    model = model_of()
    tokens, mask = padded("left")
    free = np.asarray(continue_prompts(model, tokens, NEW, mask=mask))
    eos = int(free[0, 3])
    expected = free.copy()
    for row in expected:
        ends = np.flatnonzero(row == eos)
        if ends.size:
            row[ends[0] :] = eos
    assert (expected != free).any(), "a row goes on after the token"
    assert (expected != eos).all(axis=1).any(), "a row never meets it"
    np.testing.assert_array_equal(
        continue_prompts(model, tokens, NEW, mask=mask, eos_id=eos), expected
    )


def test_the_loop_stops_once_every_text_has_ended(monkeypatch):
    steps = []

    def counted(*arguments):
        jax.debug.callback(lambda: steps.append(1))
        return decode(*arguments)

    monkeypatch.setattr("training.inference.generate.decode", counted)
    model = model_of(max_position=95)  # of no other test: compiled with the count
    model.lm_head.kernel[...] = jnp.zeros((32, 48))  # every next token is 0
    tokens = jnp.ones((2, 1), jnp.int32)
    assert continue_prompts(model, tokens, 6, eos_id=0).tolist() == [[0] * 6] * 2
    jax.effects_barrier()
    assert len(steps) == 0
    assert continue_prompts(model, tokens, 6, eos_id=1).tolist() == [[0] * 6] * 2
    jax.effects_barrier()
    assert len(steps) == 5


def test_one_token_needs_no_loop():
    model = model_of()
    tokens, mask = padded("right")
    one = continue_prompts(model, tokens, 1, mask=mask)
    assert (one.shape, one.dtype) == ((4, 1), jnp.int32)
    np.testing.assert_array_equal(one, continue_prompts(model, tokens, NEW, mask=mask)[:, :1])


@pytest.mark.slow
def test_parameters_and_prompts_on_eight_devices_continue_alike():
    mesh = jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"), (AxisType.Auto,) * 3)
    model = huggingface.load(DATA / "tiny_qwen2", mesh=mesh)
    data = golden("tiny_qwen2")
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    generated = continue_prompts(model, jax.device_put(data["tokens"], sharding), 8)
    np.testing.assert_array_equal(generated, data["greedy"])


def test_the_cache_is_written_in_place():
    structure, state = nnx.split(nnx.eval_shape(model_of))
    batch, time, new = 4, 8, 249
    rows = jax.ShapeDtypeStruct((batch,), jnp.int32)
    tokens = jax.ShapeDtypeStruct((batch, time), jnp.int32)
    eos_id = jax.ShapeDtypeStruct((), jnp.int32)
    key = jax.eval_shape(jax.random.key, 0)
    shapes = (state, tokens, rows, rows, eos_id, key)
    compiled = _generate.lower(structure, new, None, *shapes).compile()
    cache = 2 * 2 * batch * 2 * 8 * (time + new - 1) * 4
    assert compiled.memory_analysis().temp_size_in_bytes < 2 * cache


@pytest.mark.parametrize(
    ("tokens", "new", "options", "message"),
    [
        (np.zeros((2, 97), int), 1, {}, "97 tokens exceeds max_position=96"),
        (
            np.zeros((2, 90), int),
            8,
            {},
            "prompt of 90 tokens and max_new_tokens=8 make the model read 97 tokens.*position=96",
        ),
        (np.zeros((2, 3)), 1, {}, "tokens must be an integer array"),
        (np.zeros((0, 3), int), 1, {}, "there are no prompts"),
        (np.zeros((2, 0), int), 1, {}, r"no prompts: tokens has shape \(2, 0\)"),
        (np.zeros((2, 3), int), 0, {}, "max_new_tokens=0 must be at least 1"),
        (np.zeros((2, 3), int), 1, {"eos_id": 48}, r"eos_id=48 is not a token .* 0 \.\.\. 47"),
        (np.zeros((2, 3), int), 1, {"mask": np.ones((3, 2))}, r"mask has shape \(3, 2\), .*\(2, 3"),
        (
            np.zeros((2, 3), int),
            1,
            {"mask": [[1, 1, 1], [1, 0, 1]]},
            "row 1 of the mask has padding between its tokens; a prompt is",
        ),
        (
            np.zeros((2, 3), int),
            1,
            {"mask": [[1, 1, 1], [0, 0, 0]]},
            "row 1 of the mask is padding only; a prompt is",
        ),
    ],
)
def test_what_cannot_be_continued_is_refused(tokens, new, options, message):
    with pytest.raises(ValueError, match=message):
        continue_prompts(model_of(), tokens, new, **options)


def test_prompts_longer_than_the_cache_are_refused():
    with pytest.raises(ValueError, match="capacity=2 cannot hold prompts of 3 tokens"):
        prefill(model_of(), jnp.zeros((1, 3), jnp.int32), jnp.array([3]), 2)


@pytest.mark.slow
@pytest.mark.parametrize("top_p", [0.6, 1.0])
def test_tokens_are_drawn_by_their_probability_among_the_fewest_that_have_top_p(top_p):
    rows, temperature, model = 4000, 0.7, model_of()
    prompt = jnp.asarray(PROMPTS[0], jnp.int32)[None]
    logits = np.asarray(forward(model, prompt)[0, -1], np.float64) / temperature
    expected = np.exp(logits - logits.max())
    expected /= expected.sum()
    order = np.argsort(-expected)
    kept = order[: np.searchsorted(np.cumsum(expected[order]), top_p) + 1]
    assert top_p == 1 or 1 < len(kept) < 48
    nucleus = np.zeros(48)
    nucleus[kept] = expected[kept] / expected[kept].sum()
    tokens = jnp.tile(prompt, (rows, 1))
    drawn = continue_prompts(model, tokens, 1, temperature=temperature, top_p=top_p)
    frequencies = np.bincount(np.asarray(drawn)[:, 0], minlength=48) / rows
    assert (frequencies[nucleus == 0] == 0).all()
    assert np.abs(frequencies - nucleus).max() < 5 * np.sqrt(0.25 / rows)


def draw(seed, temperature=1.0, top_p=1.0):
    tokens, mask = padded("left")
    drawn = continue_prompts(
        model_of(), tokens, NEW, temperature=temperature, top_p=top_p, seed=seed, mask=mask
    )
    return np.asarray(drawn)


def test_draws_are_of_their_key():
    np.testing.assert_array_equal(draw(0), draw(0))
    assert (draw(0) != draw(1)).any()


@pytest.mark.slow
def test_draws_are_in_the_limit_the_most_likely():
    tokens, mask = padded("left")
    likely = continue_prompts(model_of(), tokens, NEW, mask=mask)
    np.testing.assert_array_equal(draw(0, top_p=1e-6), likely)
    np.testing.assert_array_equal(draw(1, temperature=1e-4), likely)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -0.5}, "temperature=-0.5 must be 0 or more"),
        ({"temperature": float("nan")}, "temperature=nan must be 0 or more"),
        ({"temperature": 1.0, "top_p": 1.5}, "top_p=1.5 must"),
    ],
)
def test_what_cannot_be_drawn_by_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        continue_prompts(model_of(), jnp.ones((1, 2), jnp.int32), 1, **options)
