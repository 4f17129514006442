"""Models from and to local Hugging Face folders: config.json and safetensors.

``model.layers.3.self_attn.q_proj.weight`` (out, in) there is ``layers/attention/q_proj/kernel[3]``
(in, out) here. Tensors are read one by one into the stacked arrays, and of a sharded array only
the parts of this process's devices: beside the model itself, no more than one stacked parameter
is in memory.
"""

import dataclasses
import functools
import gc
import json
import math
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh, NamedSharding
from jax.typing import DTypeLike

from models.configs import LlamaConfig
from models.huggingface_config import config_fields, read_config
from models.huggingface_tensors import (
    EMBEDDING,
    check_tensors,
    is_stacked,
    is_transposed,
    tensor_names,
    tensor_shapes,
)
from models.llama import Llama
from models.partitioning import partition_specs
from models.safetensors_folder import StoredTensor, open_tensors, write_tensors

TRANSPOSED_ROWS = 32


def load(
    folder: str | os.PathLike[str],
    *,
    dtype: DTypeLike | None = None,
    param_dtype: DTypeLike | None = None,
    mesh: Mesh | None = None,
    remat: bool = False,
) -> Llama:
    """Reads a Llama or Qwen2.

    Args:
      folder: local, with config.json and model.safetensors, or several safetensors files and
        their index.
      dtype: floating dtype to compute in; default: the one that config.json names.
      param_dtype: floating dtype of the parameters; default: ``dtype`` where that is given, else
        each tensor's own.
      mesh: where given, parameters are spread over it as ``models.partitioning`` says.
      remat: see ``LlamaConfig``.

    Returns:
      The model.

    Raises:
      ValueError: a folder that is not complete, not safetensors, or not of a supported model;
        with the file, the tensor or field, what was found, what was expected and the remedy.

    Example::

      model = load("Llama-3.2-1B", dtype="bfloat16", param_dtype="float32")
      logits = model(tokens)
    """
    folder = pathlib.Path(folder)
    config, named_dtype = read_config(folder)
    if param_dtype is None:
        param_dtype = dtype
    with open_tensors(folder) as tensors:
        _, state = _abstract(config)
        check_tensors(tensors, tensor_shapes(_by_path(state)), folder)
        stored_dtype = tensors[EMBEDDING].dtype
        config = dataclasses.replace(
            config,
            dtype=_dtype_name(dtype) or named_dtype or stored_dtype.name,
            param_dtype=_dtype_name(param_dtype) or stored_dtype.name,
            remat=remat,
        )
        for used in (config.dtype, config.param_dtype):
            _check_enabled(used, folder)
        structure, state = _abstract(config)
        parameters = _read_parameters(tensors, state, param_dtype, mesh)
    nnx.replace_by_pure_dict(state, parameters)
    return nnx.merge(structure, state)


def save(
    model: Llama,
    folder: str | os.PathLike[str],
    *,
    max_shard_size: int = 5_000_000_000,
    eos_token_id: int | None = None,
) -> None:
    """Writes a model so that ``load`` and transformers read it, bit by bit the same.

    A model with biases becomes a ``Qwen2ForCausalLM``, any other a ``LlamaForCausalLM``. Every
    tensor keeps its parameter's dtype. config.json comes last: an interrupted save has none.

    Args:
      model: its parameters may be sharded over the devices of this process.
      folder: created if missing; refused if it holds a model.
      max_shard_size: bytes of tensors in one safetensors file; about three times that
        much was seen to be held in memory while saving.
      eos_token_id: the token that ends a text, for config.json.

    Raises:
      ValueError: the folder holds a model already, or a parameter is spread over processes.

    Example::

      save(load("Llama-3.2-1B"), "copy")
    """
    if max_shard_size < 1:
        raise ValueError(f"max_shard_size={max_shard_size} must be a positive number of bytes")
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    held = [*folder.glob("config.json"), *folder.glob("*.safetensors*")]
    if held:
        raise ValueError(f"{folder} holds a model already ({held[0].name}); give another folder")
    parameters = _by_path(nnx.state(model, nnx.Param))
    _check_addressable(parameters)
    sources = {
        name: (path, layer)
        for path, leaf in parameters.items()
        for layer, name in enumerate(tensor_names(path, leaf.shape))
    }

    def read(name: str) -> np.ndarray:
        path, layer = sources[name]
        leaf = parameters[path]
        tensor = np.asarray(leaf[layer] if is_stacked(path) else leaf)
        return tensor.T if is_transposed(path) else tensor

    sizes = {
        name: math.prod(shape) * parameters[sources[name][0]].dtype.itemsize
        for name, shape in tensor_shapes(parameters).items()
    }
    write_tensors(folder, sizes, read, max_shard_size)
    dtype = parameters["embed_tokens/embedding"].dtype.name
    fields = config_fields(model.config, dtype, eos_token_id)
    (folder / "config.json").write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")


