"""Models to start from: Hugging Face folders, and runs of `train.py`; and fine-tuned ones to keep.

DIR                     config.json, *.safetensors, tokenizer.json: a Hugging Face model
DIR                     config.json, checkpoints/: a run of `train.py pretrain`
DIR                     config.json, checkpoints/, model/: one of `train.py finetune`; its model
                        beside it model-ema/, if it was trained with --ema-decay
"""

import abc
import contextlib
import dataclasses
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
from etils import epath
from flax import nnx
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from models import huggingface
from models.configs import LlamaConfig
from models.huggingface_config import read_config
from models.llama import Llama
from training.checkpoints.origin import (
    CHECKPOINTS,
    find_origin,
    newest_parameters,
    with_parameters,
)
from training.config.model import ModelOptions, NumberOptions, preset_model
from training.config.options import part
from training.config.record import CONFIG_FILE, recorded_options
from training.data.prompts import Prompt, stored_prompt
from training.data.tokenizers import Tokenizer, stored_tokenizer
from training.distributed import is_first
from training.errors import UserError, as_user_error
from training.files import is_local, move_folder, writing_to

Weights = Literal["last", "ema"]  # of a run: the last step's, or the average of --ema-decay
MODEL: dict[Weights, str] = {"last": "model", "ema": "model-ema"}  # of a fine-tuning run

# Beside the weights in Hugging Face folders: what tokenises, and what generates.
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("tokenizer.model", "vocab.json", "merges.txt", "chat_template.jinja"),
    "generation_config.json",
)


@dataclasses.dataclass(frozen=True)
class PretrainedModel(abc.ABC):
    """A model on disk."""

    folder: epath.Path  # of the model or run
    config: LlamaConfig  # of the model, in the types that it is stored in
    tokenizer: Tokenizer  # that it was trained with
    prompt: Prompt  # that it was fine-tuned with, or how one of its kind is asked
    fine_tuned: bool  # whether `prompt` is what it was fine-tuned with
    document_mask: bool = False  # whether documents did not see each other in its training

    @abc.abstractmethod
    def load(self, mesh: Mesh, dtype: str | None = None, param_dtype: str | None = None) -> Llama:
        """Reads the parameters onto a mesh with any of the axes data, fsdp and tensor, in a type of
        the computation and one of the parameters; default: as stored."""

    @abc.abstractmethod
    def save_tokenizer(self, folder: Path) -> None:
        """Writes the tokenizer's files as they are expected beside a Hugging Face model."""


class HuggingFaceModel(PretrainedModel):
    """A folder of config.json and safetensors."""

    def load(self, mesh: Mesh, dtype: str | None = None, param_dtype: str | None = None) -> Llama:
        with self._on_this_machine() as folder, as_user_error():
            return huggingface.load(folder, mesh=mesh, dtype=dtype, param_dtype=param_dtype)

    def save_tokenizer(self, folder: Path) -> None:
        for name in TOKENIZER_FILES:
            if (self.folder / name).exists():
                (self.folder / name).copy(folder / name)

    @contextlib.contextmanager
    def _on_this_machine(self) -> Iterator[Path]:
        """The folder, or a copy of one in a bucket for as long as it is read."""
        if is_local(self.folder):
            yield Path(self.folder)
            return
        with tempfile.TemporaryDirectory(prefix="lowrank_optax-") as copy:
            for path in self.folder.iterdir():
                if not path.is_dir():
                    path.copy(Path(copy) / path.name)
            yield Path(copy)


@dataclasses.dataclass(frozen=True)
class RunModel(PretrainedModel):
    """The newest checkpoint of a pretraining run."""

    ema_decay: float = 0.0  # of the average to take; 0 for the last weights

    def load(self, mesh: Mesh, dtype: str | None = None, param_dtype: str | None = None) -> Llama:
        params = newest_parameters(self.folder, self.config, mesh, self.ema_decay)
        config = dataclasses.replace(
            self.config,
            dtype=dtype or self.config.dtype,
            param_dtype=param_dtype or self.config.param_dtype,
        )
        with jax.set_mesh(mesh):
            params = jax.tree.map(lambda x: x.astype(config.param_dtype), params)
        return with_parameters(config, params)

    def save_tokenizer(self, folder: Path) -> None:
        self.tokenizer.save(folder)


