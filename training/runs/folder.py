"""A run's folder and its config.json: free for a new run, of the same run for a resumed one."""

import dataclasses
from pathlib import Path
from typing import Any

from training.config.pretraining import RESUMABLE_OPTIONS, Hyperparameters, PretrainConfig, to_json
from training.runs.distributed import is_first
from training.errors import UserError
from training.checkpoints.history import BEFORE, read_config
from training.steps.spikes import SpikeOptions
from training.data.token_arrays import write_json

# Options that --reset-optimizer and --convert-optimizer may change.
OPTIMIZER_OPTIONS = (
    "optimizer",
    "rank",
    "learning_rate",
    "fallback_learning_rate",
    "schedule",
    "steps",
    "warmup_steps",
    "final_learning_rate_ratio",
    "weight_decay",
    "clip_norm",
    "rounding",
    *(field.name for field in dataclasses.fields(Hyperparameters)),
    *(field.name for field in dataclasses.fields(SpikeOptions)),
)


def check_run_folder(config: PretrainConfig, checksum: str) -> None:
    """Checks that a new run's folder is free, or that a resumed one's configuration is the same.

    Writes nothing, so that a run that fails to start leaves nothing behind.

    Raises:
        UserError: if a new run's folder is in use, if there is no run to resume, or if its
            configuration differs.
    """
    folder = config.out
    if config.resume:
        saved = read_config(folder)
        if not saved:
            raise UserError(f"--resume: there is no run in {folder} (no config.json)")
        _check_same(config, saved, to_json(config, checksum))
    elif folder.exists() and not _is_free(folder):
        raise UserError(
            f"{folder} exists already: continue that run with --resume, "
            "or give another folder with --out"
        )


def _is_free(folder: Path) -> bool:
    """Whether nothing is there but what a run leaves that is killed as it writes config.json."""
    return folder.is_dir() and {path.name for path in folder.iterdir()} <= {"config.tmp"}


def create_run_folder(
    config: PretrainConfig, checksum: str, before: list[dict[str, Any]] | None = None
) -> None:
    """Creates the run's folder, if it is a new one, with its config.json; the first process does.

    Args:
        config: of the run now.
        checksum: of its data.
        before: its former configurations.

    Raises:
        UserError: if it cannot be written.
    """
    content = to_json(config, checksum) | ({BEFORE: before} if before else {})
    if not is_first():
        return
    try:
        config.out.mkdir(parents=True, exist_ok=True)
        write_json(config.out / "config.json", content)
    except OSError as error:
        raise UserError(f"cannot write to {config.out}: {error.strerror}") from error


def differing_options(saved: dict[str, Any], current: dict[str, Any]) -> list[str]:
    """The options by which a run would not be the same any more.

    Args:
        saved: content of its config.json. An option that is not in there was not known then, and
            had its default.
        current: what `to_json` gives now.
    """
    ignored = {*RESUMABLE_OPTIONS, BEFORE}
    if saved.get("schedule") == current["schedule"] == "constant":
        ignored.add("steps")  # a constant rate does not depend on where the run ends
    if current.get("allow_changed_data"):
        ignored.add("data_checksum")
    saved = to_json(PretrainConfig(), "") | saved
    return [
        key
        for key in sorted(saved.keys() | current.keys())
        if key not in ignored and saved.get(key) != current.get(key)
    ]


def _check_same(config: PretrainConfig, saved: dict[str, Any], current: dict[str, Any]) -> None:
    """Refuses another configuration than the saved one, or than may be had with --reset-optimizer.

    Raises:
        UserError: listing each differing option with its old and new value, and what to do.
    """
    differing = differing_options(saved, current)
    others = [key for key in differing if key not in OPTIMIZER_OPTIONS]
    if not (others if config.change.asked else differing):
        return
    lines = [f"  {key}: {saved.get(key)!r} before, {current.get(key)!r} now" for key in differing]
    remedy = "Use the former values, or start a new run with another --out."
    if not others:
        remedy = (
            "Use the former values, or start a new run with another --out; or keep the parameters, "
            "step and position in the data under the new ones: --reset-optimizer begins a new "
            "optimizer state, --convert-optimizer keeps what it has in common with the old."
        )
    raise UserError(
        f"cannot resume {config.out}: its configuration differs in\n"
        + "\n".join(lines)
        + f"\n{remedy}"
    )
