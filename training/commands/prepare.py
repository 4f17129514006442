"""`train.py prepare`: a corpus tokenised once, by several processes, into memory-mapped arrays.

The arrays hold, bit for bit, the tokens that `pretrain` would make of the same data itself. They
are made in a folder beside `--out`, which gets its name when they are complete.
"""

import dataclasses
import os
from pathlib import Path
from typing import Annotated, Any

from rich.console import Console

from training.config.options import UNSET
from training.data.corpus import describe_differences, describe_split
from training.data.plan import Plan, make_plan
from training.data.token_arrays import (
    is_prepared,
    open_token_arrays,
    read_manifest,
    unfinished,
)
from training.data.tokenization import write_tokens
from training.disk import is_disk_full
from training.errors import DataError, TrainingFailedError, UserError

# Below so many bytes of files, other processes take longer to start than to do the work.
_BYTES_FOR_WORKERS = 2**26
_AGAIN = "What is finished is kept: start the same command again to continue."


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """Tokenise a corpus once into memory-mapped arrays, for --data of the other commands. Started
    again after an interruption, it goes on with what was complete."""

    data: str = "stdlib"
    """What to tokenise: stdlib, a file, a folder or a glob (text, JSON lines or Parquet), or a data
    set as hf:NAME:CONFIG:SPLIT."""
    tokenizer: str = "bytes"
    """bytes, bpe:SIZE (trained on the training part of the data), or the path of a tokenizer.json
    or of a SentencePiece .model file."""
    out: Path = Path("prepared")
    """Folder of the arrays."""
    workers: Annotated[int | None, UNSET] = None
    """Processes that read and tokenise (default: one per core, and one for little text). The result
    does not depend on it."""
    validation_fraction: float = 0.05
    """Share of the documents held out for validation."""
    verify: bool = False
    """Read all arrays again at the end and compare their checksums."""


def prepare(config: PrepareConfig, console: Console) -> dict[str, Any]:
    """Tokenises a corpus, or what is left of it.

    Args:
        config: as given.
        console: for progress.

    Returns:
        The content of the folder's manifest.json.

    Raises:
        UserError: for options, data or a folder that cannot be used; it names the file.
        TrainingFailedError: for a full disk, or a process that died.
    """
    if config.workers is not None and config.workers < 1:
        raise UserError("--workers must be at least 1")
    if Path(config.data).exists() and is_prepared(config.data):
        raise UserError(f"--data {config.data} is prepared already: give the text itself")
    plan = make_plan(config.data, config.tokenizer, config.validation_fraction)
    finished = is_prepared(str(config.out)) and config.out.exists()
    if finished:
        _check_same(config.out, plan)
    else:
        _create(config, plan, console)
    manifest = open_token_arrays(config.out, verify=config.verify).manifest
    console.print(_description(config.out, manifest, finished), highlight=False)
    return manifest


def _check_same(folder: Path, plan: Plan) -> None:
    """Refuses a folder that holds other data, or data prepared otherwise."""
    manifest = read_manifest(folder)
    before = manifest["plan"]
    differences = [
        f"  {name}: {before.get(name)!r} before, {value!r} now"
        for name, value in plan.choices().items()
        if before.get(name) != value
    ]
    differences += filter(None, [describe_differences(manifest["sources"], plan.checksums)])
    if differences:
        raise UserError(
            f"{folder} holds data prepared differently:\n"
            + "\n".join(differences)
            + "\nUse the former options and files, or give another folder with --out."
        )


def _create(config: PrepareConfig, plan: Plan, console: Console) -> None:
    """Makes the arrays in a temporary folder, and renames it."""
    out, temporary = config.out, unfinished(config.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists already and is not prepared data: give another --out")
    try:
        temporary.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {out}: {error.strerror}") from error
    try:
        write_tokens(
            plan,
            temporary,
            workers=config.workers or _default_workers(plan),
            say=lambda text: console.print(text, highlight=False),
            show_progress=console.is_terminal and not console.quiet,
        )
        temporary.rename(out)
    except DataError:
        raise
    # A full disk, or a killed process, in the words of `datasets`.
    except Exception as error:
        if is_disk_full(error):
            raise TrainingFailedError(f"no space left in {out}: free some. {_AGAIN}") from error
        if "abruptly died" in str(error):
            raise TrainingFailedError(
                "a worker process was killed, perhaps for want of memory: use fewer --workers. "
                f"{_AGAIN}"
            ) from error
        raise


def _default_workers(plan: Plan) -> int:
    little = None not in plan.checksums.values() and plan.num_bytes < _BYTES_FOR_WORKERS
    return 1 if little else os.cpu_count() or 1


def _description(folder: Path, manifest: dict[str, Any], finished: bool) -> str:
    """One line for people: what a prepared folder holds."""
    training = manifest["training"]
    done = "was complete already" if finished else "is complete"
    ratio = training["text_bytes"] / training["tokens"]
    return (
        f"{folder} {done}: {describe_split(training)} to train on, "
        f"{describe_split(manifest['validation'])} held out, {ratio:.2f} bytes per token. "
        f"Train with --data {folder} --tokenizer {manifest['tokenizer']['name']}"
    )
