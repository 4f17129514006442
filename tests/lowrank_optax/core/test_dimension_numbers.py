"""Which leaves are matrices, by name, by shape, by what the user says; and why others are not."""

import re

import jax
import jax.numpy as jnp
import optax
import pytest
from optax.contrib import MuonDimensionNumbers

import lowrank_optax as lro
from lowrank_optax.core.dimension_numbers import resolve
from lowrank_optax.core.names import DEFAULT_EXCLUDE
from lowrank_optax.core.trees import leaf_paths

KERNEL = MuonDimensionNumbers(reduction_axis=0, output_axis=1)
EMBEDDING, NORM, VECTOR = (
    "named as an embedding or head",
    "named as a norm",
    "named as a bias or scale",
)

# Paths as models have them, all of two-dimensional leaves (those of norms and biases where layers
# are stacked), and what they are: None is a matrix.
BY_NAME = {
    # Flax: names that modules get by themselves, and nnx, whose variables have a value
    "params/Embed_0/embedding": EMBEDDING,
    "params/LayerNorm_0/scale": VECTOR,
    "params/Dense_0/kernel": None,
    "params/PreNormBlock_0/mlp/kernel": None,
    "params/PreNormBlock_0/Dense_0/kernel": None,
    "params/MultiHeadDotProductAttention_0/query/bias": VECTOR,
    "params/AdaLayerNorm_0/Dense_0/kernel": None,
    "layers/0/attention/q_proj/kernel/value": None,
    "layers/0/attention/value/kernel/value": None,
    "embed_tokens/embedding/value": EMBEDDING,
    "final_norm/scale/value": VECTOR,
    # Hugging Face
    "transformer/wte/embedding": EMBEDDING,
    "transformer/wpe/embedding": EMBEDDING,
    "transformer/h/0/ln_1/weight": NORM,
    "transformer/h/0/attn/c_attn/kernel": None,
    "transformer/ln_f/weight": NORM,
    "model/embed_tokens/weight": EMBEDDING,
    "model/embed_tokens_per_layer/weight": EMBEDDING,
    "model/layers/0/input_layernorm/weight": NORM,
    "model/layers/0/self_attn/q_norm/weight": NORM,
    "model/layers/0/self_attn/o_proj/kernel": None,
    "model/norm/weight": NORM,
    "lm_head/kernel": EMBEDDING,
    "lm_head/dense/kernel": None,
    "lm_head/decoder/kernel": EMBEDDING,
    "bert/embeddings/word_embeddings/embedding": EMBEDDING,
    "bert/embeddings/token_type_embeddings/weight": EMBEDDING,
    "bert/embeddings/LayerNorm/weight": NORM,
    "bert/encoder/layer/0/attention/output/dense/kernel": None,
    "encoder/embedding_hidden_mapping_in/kernel": None,
    "electra/embeddings_project/kernel": None,
    "encoder/embed_positions/embedding": EMBEDDING,
    "encoder/block/0/layer/0/SelfAttention/relative_attention_bias/weight": VECTOR,
    "shared/embedding": EMBEDDING,
    "classifier/kernel": EMBEDDING,
    "gpt_neox/embed_in/weight": EMBEDDING,
    "embed_out/weight": EMBEDDING,
    "vocab_projector/kernel": EMBEDDING,
    "vit/encoder/layer/0/layernorm_before/weight": NORM,
    # MaxText, Gemma, big_vision, nanodo, Levanter
    "params/token_embedder/embedding": EMBEDDING,
    "params/decoder/logits_dense/kernel": EMBEDDING,
    "params/decoder/layers/pre_self_attention_layer_norm/scale": VECTOR,
    "params/decoder/layers_0/mlp/wi_0/kernel": None,
    "embedder/input_embedding": EMBEDDING,
    "layer_0/mlp/linear": None,
    "layer_0/pre_attention_norm/scale": VECTOR,
    "Transformer/posembed_input/pos_embedding": EMBEDDING,
    "Transformer/encoder_norm/weight": NORM,
    "head/kernel": EMBEDDING,
    "pos_embed/embedding": EMBEDDING,
    "blocks_0/Mlp_0/Dense_0/kernel": None,
    "embeddings/token_embeddings/weight/array": EMBEDDING,
    "transformer/layers/stacked/ln_1/weight/array": NORM,
    # Equinox and torch's names
    "tok_embeddings/weight": EMBEDDING,
    "token_embedding/weight": EMBEDDING,
    "position_embeddings/weight": EMBEDDING,
    "token_embedding_table/weight": EMBEDDING,
    "layers/0/attention_norm/weight": NORM,
    "layers/0/norm1/weight": NORM,
    "layers/0/norm_2/weight": NORM,
    "norms/3/weight": NORM,
    "rmsnorm/weight": NORM,
    "norm_f/weight": NORM,
    "layers/0/norm1/linear/weight": None,
    "output_head/weight": EMBEDDING,
    "value_head/weight": EMBEDDING,
    "unembed/weight": EMBEDDING,
    "patch_embed/proj/weight": None,
    # Haiku
    "transformer/~/embed/embeddings": EMBEDDING,
    "transformer/~/layer_norm_1/scale": VECTOR,
    "mlp/~/linear_0/w": None,
    # Words inside of other words, heads of attention, whatever is only in such a module
    "normalizing_flow/dense/kernel": None,
    "normalizer/kernel": None,
    "member/kernel": None,
    "attention/head_0/kernel": None,
    "attention/heads/kernel": None,
    "Head_0/Dense_0/kernel": None,
    "classifier/hidden/kernel": None,
    "time_embedding/linear_1/kernel": None,
    "output/kernel": None,
    "lnear/kernel": None,
    # No name at all
    "kernel": None,
    "0": None,
    "": None,
}


