"""Hugging Face's names and shapes of a model's tensors, and whether a folder has them all."""

import pathlib
import re

import jax
import numpy as np

from models.safetensors_folder import StoredTensor

RENAMED = {
    "attention": "self_attn",
    "input_norm": "input_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "kernel": "weight",
    "scale": "weight",
    "embedding": "weight",
}
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
# Stored by early Llamas; the configuration says it already.
IGNORED = re.compile(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq")
LISTED = 4  # names in a message


def is_stacked(path: str) -> bool:
    """Whether a parameter has a leading layer axis."""
    return path.startswith("layers/")


def is_transposed(path: str) -> bool:
    """Whether a parameter is (in, out) here and (out, in) there."""
    return path.endswith("/kernel")


def tensor_names(path: str, shape: tuple[int, ...]) -> list[str]:
    """The names of the tensors that a parameter holds, one a layer if it is stacked.

    Args:
      path: of the parameter, joined by "/".
      shape: of the parameter.

    Example:
      >>> tensor_names("layers/mlp/up_proj/kernel", (2, 64, 96))
      ['model.layers.0.mlp.up_proj.weight', 'model.layers.1.mlp.up_proj.weight']
    """
    parts = [RENAMED.get(part, part) for part in path.split("/")]
    if parts[0] == "lm_head":
        return [".".join(parts)]
    if not is_stacked(path):
        return [".".join(["model", *parts])]
    return [".".join(["model.layers", str(layer), *parts[1:]]) for layer in range(shape[0])]


def tensor_shapes(parameters: dict[str, jax.ShapeDtypeStruct]) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of a model, by name.

    Args:
      parameters: of the model by path, or their shapes.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for path, leaf in parameters.items():
        shape = leaf.shape[1:] if is_stacked(path) else leaf.shape
        shape = shape[::-1] if is_transposed(path) else shape
        shapes |= dict.fromkeys(tensor_names(path, leaf.shape), shape)
    return shapes


def check_tensors(
    tensors: dict[str, StoredTensor],
    expected: dict[str, tuple[int, ...]],
    folder: pathlib.Path,
) -> None:
    """Every tensor of the model is there, with its shape, and no other one.

    Args:
      tensors: of the folder.
      expected: shape of every tensor of the model that its config.json describes.
      folder: for messages.

    Raises:
      ValueError: naming the tensors, what was found and what was expected.
    """
    missing = sorted(expected.keys() - tensors.keys())
    if missing:
        hint = "; should tie_word_embeddings be true in it?" if missing == [HEAD] else ""
        raise ValueError(f"{folder} lacks {_listed(missing)}, of the model in config.json{hint}")
    unexpected = sorted(
        name for name in tensors.keys() - expected.keys() if not IGNORED.fullmatch(name)
    )
    if HEAD in unexpected:
        _check_tied_head(tensors)
        unexpected.remove(HEAD)
    if unexpected:
        raise ValueError(
            f"{folder} holds {_listed(unexpected)}, which the model in config.json does not have; "
            "are both of the same model?"
        )
    for name, shape in expected.items():
        if tensors[name].shape != shape:
            raise ValueError(
                f"{tensors[name].path}: {name} has shape {tensors[name].shape}, expected {shape} "
                "by config.json; are both of the same model?"
            )


def _check_tied_head(tensors: dict[str, StoredTensor]) -> None:
    """A head that is stored although it is tied must be what it is tied to."""
    head, embedding = tensors[HEAD], tensors[EMBEDDING]
    whole = slice(0, None)
    if head.shape != embedding.shape or not np.array_equal(head.read(whole), embedding.read(whole)):
        raise ValueError(
            f"{head.path}: {HEAD} differs from {EMBEDDING}, although config.json has "
            "tie_word_embeddings=true; set that to false, or remove the tensor"
        )


def _listed(names: list[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"{', '.join(names[:LISTED])}{more}"
