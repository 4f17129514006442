"""`train.py export`: a run's model as a Hugging Face folder."""

import dataclasses

import tyro
from rich.console import Console

from training.checkpoints.pretrained import Weights, open_model, save_model
from training.config.options import Folder
from training.errors import UserError
from training.steps.mesh import make_mesh


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    """Write a run's model and tokenizer as a folder that Hugging Face's libraries read."""

    run: tyro.conf.Positional[Folder]
    """Folder of a run of train.py; its newest checkpoint is taken."""
    folder: tyro.conf.Positional[Folder]
    """Folder to write, which does not exist."""
    weights: Weights = "last"
    """The last ones, or their running average (--ema-decay)."""


def export(config: ExportConfig, console: Console) -> None:
    """Writes the folder, and says so."""
    folder = config.folder
    if folder.exists():
        raise UserError(f"{folder} exists already: give another folder")
    source = open_model(config.run, config.weights)
    model = source.load(make_mesh({"data": 1}))
    save_model(model, source, source.prompt if source.fine_tuned else None, folder)
    console.print(f"wrote {folder}: {source.config.num_layers} layers", highlight=False)