def nested(path, leaf):
    """A tree with one leaf at a path."""
    for key in reversed(path.split("/") if path else []):
        leaf = {key: leaf}
    return leaf


def why(params, dimension_numbers=None):
    """Path to reason, None for a matrix."""
    numbers, reasons = resolve(params, dimension_numbers)
    assert [number is None for number in numbers] == [reason != "" for reason in reasons]
    paths = leaf_paths(params)
    return {path: reason or None for path, reason in zip(paths, reasons, strict=True)}


@pytest.mark.parametrize("path", BY_NAME)
def test_the_default_mask_goes_by_the_whole_name_of_what_owns_the_leaf(path):
    params = nested(path, jax.ShapeDtypeStruct((4, 4), jnp.float32))
    assert why(params) == {path: BY_NAME[path]}
    (number,) = jax.tree.leaves(
        lro.matrix_dimension_numbers(params), is_leaf=lambda x: not isinstance(x, dict)
    )
    assert number == (None if BY_NAME[path] else KERNEL)


def test_a_shape_says_why_a_leaf_is_no_matrix():
    shapes = {
        "b": (3,),
        "empty": (0, 3),
        "experts": (2, 3, 4),
        "heads": (2, 3, 4, 5),
        "pos_embedding": (1, 3, 4),
        "s": (),
        "w": (2, 3),
    }
    params = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    assert why(params) == {
        "b": "1-D",
        "empty": "empty",
        "experts": "3-D: name its axes in dimension_numbers",
        "heads": "4-D: name its axes in dimension_numbers",
        "pos_embedding": EMBEDDING,
        "s": "scalar",
        "w": None,
    }
    assert why(params, lro.matrix_dimension_numbers) == why(params)


@pytest.mark.parametrize(
    "form",
    [
        {"b": None, "empty": KERNEL, "w": KERNEL, "x": None},
        lambda _: {"b": None, "empty": KERNEL, "w": KERNEL, "x": None},
        [("^(empty|w)$", KERNEL), ("^x$", None)],
    ],
    ids=["tree", "callable", "pairs"],
)
def test_what_the_user_excludes_is_said_to_be(form):
    shapes = {"b": (3,), "empty": (0, 3), "w": (2, 3), "x": (2, 3)}
    params = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    excluded = "excluded by dimension_numbers"
    assert why(params, form) == {"b": "1-D", "empty": "empty", "w": None, "x": excluded}


def test_a_leaf_that_no_pattern_matches_is_told_from_one_that_is_excluded():
    params = {name: jnp.zeros((2, 3)) for name in ("a", "b", "c")}
    assert why(params, [("a", KERNEL), ("b", None)]) == {
        "a": None,
        "b": "excluded by dimension_numbers",
        "c": "matched by no pattern of dimension_numbers",
    }


