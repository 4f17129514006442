"""`train.py prepare`: a corpus tokenised once, by all cores, into memory-mapped arrays.

The arrays hold, bit for bit, the tokens that `pretrain` would make of the same data itself. They
are made in a folder beside `--out`, which gets its name when they are complete.
"""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

from rich.console import Console

from training.config.options import LocalPath
from training.config.ranges import check_ranges
from training.data.changes import changed_values, describe_differences
from training.data.corpus import open_tokens
from training.data.token_arrays import describe_manifest, is_prepared, read_manifest
from training.data.tokenization import Plan, make_plan, write_tokens
from training.errors import TrainingFailedError, UserError
from training.files import is_disk_full, writing_to


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """Tokenise a corpus once into memory-mapped arrays, for --data of the other commands. Started
    again after an interruption, it starts over."""

    data: str = "stdlib"
    """What to tokenise: stdlib, a file, a folder or a glob (text, JSON lines or Parquet), or a data
    set as hf:NAME:CONFIG:SPLIT."""
    tokenizer: str = "bytes"
    """bytes, bpe:SIZE (trained on the training part of the data), or the path of a tokenizer.json
    or of its folder."""
    out: LocalPath = Path("prepared")
    """Folder of the arrays."""
    validation_fraction: float = 0.05
    """Share of the documents held out for validation."""
    verify: bool = False
    """Read all arrays again at the end and compare their checksums."""


def prepare(config: PrepareConfig, console: Console) -> dict[str, Any]:
    """Tokenises a corpus, unless that is done already; returns the content of its manifest.json."""
    if is_prepared(config.data):
        raise UserError(f"--data {config.data} is prepared already: give the text itself")
    check_ranges(vars(config))
    plan = make_plan(config.data, config.tokenizer, config.validation_fraction)
    finished = is_prepared(str(config.out))
    if finished:
        _check_same_data(config.out, plan)
    else:
        _create(config, plan, console)
    tokens = open_tokens(config.out, verify=config.verify)
    done = "was complete already" if finished else "is complete"
    ratio = tokens.num_bytes("training") / len(tokens.training)
    console.print(
        f"{config.out} {done}: {describe_manifest(tokens.manifest)}, {ratio:.2f} bytes per token. "
        f"Train with --data {config.out} --tokenizer {tokens.tokenizer.name}",
        highlight=False,
    )
    return dict(tokens.manifest)


def _check_same_data(folder: Path, plan: Plan) -> None:
    """Refuses a folder that holds other data, or data prepared otherwise."""
    manifest = read_manifest(folder)
    differences = changed_values(manifest["plan"], plan.choices())
    differences += filter(None, [describe_differences(manifest["sources"], plan.checksums)])
    if differences:
        raise UserError(
            f"{folder} holds data prepared differently:\n"
            + "\n".join(differences)
            + "\nUse the former options and files, or give another folder with --out."
        )


def _create(config: PrepareConfig, plan: Plan, console: Console) -> None:
    """Makes the arrays in a temporary folder, and renames it."""
    out = config.out.absolute()
    temporary = out.with_name(out.name + ".unfinished")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists already and is not prepared data: give another --out")
    with writing_to(out):
        if temporary.exists():  # of a preparation that was killed
            shutil.rmtree(temporary)
        temporary.mkdir(parents=True)
    try:
        write_tokens(plan, temporary, console=console)
        temporary.rename(out)
    except OSError as error:
        if not is_disk_full(error):
            raise
        raise TrainingFailedError(
            f"no space left in {out}: free some, and start the same command again."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