def _abstract(config: LlamaConfig) -> tuple[nnx.GraphDef, nnx.State]:
    """Structure and shapes of a model, nothing allocated."""
    return nnx.split(nnx.eval_shape(lambda: Llama(config, rngs=nnx.Rngs(0))))


def _by_path(state: nnx.State) -> dict[str, Any]:
    return flatten_dict(nnx.to_pure_dict(state), sep="/")


def _dtype_name(dtype: DTypeLike | None) -> str | None:
    return None if dtype is None else jnp.dtype(dtype).name


def _read_parameters(
    tensors: dict[str, StoredTensor], state: nnx.State, dtype: DTypeLike | None, mesh: Mesh | None
) -> Any:
    """The parameters of the state's shapes, one after the other, as a pure dict."""
    shapes = nnx.to_pure_dict(state)
    specs = {} if mesh is None else flatten_dict(partition_specs(shapes, mesh), sep="/")
    parameters = {}
    for path, leaf in _by_path(state).items():
        sharding = None if mesh is None else NamedSharding(mesh, specs[path])
        parameter = _read_parameter(tensors, path, leaf.shape, dtype, sharding)
        # Transfers are asynchronous, and JAX lets go of what it has copied at a collection only.
        parameters[path] = parameter.block_until_ready()
        gc.collect(0)
    return unflatten_dict(parameters, sep="/")


def _read_parameter(
    tensors: dict[str, StoredTensor],
    path: str,
    shape: tuple[int, ...],
    dtype: DTypeLike | None,
    sharding: NamedSharding | None,
) -> jax.Array:
    """A parameter, from its tensors' own parts for each device."""
    stored = [tensors[name] for name in tensor_names(path, shape)]
    if dtype is None:
        dtype = functools.reduce(jnp.promote_types, [tensor.dtype for tensor in stored])
    _check_enabled(dtype, stored[0].path)
    parts: dict[Any, np.ndarray] = {}  # devices that hold the same part share it

    def part(index: Any) -> np.ndarray:
        bounds = tuple(i.indices(size)[:2] for i, size in zip(index, shape, strict=True))
        if bounds not in parts:
            parts[bounds] = _read_part(stored, path, bounds, dtype)
        return parts[bounds]

    if sharding is None:
        return jnp.asarray(part((slice(None),) * len(shape)))
    return jax.make_array_from_callback(shape, sharding, part)


def _read_part(
    stored: list[StoredTensor], path: str, bounds: tuple[tuple[int, int], ...], dtype: DTypeLike
) -> np.ndarray:
    """The part between bounds (start, stop) of every axis of a parameter."""
    layers, sides = (bounds[0], bounds[1:]) if is_stacked(path) else ((0, 1), bounds)
    slices = [slice(*side) for side in sides]
    result = np.empty((layers[1] - layers[0], *(stop - start for start, stop in sides)), dtype)
    for row, tensor in zip(result, stored[slice(*layers)], strict=True):
        if is_transposed(path):
            _copy_transposed(tensor.read(*reversed(slices)), row)
        else:
            row[...] = tensor.read(*slices)
    return result if is_stacked(path) else result[0]


def _copy_transposed(source: np.ndarray, target: np.ndarray) -> None:
    """``target[...] = source.T`` in strips that fit the cache, at 2 to 4 times the speed."""
    for start in range(0, len(source), TRANSPOSED_ROWS):
        stop = start + TRANSPOSED_ROWS
        target[:, start:stop] = source[start:stop].T


def _check_enabled(dtype: DTypeLike, path: pathlib.Path) -> None:
    """JAX would silently halve a float64 that it has not been told to use."""
    if jnp.dtype(dtype) == np.float64 and not jax.config.read("jax_enable_x64"):
        raise ValueError(
            f"{path} would be read as float64, which JAX does not use unless told to: give "
            "dtype='float32', or set jax_enable_x64"
        )


def _check_addressable(parameters: dict[str, jax.Array]) -> None:
    for path, leaf in parameters.items():
        if not leaf.is_fully_addressable:
            raise ValueError(
                f"{path} is spread over several processes; gather the parameters in each with "
                "jax.experimental.multihost_utils.process_allgather, and save in one"
            )