def test_exclude_is_matched_whole_or_with_a_slash_searched_in_the_path():
    leaf = jnp.zeros((2, 3))
    params = {
        "encoder": {"router": {"kernel": leaf}, "router_mlp": {"kernel": leaf}},
        "wte": {"embedding": leaf},
    }

    def matrices(exclude):
        mask = lro.matrix_dimension_numbers(params, exclude)
        is_number = lambda node: node is None or isinstance(node, MuonDimensionNumbers)
        numbers = jax.tree.leaves(mask, is_leaf=is_number)
        return [p for p, n in zip(leaf_paths(params), numbers, strict=True) if n is not None]

    router, router_mlp, wte = leaf_paths(params)
    assert matrices(DEFAULT_EXCLUDE) == [router, router_mlp]
    assert matrices("router") == [router_mlp, wte]
    assert matrices("encoder") == [router, router_mlp, wte]
    assert matrices("^encoder/") == [wte]
    assert matrices("r/kernel") == [router_mlp, wte]
    assert matrices("") == matrices("^$") == [router, router_mlp, wte]
    assert matrices(DEFAULT_EXCLUDE + "|router") == [router_mlp]


def test_a_bad_expression_is_explained():
    with pytest.raises(ValueError, match=re.escape("exclude '(' is not a regular expression")):
        lro.matrix_dimension_numbers({}, "(")


@pytest.mark.parametrize("dtype", ["complex64", "int32"])
def test_what_does_not_hold_real_floating_numbers_is_no_matrix_by_default(dtype):
    assert why({"w": jnp.ones((4, 5), dtype)})["w"] == f"{dtype}: not real floating numbers"


# Every way to hand patterns over, each with a part of the tree masked by someone else.
PATTERNS = [("^w1$", KERNEL), ("^w2$", KERNEL), ("^b$", None)]
METHODS = {
    name: getattr(lro, name)
    for name in (
        "dct_adamw",
        "dion",
        "fira",
        "frugal",
        "galore",
        "golore",
        "ldadamw",
        "online_subspace_descent",
        "trion",
    )
}
ENTRIES = {
    name: lambda numbers, make=make: make(0.1, 2, dimension_numbers=numbers)
    for name, make in METHODS.items()
} | {
    "low_rank": lambda numbers: lro.low_rank(0.1, 2, dimension_numbers=numbers),
    "scale_by_trion": lambda numbers: lro.scale_by_trion(2, dimension_numbers=numbers),
    "scale_by_dion": lambda numbers: lro.scale_by_dion(2, dimension_numbers=numbers),
    "scale_by_low_rank": lambda numbers: lro.scale_by_low_rank(
        optax.scale_by_adam(), lro.projections.dct(2), dimension_numbers=numbers
    ),
}
ONLY_W1 = {"b": False, "w1": True, "w2": False}
WRAPPERS = {
    "masked": lambda tx: optax.masked(tx, ONLY_W1),
    "partition": lambda tx: optax.partition({True: tx, False: optax.set_to_zero()}, ONLY_W1),
    "masked inside a mask": lambda tx: optax.masked(
        optax.masked(tx, ONLY_W1), {"b": False, "w1": True, "w2": True}
    ),
}


def parameters():
    return {"b": jnp.ones(5), "w1": jnp.ones((4, 5)), "w2": jnp.ones((4, 5))}


@pytest.mark.product(every=4)
@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
@pytest.mark.parametrize("make", ENTRIES.values(), ids=ENTRIES)
def test_patterns_may_be_about_what_is_masked(make, wrap):
    tx, params = wrap(make(PATTERNS)), parameters()
    state = jax.eval_shape(tx.init, params)
    updates, _ = jax.eval_shape(tx.update, params, state, params)
    assert updates["w1"].shape == (4, 5)


@pytest.mark.parametrize("make", ENTRIES.values(), ids=ENTRIES)
def test_where_nothing_is_masked_a_pattern_must_match_something(make):
    tx = make([*PATTERNS, ("^w3$", KERNEL)])
    with pytest.raises(ValueError, match=r"'\^w3\$' matches no parameter; the paths are b, w1, w2"):
        jax.eval_shape(tx.init, parameters())


def test_two_patterns_for_one_leaf_are_refused_under_a_mask_too():
    tx = optax.masked(lro.trion(0.1, 2, dimension_numbers=[*PATTERNS, ("w", None)]), ONLY_W1)
    with pytest.raises(ValueError, match=r"w1 is matched by two .* exclusive"):
        tx.init(parameters())


def test_a_pattern_may_be_about_a_leaf_that_is_none():
    params = parameters() | {"w2": None}
    assert why(params, PATTERNS)["w1"] is None
    with pytest.raises(ValueError, match=r"'\^w3\$' matches no parameter"):
        why(params, [*PATTERNS, ("^w3$", KERNEL)])