def open_model(folder: epath.PathLike, weights: Weights = "last") -> PretrainedModel:
    """Looks at the folder of a model or run, without reading its parameters.

    A model, weights or a tokenizer that are missing, cannot be used or do not fit are a `UserError`
    that names the file.
    """
    folder = epath.Path(folder)
    if not folder.is_dir():
        raise UserError(
            f"--model {folder}: there is no such folder. Give a Hugging Face folder (download "
            "one with `hf download NAME --local-dir FOLDER`), or the folder of a run of "
            "`train.py pretrain`"
        )
    is_run = (folder / CHECKPOINTS).is_dir()
    fields = recorded_options(folder) if is_run else {}
    if is_run and not {"model", "preset"} & fields.keys():
        raise UserError(f"{folder / CONFIG_FILE} is not the configuration of a run of train.py")
    ema_decay = fields.get("ema_decay", 0.0) if weights == "ema" else 0.0
    if weights == "ema" and not ema_decay:
        kind = "a run trained without --ema-decay" if is_run else "a Hugging Face model"
        raise UserError(
            f"--weights ema: {folder} is {kind}, and has no average of its weights; leave "
            "--weights out to take those that it has"
        )
    if not is_run:
        return _open_huggingface(folder)
    if "model" not in fields:
        return _open_run(folder, fields, ema_decay)
    if not (folder / MODEL[weights]).is_dir():
        raise UserError(
            f"--model {folder}: this fine-tuning run has not written its model yet; finish it with "
            "`train.py finetune ... --resume`"
        )
    return _open_huggingface(folder / MODEL[weights])


def check_tokenizer(folder: epath.PathLike, tokenizer: Tokenizer) -> None:
    """Checks that the embeddings of a checkpoint (`find_origin`) are those of a tokenizer's
    tokens."""
    before = open_model(find_origin(folder).reader.folder.parent).tokenizer
    if before.checksum != tokenizer.checksum:
        raise UserError(
            f"--init-from {folder}: its tokenizer ({before.name}) is another than this run's "
            f"({tokenizer.name}), so its embeddings are of other tokens: give --tokenizer the "
            "tokenizer.json of that run"
        )


def _open_huggingface(folder: epath.Path) -> HuggingFaceModel:
    with as_user_error():
        config, _ = read_config(folder)
    tokenizer = stored_tokenizer(folder, str(folder))
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(
            f"{folder}: its tokenizer has {tokenizer.vocab_size} tokens and its model only "
            f"{config.vocab_size} (vocab_size in config.json): they do not belong together"
        )
    prompt = stored_prompt(folder)
    return HuggingFaceModel(
        folder=folder,
        config=config,
        tokenizer=tokenizer,
        prompt=prompt or Prompt(prefix_ids=tokenizer.prefix_ids),
        fine_tuned=prompt is not None,
    )


def _open_run(folder: epath.Path, fields: dict[str, Any], ema_decay: float) -> RunModel:
    tokenizer = stored_tokenizer(folder, fields["tokenizer"])
    options, numbers = part(ModelOptions, fields), part(NumberOptions, fields)
    config = preset_model(options, numbers, tokenizer.vocab_size)
    # Texts began with nothing in pretraining.
    return RunModel(
        folder=folder,
        config=config,
        tokenizer=tokenizer,
        prompt=Prompt(),
        fine_tuned=False,
        document_mask=fields.get("document_mask", False),
        ema_decay=ema_decay,
    )


def save_model(
    model: Llama, source: PretrainedModel, prompt: Prompt | None, folder: epath.Path
) -> None:
    """Writes a model, as it is on disk or trained further, as a Hugging Face folder that does not
    exist.

    All processes must call this; the first one writes. The folder appears complete or not at all,
    but for one in a bucket, which has no such thing. The tokenizer is that of `source`; the prompt
    is the one that the model was fine-tuned with, if it was.
    """
    if jax.process_count() > 1:
        structure, state = nnx.split(model)
        whole = multihost_utils.process_allgather(nnx.to_pure_dict(state), tiled=True)
        nnx.replace_by_pure_dict(state, jax.tree.map(jnp.asarray, whole))
        model = nnx.merge(structure, state)
    if not is_first():
        return
    local = is_local(folder)
    temporary = Path(folder.with_name(f"{folder.name}.tmp") if local else tempfile.mkdtemp())
    with writing_to(folder):
        if local and temporary.exists():  # left by an interrupted save
            shutil.rmtree(temporary)
        huggingface.save(model, temporary, eos_token_id=source.tokenizer.eos_id)
        source.save_tokenizer(temporary)
        if prompt is not None:
            prompt.save(temporary)
        move_folder(epath.Path(temporary), folder)
