"""The tiny Hugging Face checkpoints, and changed copies of them."""

import functools
import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file, save_file

from models.llama import Llama

DATA = pathlib.Path(__file__).parent / "data" / "hf"
FOLDERS = ["tiny_llama", "tiny_llama_sharded", "tiny_qwen2"]


def golden(name):
    """Tokens, logits, hidden states and continuations of a folder's model, by transformers."""
    return np.load(DATA / f"{name.removesuffix('_sharded')}.npz")


def tensors(folder):
    """Every tensor of a folder."""
    stored = {}
    for path in folder.glob("*.safetensors"):
        stored |= load_file(path)
    return stored


def plain_copy(name, folder):
    """A copy of a folder whose files may be changed."""
    return pathlib.Path(shutil.copytree(DATA / name, folder, copy_function=shutil.copyfile))


def change_fields(folder, **fields):
    """Sets fields of config.json; None removes one."""
    path = folder / "config.json"
    config = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({name: v for name, v in config.items() if v is not None}))


def change_tensors(folder, change):
    """Replaces the tensors of a single-file folder by what ``change`` makes of them."""
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def parameters(model):
    """The model's parameters by path."""
    return flatten_dict(nnx.to_pure_dict(nnx.state(model, nnx.Param)), sep="/")


def random_model(config):
    """A model of NumPy's random numbers: nothing to compile."""
    structure, shapes = nnx.split(nnx.eval_shape(lambda: Llama(config, rngs=nnx.Rngs(0))))
    random = np.random.default_rng(0)
    leaves = jax.tree.map(
        lambda leaf: jnp.asarray(random.normal(size=leaf.shape), leaf.dtype), shapes
    )
    return nnx.merge(structure, leaves)


def forward(model, tokens):
    """Logits; models of one configuration share the compiled program."""
    structure, state = nnx.split(model)
    return _forward(structure, state, tokens)


@functools.partial(jax.jit, static_argnums=0)
def _forward(structure, state, tokens):
    return nnx.merge(structure, state)(tokens)
